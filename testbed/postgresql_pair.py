"""Two PostgreSQL servers that stand for one: what an installation without a gap has."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from testbed.postgresql import PostgreSql
from testbed.postgresql_standby import Standby, either
from testbed.proxy import Proxy
from testbed.startable import Startable


class PostgreSqlPair(Startable):
    """A primary, and a standby that has every acknowledged write; clients see both by proxies.

    Attributes:
        primary: The server that takes writes until :meth:`fail_over`.
        standby: The one that takes them from then on.
    """

    def __init__(self, directory: Path) -> None:
        """Choose ports without starting anything.

        Args:
            directory: For data, password files and logs.

        Raises:
            ControlPlaneError: PostgreSQL is not installed.
        """
        self.primary = PostgreSql(directory / "primary", name="primary")
        self.standby = Standby(self.primary, directory / "standby")
        self._proxies = (Proxy(self.primary.port), Proxy(self.standby.port))
        self._running = ExitStack()

    @property
    def connection(self) -> str:
        """The connection string of keyplane's database on both, without the password."""
        return either(*(proxy.port for proxy in self._proxies))

    @property
    def password_file(self) -> Path:
        """File with the password of keyplane's role."""
        return self.primary.password_file

    def start(self) -> None:
        """Start both and their proxies, and wait until the standby follows."""
        with ExitStack() as starting:
            for part in (self.primary, self.standby, *self._proxies):
                starting.enter_context(part)
            self.standby.be_awaited()
            self._running = starting.pop_all()

    def stop(self) -> None:
        """Stop all of it."""
        self._running.close()

    def cut(self) -> int:
        """End every connection at once.

        Returns:
            How many there were.
        """
        return sum(proxy.cut() for proxy in self._proxies)

    def stall(self) -> None:
        """Swallow every byte from now on, as a network that drops packets does."""
        for proxy in self._proxies:
            proxy.stall()

    def resume(self) -> None:
        """Pass bytes on again; connections that lost some are cut."""
        for proxy in self._proxies:
            proxy.resume()

    def fail_over(self) -> None:
        """Kill the primary for good, and have the standby take its place."""
        self.primary.kill()
        self.standby.promote()
