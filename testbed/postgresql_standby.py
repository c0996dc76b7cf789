"""A PostgreSQL server that follows another one, until it takes its place."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from psycopg import sql
from psycopg.conninfo import make_conninfo

from testbed.errors import ControlPlaneError
from testbed.loopback import HOST
from testbed.postgresql import ADMIN, USER, PostgreSql
from testbed.unprivileged import write_secret
from testbed.waiting import wait_until

_FOLLOW_SECONDS: Final = 30.0


class Standby(PostgreSql):
    """A copy of a server with its roles and passwords, which takes no writes yet."""

    def __init__(self, primary: PostgreSql, directory: Path, *, name: str = "standby") -> None:
        """Choose its port; the first start copies the data.

        Args:
            primary: The server to follow, which must run at the first start.
            directory: For its data, password files and log.
            name: Letters only; its primary knows it by this name.

        Raises:
            ControlPlaneError: PostgreSQL is not installed.
        """
        super().__init__(directory, name=name)
        self._primary = primary

    def be_awaited(self) -> None:
        """Have the primary acknowledge no commit from now on that this server does not have.

        Raises:
            DeadlineExceededError: This server does not follow.
        """
        primary = self._primary
        name = sql.Literal(self.name)
        primary.ask(sql.SQL("ALTER SYSTEM SET synchronous_standby_names = {}").format(name))
        primary.ask("SELECT pg_reload_conf()")
        wait_until(
            lambda: primary.ask("SELECT sync_state FROM pg_stat_replication") == [("sync",)],
            what=f"{self.name} follows {primary.name}",
            within_seconds=_FOLLOW_SECONDS,
        )

    def promote(self) -> None:
        """Become a primary, and wait until it takes writes.

        Raises:
            ControlPlaneError: It did not become one within 30 s.
        """
        if self.ask("SELECT pg_promote(true, 30)") != [(True,)]:
            raise ControlPlaneError(f"{self.name} did not become a primary.")

    def _make_data(self) -> None:
        for source, copy in (
            (self._primary.password_file, self.password_file),
            (self._primary.admin_password_file, self.admin_password_file),
        ):
            write_secret(copy, source.read_text(encoding="ascii").strip())
        origin = make_conninfo(
            host=HOST, port=self._primary.port, user=ADMIN, application_name=self.name
        )
        self._programs.copy_data(self._data, origin, self.admin_password_file)

    def _furnish(self) -> None:
        """Do nothing: it has what its primary has."""


def either(*ports: int, database: str = USER) -> str:
    """Tell the connection string for servers of which one takes writes.

    Args:
        ports: Of the servers, or of proxies in front of them.
        database: Which one of theirs.
    """
    return make_conninfo(
        host=",".join([HOST] * len(ports)),
        port=",".join(map(str, ports)),
        user=USER,
        dbname=database,
        target_session_attrs="read-write",
    )
