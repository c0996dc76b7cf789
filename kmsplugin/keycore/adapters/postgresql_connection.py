"""Connections to PostgreSQL that never wait for ever."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import psycopg
from psycopg import errors
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_attempts, conninfo_to_dict
from psycopg.errors import ConnectionTimeout, Diagnostic

from keycore.adapters.postgresql_patience import SilentError, patience
from keycore.adapters.sql_place import PostgresqlPlace
from keycore.errors import SettingsError

_RV = TypeVar("_RV")

_CONNECT_SECONDS_MIN: Final = 2
"""The least that libpq takes."""

_WAIT_SECONDS_MIN: Final = 1.0
"""What an answer gets in any case. A server that was reached late, because another one of
the list did not answer, would otherwise never be used."""

_REASON_CHARACTERS_MAX: Final = 300

_INTERVAL_SECONDS: Final = 0.1
"""How often the driver looks whether a signal has come."""

TAKES_NO_WRITES: Final = (
    "pg_is_in_recovery() OR current_setting('default_transaction_read_only')::bool"
)
"""SQL that is true on a standby, and on a server that an administrator has closed."""

_SETTINGS: Final = f"""
SELECT {TAKES_NO_WRITES}, current_setting('server_encoding'),
       set_config('statement_timeout', %(statement_ms)s, false),
       set_config('lock_timeout', %(lock_ms)s, false),
       set_config('client_min_messages', 'warning', false),
       set_config('idle_in_transaction_session_timeout', %(idle_ms)s, false),
       set_config('synchronous_commit',
                  CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
                       THEN 'on' ELSE current_setting('synchronous_commit') END, false)
"""
"""The server gives up by itself too. An acknowledged write is on disk, and on the
synchronous standbys if there are any, whatever the server's default is."""

_LOCK_FIRST_MS: Final = 500
"""So much later than a lock is given up a statement is, so that they can be told apart."""

