"""A PostgreSQL server of Debian's package, with its data in a directory of its own.

It listens on the loopback address only, asks every connection for a password (SCRAM), and
sorts text by the rules of a language where the server can (15 and newer), as many
installations do: a program that counts on the order of bytes is found out.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from testbed.errors import ControlPlaneError
from testbed.loopback import HOST, free_port
from testbed.processes import ChildProcess
from testbed.startable import Startable
from testbed.unprivileged import (
    children_of,
    give_away,
    is_alive,
    make_directory,
    unprivileged,
    write_secret,
)
from testbed.waiting import wait_until

USER: Final = "keyplane"
"""The role that keyplane logs in as; it owns its databases and nothing else."""

_ADMIN: Final = "postgres"
_INSTALLATIONS: Final = Path("/usr/lib/postgresql")
_ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}

_ICU_SINCE: Final = 15
_START_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 15.0
_COPY_SECONDS: Final = 60.0

_SETTINGS: Final = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    # The data need not survive a power cut; the death of every process they do survive.
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "shared_preload_libraries": "pg_stat_statements",
    "wal_keep_size": "64MB",
}


def obstacle() -> str:
    """Tell why no server can run on this machine; empty when one can."""
    return "" if _programs() else "PostgreSQL is not installed; run: scripts/bootstrap tests"


class PostgreSql(Startable):
    """One server with one role and one database for keyplane.

    Attributes:
        name: What people call it; a standby is known to its primary by it.
        port: Its TCP port on the loopback address.
        password_file: File with the password of :data:`USER`, mode 0600.
    """

    def __init__(self, directory: Path, *, name: str = "postgresql") -> None:
        """Choose its port without starting anything.

        Args:
            directory: For data, password files and log.
            name: Letters only; also the stem of the log file's name.

        Raises:
            ControlPlaneError: PostgreSQL is not installed.
        """
        programs = _programs()
        if programs is None:
            raise ControlPlaneError(obstacle())
        self.name = name
        self.port = free_port()
        self.password_file = directory / "password"
        self._programs = programs
        self._directory = directory
        self._admin_password_file = directory / "admin.password"
        self._data = directory / "data"
        self._process = ChildProcess(
            name,
            (*unprivileged(), programs / "postgres", "-D", self._data, *self._options()),
            directory=directory,
            environment=_ENVIRONMENT,
        )

    def _options(self) -> Sequence[str]:
        settings = {**_SETTINGS, "port": str(self.port), "cluster_name": self.name}
        return [f"--{name}={value}" for name, value in settings.items()]

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
            self._make_role()
            self.create_database(USER)

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
        database: str = _ADMIN,
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
            user=_ADMIN,
            dbname=database,
            password=self._admin_password_file.read_text(encoding="ascii").strip(),
            connect_timeout=5,
            autocommit=True,
        )

    def standby(self, directory: Path, *, name: str = "standby") -> PostgreSql:
        """Make a server that follows this one, which must run; it is not started.

        Args:
            directory: For its data and log.
            name: What people call it; letters only.

        Raises:
            ControlPlaneError: The data could not be copied.
        """
        copy = PostgreSql(directory, name=name)
        for source, target in (
            (self.password_file, copy.password_file),
            (self._admin_password_file, copy._admin_password_file),
        ):
            write_secret(target, source.read_text(encoding="ascii").strip())
        origin = make_conninfo(
            host=HOST,
            port=self.port,
            user=_ADMIN,
            application_name=name,
            passfile=str(_pass_file(copy._admin_password_file)),
        )
        make_directory(copy._data)
        self._run("pg_basebackup", "--write-recovery-conf", "--checkpoint=fast", "--no-sync",
                  f"--pgdata={copy._data}", f"--dbname={origin}")  # fmt: skip
        return copy

    def acknowledge_after(self, standby: PostgreSql) -> None:
        """Acknowledge no commit from now on that a running standby does not have.

        Raises:
            DeadlineExceededError: The standby does not follow.
        """
        name = sql.Literal(standby.name)
        self.ask(sql.SQL("ALTER SYSTEM SET synchronous_standby_names = {}").format(name))
        self.ask("SELECT pg_reload_conf()")
        wait_until(
            lambda: self.ask("SELECT sync_state FROM pg_stat_replication") == [("sync",)],
            what=f"{standby.name} follows {self.name}",
            within_seconds=_START_SECONDS,
        )

    def promote(self) -> None:
        """Make a standby a primary, and wait until it takes writes.

        Raises:
            ControlPlaneError: It did not become one within 30 s.
        """
        if self.ask("SELECT pg_promote(true, 30)") != [(True,)]:
            raise ControlPlaneError(f"{self.name} did not become a primary.")

    def _answers(self) -> bool:
        try:
            return self.ask("SELECT 1") == [(1,)]
        except psycopg.OperationalError:
            return False

    def _make_data(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        for file in (self.password_file, self._admin_password_file):
            write_secret(file, secrets.token_hex(16))
        make_directory(self._data)
        is_icu = int(self._programs.parent.name) >= _ICU_SINCE
        self._run("initdb", f"--pgdata={self._data}", f"--username={_ADMIN}", "--no-sync",
                  f"--pwfile={self._admin_password_file}", "--encoding=UTF8",
                  "--auth-local=reject", "--auth-host=scram-sha-256",
                  *(("--locale-provider=icu", "--icu-locale=en-US") if is_icu else ()))  # fmt: skip

    def set_password(self, password: str) -> None:
        """Give keyplane's role another password, and write that into the file."""
        change = sql.SQL("ALTER ROLE {} PASSWORD {}")
        self.ask(change.format(sql.Identifier(USER), sql.Literal(password)))
        write_secret(self.password_file, password)

    def _make_role(self) -> None:
        self.ask(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(USER)))
        self.set_password(self.password_file.read_text(encoding="ascii").strip())
        self.ask("CREATE EXTENSION pg_stat_statements")

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*unprivileged(), self._programs / program, *arguments],
            env=_ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
            timeout=_COPY_SECONDS,
        )
        if done.returncode != 0:
            raise ControlPlaneError(f"{program} ended with {done.returncode}: {done.stderr}")


def either(first: PostgreSql, second: PostgreSql, *, database: str = USER) -> str:
    """Tell the connection string for two servers of which one takes writes."""
    return make_conninfo(
        host=f"{HOST},{HOST}",
        port=f"{first.port},{second.port}",
        user=USER,
        dbname=database,
        target_session_attrs="read-write",
    )


def _send(process: int, number: signal.Signals) -> None:
    # Children end by themselves too, at any moment.
    with suppress(ProcessLookupError):
        os.kill(process, number)


def _programs() -> Path | None:
    """The programs of the newest installed server, or None."""
    found = [path.parent for path in _INSTALLATIONS.glob("*/bin/postgres")]
    return max(found, key=lambda path: int(path.parent.name), default=None)


def _pass_file(password_file: Path) -> Path:
    """A copy of a password in the form and with the owner that libpq asks for."""
    file = password_file.with_suffix(".pgpass")
    write_secret(file, f"*:*:*:*:{password_file.read_text(encoding='ascii').strip()}")
    give_away(file)
    return file
