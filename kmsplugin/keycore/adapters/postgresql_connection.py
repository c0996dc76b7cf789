"""Connections to PostgreSQL that never wait for ever."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, Final, TypeVar

import psycopg
from psycopg import errors
from psycopg.abc import PQGen

from keycore.adapters.postgresql_patience import SilentError, patience
from keycore.adapters.sql_place import PostgresqlPlace
from keycore.errors import SettingsError

_RV = TypeVar("_RV")

_CONNECT_SECONDS_MIN: Final = 2
"""The least that libpq takes."""

_WAIT_SECONDS_MIN: Final = 1.0
"""What an answer gets in any case. A server that was reached late, because another one of
the list did not answer, would otherwise never be used."""

_INTERVAL_SECONDS: Final = 0.1
"""How often the driver looks whether a signal has come."""

_SETTINGS: Final = """
SELECT pg_is_in_recovery(),
       set_config('statement_timeout', %(ms)s, false),
       set_config('lock_timeout', %(ms)s, false),
       set_config('idle_in_transaction_session_timeout', %(idle_ms)s, false),
       set_config('synchronous_commit',
                  CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
                       THEN 'on' ELSE current_setting('synchronous_commit') END, false)
"""
"""The server gives up by itself too. An acknowledged write is on disk, and on the
synchronous standbys if there are any, whatever the server's default is."""

_IDLE_FACTOR: Final = 6
"""A transaction of ours waits for the HSM, and never for longer than that many deadlines."""


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that is closed when the server takes too long for an answer.

    The server's own timeouts are of no use when it is stopped, or when the network
    swallows what it says.

    Attributes:
        deadline_seconds: how long an answer may take.
    """

    deadline_seconds = 5.0

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


def connect(place: PostgresqlPlace, *, autocommit: bool = False) -> BoundedConnection:
    """Open a connection to a server that takes writes.

    Raises:
        psycopg.Error: there is none, or it refuses us.
        SettingsError: the password file cannot be used.
    """
    seconds = place.deadline.total_seconds()
    given = psycopg.conninfo.conninfo_to_dict(place.conninfo)
    left = patience.left(seconds)
    if left <= 0:
        # Those who only waited for other threads know nothing of the server.
        kind = SilentError if patience.was_vain else psycopg.OperationalError
        raise kind(f"no connection within {seconds:g} seconds")
    # The driver takes so long for each of them.
    hosts = 1 + max(str(given.get(name, "")).count(",") for name in ("host", "hostaddr"))
    ours: dict[str, Any] = {
        "connect_timeout": max(_CONNECT_SECONDS_MIN, round(left / hosts)),
        "tcp_user_timeout": round(seconds * 1000),
        "keepalives_idle": max(1, round(seconds)),
        "keepalives_interval": max(1, round(seconds / 3)),
        "keepalives_count": 3,
        "application_name": "keyplane",
    }
    missing = {name: value for name, value in ours.items() if name not in given}
    if place.password_file is not None:
        missing["password"] = _password(place.password_file)
    connection = BoundedConnection.connect(place.conninfo, autocommit=True, **missing)
    connection.deadline_seconds = seconds + 1
    try:
        _prepare(connection, seconds)
        connection.autocommit = autocommit
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: BoundedConnection, seconds: float) -> None:
    milliseconds = round(seconds * 1000)
    row = connection.execute(
        _SETTINGS, {"ms": str(milliseconds), "idle_ms": str(milliseconds * _IDLE_FACTOR)}
    ).fetchone()
    if row is None or row[0]:
        raise psycopg.OperationalError(
            "the server is a standby, and takes no writes; name all servers in "
            "store.postgresql, with target_session_attrs=read-write"
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
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise SettingsError(
            f"the file {path} with the store's password is open to other users",
            hint=f"chown it to uid {os.geteuid()} and chmod 0600 {path}",
        )
    return password