_IDLE_FACTOR: Final = 2
"""A writer waits for the HSM now and then, and never for longer than that many deadlines.

If its host dies meanwhile, all other writers wait as long."""


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that is closed when the server takes too long for an answer.

    The server's own timeouts are of no use when it is stopped, or when the network
    swallows what it says.

    Attributes:
        deadline_seconds: how long an answer may take.
        was_warned: whether the server has sent a warning since this was set to false.
    """

    deadline_seconds = 5.0
    was_warned = False

    def note_warning(self, notice: Diagnostic) -> None:
        """Take note of what the server says beside its answer."""
        if notice.severity_nonlocalized == "WARNING":
            self.was_warned = True

    def wait(
        self,
        gen: PQGen[_RV],
        interval: float = _INTERVAL_SECONDS,
        timeout: float | None = None,
    ) -> _RV:
        """Wait for an answer, so long at most.

        Raises:
            SilentError: it has not come; the connection is closed.
        """
        if timeout is not None:
            # The driver's own wait for notifications, which may well end without any.
            return super().wait(gen, interval, timeout)
        seconds = max(_WAIT_SECONDS_MIN, patience.left(self.deadline_seconds))
        try:
            return super().wait(gen, interval, seconds)
        except errors._WaitTimeout:  # noqa: SLF001 - the driver has no public name for it.
            self.close()
            patience.was_vain = True
            raise SilentError(f"no answer within {seconds:.1f} seconds") from None


class Route:
    """The way to the server of a place that takes writes. Threads may share it."""

    def __init__(self, place: PostgresqlPlace) -> None:
        """Connect to nothing yet."""
        self._place = place
        self._silent: set[_Address] = set()

    def connect(self, *, autocommit: bool = False) -> BoundedConnection:
        """Open a connection.

        Every address of every host is tried, in the order of the place; those that said
        nothing the last time come last, because each of them takes seconds.

        Raises:
            psycopg.Error: no address has such a server, or it refuses us.
            SettingsError: the password file cannot be used.
        """
        seconds = self._place.deadline.total_seconds()
        until = time.monotonic() + patience.left(seconds)
        failures: list[tuple[_Address, psycopg.Error]] = []
        addresses = sorted(_addresses(self._place), key=lambda given: _name(given) in self._silent)
        for number, address in enumerate(addresses):
            left = until - time.monotonic()
            if left <= 0:
                break
            try:
                connection = _connect(
                    address, seconds, left / (len(addresses) - number), autocommit=autocommit
                )
            except psycopg.Error as error:
                failures.append((_name(address), error))
                self._note(address, silent=isinstance(error, SilentError | ConnectionTimeout))
            else:
                self._note(address, silent=False)
                return connection
        if failures:
            raise _one_of(failures)
        # Those who only waited for other threads know nothing of the server.
        kind = SilentError if patience.was_vain else psycopg.OperationalError
        raise kind(f"no connection within {seconds:g} seconds")

    def _note(self, address: Mapping[str, Any], *, silent: bool) -> None:
        (self._silent.add if silent else self._silent.discard)(_name(address))


_Address: TypeAlias = tuple[object, ...]


def _one_of(failures: Sequence[tuple[_Address, psycopg.Error]]) -> psycopg.Error:
    """Return the last of the errors, with the reasons of all."""
    last = failures[-1][1]
    if len(failures) == 1:
        return last
    return type(last)("; ".join(f"{_shown(name)}: {reason_of(error)}" for name, error in failures))


def _shown(name: _Address) -> str:
    host, hostaddr, port = name
    return f"{host or hostaddr or 'the local server'}{f' port {port}' if port else ''}"


def _name(address: Mapping[str, Any]) -> _Address:
    return tuple(address.get(name) for name in ("host", "hostaddr", "port"))


def _addresses(place: PostgresqlPlace) -> list[dict[str, Any]]:
    """Return what each address of each host is to be connected to with.

    Raises:
        psycopg.OperationalError: no host has one.
        SettingsError: the password file cannot be used.
    """
    seconds = place.deadline.total_seconds()
    ours: dict[str, Any] = {
        "tcp_user_timeout": round(seconds * 1000),
        "keepalives_idle": max(1, round(seconds)),
        "keepalives_interval": max(1, round(seconds / 3)),
        "keepalives_count": 3,
        "application_name": "keyplane",
    }
    if place.password_file is not None:
        ours["password"] = _password(place.password_file)
    given = conninfo_to_dict(place.conninfo)
    try:
        return list(conninfo_attempts({**ours, **given, "client_encoding": "UTF8"}))
    except UnicodeError:
        raise psycopg.OperationalError("a host of store.postgresql has no possible name") from None


def _connect(
    address: Mapping[str, Any], seconds: float, timeout: float, *, autocommit: bool
) -> BoundedConnection:
    # The driver would take that long for each of many addresses, so it gets one at a time.
    limits = {"connect_timeout": max(_CONNECT_SECONDS_MIN, round(timeout)), **address}
    connection = BoundedConnection.connect(autocommit=True, **limits)
    connection.deadline_seconds = seconds + 1
    connection.add_notice_handler(connection.note_warning)
    try:
        _prepare(connection, seconds)
        connection.autocommit = autocommit
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: BoundedConnection, seconds: float) -> None:
    lock_ms = round(seconds * 1000)
    limits = {
        "lock_ms": lock_ms,
        "statement_ms": lock_ms + _LOCK_FIRST_MS,
        "idle_ms": lock_ms * _IDLE_FACTOR,
    }
    row = connection.execute(
        _SETTINGS, {name: str(value) for name, value in limits.items()}
    ).fetchone()
    if row is None or row[0]:
        raise psycopg.OperationalError(
            "the server takes no writes (a standby, or default_transaction_read_only is on); "
            "name all servers in store.postgresql, with target_session_attrs=read-write"
        )
    if row[1] != "UTF8":
        raise SettingsError(
            f"the database has the encoding {row[1]}, which cannot hold every name",
            hint="make it by: createdb --template template0 --encoding UTF8",
        )


def _password(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            status, password = os.fstat(file.fileno()), file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise SettingsError(
            f"the file {path} with the store's password cannot be read: {reason}",
            hint="correct store.password_file",
        ) from None
    if not password:
        raise SettingsError(
            f"the file {path} with the store's password is empty", hint="write the password into it"
        )
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise SettingsError(
            f"the file {path} with the store's password is open to other users",
            hint=f"chown it to uid {os.geteuid()} and chmod 0600 {path}",
        )
    return password


def reason_of(error: BaseException | None) -> str:
    """Return the first line of a driver's error: the further ones may quote SQL and values.

    The server may send anything, so only what can be printed is kept, 300 characters at most.
    """
    primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    lines = (primary or str(error)).strip().splitlines()
    line = next(iter(lines), type(error).__name__)[:_REASON_CHARACTERS_MAX]
    return "".join(c for c in line if c.isprintable())
