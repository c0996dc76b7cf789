"""A PostgreSQL server of Debian's package, with its data in a directory of its own.

It listens on the loopback address only, asks every connection for a password (SCRAM), and
sorts text by the rules of a language where the server can (15 and newer), as many
installations do: a program that counts on the order of bytes is found out.
"""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from testbed.errors import ControlPlaneError
from testbed.loopback import HOST, free_port
from testbed.postgresql_programs import Programs, obstacle
from testbed.processes import ChildProcess
from testbed.startable import Startable
from testbed.unprivileged import children_of, is_alive, write_secret
from testbed.waiting import wait_until

__all__ = ["ADMIN", "USER", "PostgreSql", "obstacle"]

USER: Final = "keyplane"
"""The role that keyplane logs in as; it owns its databases and nothing else."""

ADMIN: Final = "postgres"
"""The role that made the server; also the database that is always there."""

_START_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 15.0

_SETTINGS: Final = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    # The data need not survive a power cut; the death of every process they do survive.
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "shared_preload_libraries": "pg_stat_statements",
    "wal_keep_size": "64MB",
    # A standby finds its primary again at once, and not within five seconds.
    "wal_retrieve_retry_interval": "200ms",
}


class PostgreSql(Startable):
    """One server with one role and one database for keyplane.

    Attributes:
        name: What people call it; a standby is known to its primary by it.
        port: Its TCP port on the loopback address.
        password_file: File with the password of :data:`USER`, mode 0600.
        admin_password_file: The same of :data:`ADMIN`.
    """

    def __init__(self, directory: Path, *, name: str = "postgresql") -> None:
        """Choose its port without starting anything.

        Args:
            directory: For data, password files and log.
            name: Letters only; also the stem of the log file's name.

        Raises:
            ControlPlaneError: PostgreSQL is not installed.
        """
        self.name = name
        self.port = free_port()
        self.password_file = directory / "password"
        self.admin_password_file = directory / "admin.password"
        self._programs = Programs.newest()
        self._data = directory / "data"
        settings = {**_SETTINGS, "port": str(self.port), "cluster_name": name}
        self._process = ChildProcess(
            name,
            self._programs.server(self._data, settings),
            directory=directory,
            environment=self._programs.environment,
        )

    @property
    def connection(self) -> str:
        """The connection string of keyplane's database, without the password."""
        return self.connection_to(USER)

    def connection_to(self, database: str, *, through: int | None = None) -> str:
        """Tell the connection string of a database, without the password.

        Args:
            database: Its name; it need not exist.
            through: The port of a proxy in front of the server; None is the server's own.
        """
        return make_conninfo(host=HOST, port=through or self.port, user=USER, dbname=database)

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process.is_running

    def start(self) -> None:
        """Start it and wait until it answers; the first start makes its data.

        Raises:
            ControlPlaneError: The data could not be made.
            ProcessDiedError: It ended instead.
            DeadlineExceededError: It did not answer within 30 s.
        """
        is_new = not self._data.exists()
        if is_new:
            self._make_data()
        self._process.start()
        self._process.wait_until(
            self._answers, what=f"{self.name} answers", within_seconds=_START_SECONDS
        )
        if is_new:
            self._furnish()

    def stop(self) -> None:
        """Stop it, and break its connections; the data stay.

        Raises:
            DeadlineExceededError: It did not end within 15 s, and was killed.
        """
        try:
            if self._process.process_id is not None and self._process.is_running:
                self.thaw()
                os.kill(self._process.process_id, signal.SIGINT)
                self._process.wait_for_exit(within_seconds=_STOP_SECONDS)
        finally:
            self._process.stop()

    def kill(self) -> None:
        """End all its processes at once by SIGKILL; what was committed stays."""
        first = self._process.process_id
        if first is None:
            return
        # A stopped one begins no other while its children are counted and killed.
        os.kill(first, signal.SIGSTOP)
        children = children_of(first)
        for child in children:
            _send(child, signal.SIGKILL)
        self._process.kill()
        wait_until(
            lambda: not any(is_alive(child) for child in children),
            what=f"all processes of {self.name} are gone",
            within_seconds=_STOP_SECONDS,
        )

    def restart(self) -> None:
        """Stop it when it runs, and start it on the same data and port."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Stop all its processes where they are: connections stay, and nobody answers."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on after :meth:`freeze`."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        first = self._process.process_id
        if first is None:
            raise ControlPlaneError(f"{self.name} does not run.")
        for process in (first, *children_of(first)):
            _send(process, number)

    def create_database(self, name: str, *, template: str = "template1") -> str:
        """Make a database that keyplane owns.

        Args:
            name: Letters, digits and underscores.
            template: The database that it begins as a copy of; nobody may be in that one.

        Returns:
            Its connection string, without the password.
        """
        self.ask(
            sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {}").format(
                sql.Identifier(name), sql.Identifier(USER), sql.Identifier(template)
            )
        )
        return self.connection_to(name)

    def drop_database(self, name: str) -> None:
        """Remove a database, and end the connections to it."""
        self.ask(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def ask(
        self,
        statement: str | sql.Composed,
        *,
        values: Sequence[object] = (),
        database: str = ADMIN,
    ) -> list[tuple[Any, ...]]:
        """Run one statement as the administrator, outside of a transaction block.

        Args:
            statement: SQL with ``%s`` for each value.
            values: As many as the statement names.
            database: Where to run it.

        Returns:
            The rows; empty for a statement that has none.

        Raises:
            psycopg.Error: The server refused it, or did not answer.
        """
        with self._connect(database) as connection:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def _connect(self, database: str) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(
            host=HOST,
            port=self.port,
            user=ADMIN,
            dbname=database,
            password=self.admin_password_file.read_text(encoding="ascii").strip(),
            connect_timeout=5,
            autocommit=True,
        )

    def set_password(self, password: str) -> None:
        """Give keyplane's role another password, and write that into the file."""
        change = sql.SQL("ALTER ROLE {} PASSWORD {}")
        self.ask(change.format(sql.Identifier(USER), sql.Literal(password)))
        write_secret(self.password_file, password)

    def _answers(self) -> bool:
        try:
            return self.ask("SELECT 1") == [(1,)]
        except psycopg.OperationalError:
            return False

    def _make_data(self) -> None:
        for file in (self.password_file, self.admin_password_file):
            write_secret(file, secrets.token_hex(16))
        self._programs.make_data(self._data, ADMIN, self.admin_password_file)

    def _furnish(self) -> None:
        """Make what new data lack."""
        self.ask(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(USER)))
        self.set_password(self.password_file.read_text(encoding="ascii").strip())
        self.ask("CREATE EXTENSION pg_stat_statements")
        self.create_database(USER)


def _send(process: int, number: signal.Signals) -> None:
    # Children end by themselves too, at any moment.
    with suppress(ProcessLookupError):
        os.kill(process, number)
