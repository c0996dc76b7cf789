"""``keyplane store migrate``: from the embedded store to PostgreSQL, safe to interrupt."""

from __future__ import annotations

from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keycore.adapters.postgresql_tables import foreign_tables
from keycore.adapters.sql_place import PostgresqlPlace
from keycore.adapters.sql_store import Progress, SqlStore
from keycore.adapters.system_clock import SystemClock
from keycore.bootstrap import (
    check_owner,
    missing_store,
    open_audit,
    open_token,
    read_installation,
    store_place,
    store_title,
)
from keycore.domain.instances import Installation
from keycore.errors import SettingsError, StoreSetupError
from keycore.files import exclusive
from keycore.service.caller import Auditor, Caller
from keycore.service.records import Records
from keycore.settings import Settings

KEPT_SUFFIX: Final = ".moved"
"""What the embedded store's file is called when it is one no more."""

_NAMED_MAX: Final = 3


@dataclass(frozen=True, slots=True)
class Moved:
    """What was moved.

    Attributes:
        rows: of all tables.
        target: what people call the new store.
        kept: the old store's file, which nobody uses any more.
    """

    installation: Installation
    rows: int
    target: str
    kept: Path


def move_store(settings: Settings, caller: Caller, progress: Progress) -> Moved:
    """Copy the embedded store into the empty database of the settings, and retire it.

    Every row is compared before the copy counts. Nobody can write to the old store
    meanwhile, and from its end on nobody can use it: a process that still runs on it
    gets an error until it is started again with the new settings. A run that was
    interrupted is simply repeated.

    Args:
        settings: ``store.postgresql`` names the database; the file is the one of
            ``state_dir``.
        caller: for the audit line.
        progress: told how far it is.

    Raises:
        SetupError: nothing to move, the database holds another installation or tables of
            somebody else, or the copy is not the same; the old store is as it was.
        UnavailableError: token, store or database did not answer; likewise.
    """
    if settings.store.embedded:
        raise SettingsError(
            "it is not said where the store shall go", hint="set store.postgresql to the database"
        )
    check_owner(settings.state_dir)
    kept = settings.database.with_name(settings.database.name + KEPT_SUFFIX)
    with exclusive(settings.state_dir / "init.lock"), ExitStack() as stack:
        # At the end, when the old store is closed; an interrupted run's are tidied by the next.
        stack.callback(_tidy, settings.database, kept)
        if not settings.database.is_file():
            raise _nothing_to_move(settings, kept)
        _refuse_foreign_tables(settings)
        token = stack.enter_context(closing(open_token(settings)))
        source = stack.enter_context(closing(SqlStore.open(settings.database)))
        installation = read_installation(settings, Records(source, token))
        target = stack.enter_context(closing(SqlStore.create(store_place(settings))))
        audit = stack.enter_context(closing(open_audit(settings, caller.face, token, target)))
        with Auditor(audit, SystemClock()).decision(caller, "store.migrate") as decision:
            rows = source.move_to(target, retire=lambda: _retire(settings, kept), progress=progress)
            decision.note(installation=installation.id, rows=rows)
        return Moved(installation, rows, store_title(settings), kept)


def _retire(settings: Settings, kept: Path) -> None:
    try:
        settings.database.rename(kept)
    except OSError as error:
        raise StoreSetupError(
            f"{settings.database} cannot be renamed: {error.strerror}",
            hint="mend that and run this again; it goes on where it stopped",
        ) from None


def _tidy(database: Path, kept: Path) -> None:
    """Take away what SQLite has left beside a file that was renamed.

    The log goes with its file where it holds something, such as a write of a process that
    was forgotten; the index into it is made anew by whoever opens the file.
    """
    if database.exists() or not kept.is_file():
        return
    log, index = (database.with_name(database.name + suffix) for suffix in ("-wal", "-shm"))
    with suppress(OSError):
        if log.is_file() and log.stat().st_size:
            log.rename(kept.with_name(kept.name + "-wal"))
        log.unlink(missing_ok=True)
        index.unlink(missing_ok=True)


def _refuse_foreign_tables(settings: Settings) -> None:
    place = store_place(settings)
    foreign = foreign_tables(place) if isinstance(place, PostgresqlPlace) else ()
    if foreign:
        more = f" and {len(foreign) - _NAMED_MAX} more" if len(foreign) > _NAMED_MAX else ""
        raise StoreSetupError(
            f"the {store_title(settings)} holds tables of somebody else: "
            f"{', '.join(foreign[:_NAMED_MAX])}{more}; nothing was moved",
            hint="make a database for keyplane alone, and name it in store.postgresql",
        )


def _nothing_to_move(settings: Settings, kept: Path) -> StoreSetupError:
    if kept.is_file():
        return StoreSetupError(
            f"the store was moved before; {kept} is what is left of it", hint="see: keyplane status"
        )
    return missing_store(settings)
