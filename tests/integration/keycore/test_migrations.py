"""A store of an earlier release is opened, upgraded and used with all that it holds."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, inspect, text, update

from keycore.adapters import sql_tables as t
from keycore.adapters.migrations import upgrade
from keycore.adapters.postgresql_database import PostgresqlDatabase
from keycore.adapters.sql_copy import copy_rows
from keycore.adapters.sql_place import Place, PostgresqlPlace
from keycore.adapters.sql_store import SqlStore
from keycore.adapters.sqlite_database import SqliteDatabase
from keycore.bootstrap import Core, wire
from keycore.domain.keys import KeyState
from keycore.errors import IntegrityError, StoreSetupError
from keycore.service.caller import Caller
from keycore.settings import ProviderSettings, Settings
from tests.fakes.fixed_clock import FixedClock
from tests.fakes.memory_audit import MemoryAuditLog
from tests.fakes.memory_token import InsecureMemoryToken

CALLER = Caller("cli", "uid:0")
VECTORS = Path(__file__).parents[2] / "vectors"


@pytest.fixture(params=sorted(t.EARLIER_REVISIONS))
def old(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What is known of a store of an earlier release; each release has one."""
    text = (VECTORS / f"store-{request.param}.json").read_text(encoding="utf-8")
    known: dict[str, Any] = json.loads(text)
    return known


@pytest.fixture
def path(old: dict[str, Any], tmp_path: Path) -> Path:
    """The database file as the earlier release left it."""
    file = tmp_path / "keyplane.db"
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript("\n".join(old["sql"]))
    connection.close()
    return file


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, path: Path, old: dict[str, Any]) -> Place:
    """Where the old store is: the file, or a database with the same schema and rows."""
    if request.param == "sqlite":
        return path
    server = request.getfixturevalue("postgresql")
    dsn = request.getfixturevalue("postgresql_dsn")
    place = PostgresqlPlace(dsn, server.password_file)
    source, target = SqliteDatabase(path), PostgresqlDatabase(place)
    with source.reading.begin() as rows, target.writing.begin() as connection:
        upgrade(connection, _revision_of(rows))
        copy_rows(rows, connection, lambda _: None)
    source.close()
    target.close()
    return place


def _revision_of(connection: Connection) -> str:
    revision: str = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
    return revision


@pytest.fixture
def store(place: Place) -> Iterator[SqlStore]:
    """The store, opened by this release."""
    opened = SqlStore.open(place)
    yield opened
    opened.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def fresh(request: pytest.FixtureRequest) -> SqlStore:
    """A store that this release has made."""
    store: SqlStore = request.getfixturevalue(f"{request.param}_store")
    return store


@pytest.fixture
def core(store: SqlStore) -> Core:
    """A core on the opened store and the token that signed it."""
    token = InsecureMemoryToken()
    token._master, token._sealing, token._record_mac = (
        hashlib.sha256(name).digest() for name in (b"master", b"sealing", b"record mac")
    )
    settings = Settings(state_dir=Path("/nonexistent"), provider=ProviderSettings(node="node-a"))
    return wire(settings, store, token, MemoryAuditLog(), FixedClock())


def test_an_upgraded_store_has_the_schema_of_a_fresh_one(
    store: SqlStore, request: pytest.FixtureRequest
) -> None:
    engine = store._database.reading.dialect.name
    fresh = inspect(request.getfixturevalue(f"{engine}_store")._database.reading)
    upgraded = inspect(store._database.reading)

    assert sorted(upgraded.get_table_names()) == sorted(fresh.get_table_names())
    for table in fresh.get_table_names():
        assert [described(c) for c in upgraded.get_columns(table)] == [
            described(c) for c in fresh.get_columns(table)
        ]
        assert _by_name(upgraded.get_indexes(table)) == _by_name(fresh.get_indexes(table))


def described(column: Mapping[str, Any]) -> tuple[str, str, bool]:
    return column["name"], str(column["type"]), column["nullable"]


def _by_name(indexes: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(indexes, key=lambda index: index["name"])


def test_the_schema_is_the_one_that_the_tables_describe(fresh: SqlStore) -> None:
    engine = fresh._database.reading
    found = inspect(engine)

    assert set(found.get_table_names()) == {*t.metadata.tables, "alembic_version"}
    for name, table in t.metadata.tables.items():
        columns = {c["name"]: str(c["type"]) for c in found.get_columns(name)}
        assert set(columns) == {c.name for c in table.columns}
        # SQLite keeps the length that a column was made with, and does not look at it.
        if engine.dialect.name == "postgresql":
            assert columns == {c.name: c.type.compile(engine.dialect) for c in table.columns}
        indexes = {i["name"] for i in found.get_indexes(name) if "duplicates_constraint" not in i}
        assert indexes == {i.name for i in table.indexes}


def test_old_ciphertexts_open_and_old_keys_wrap(core: Core, old: dict[str, Any]) -> None:
    opened = core.wrapping.unwrap(
        CALLER, old["instance"], old["root"], bytes.fromhex(old["wrapped"]), ["a"]
    )

    assert opened.plaintext == b"data key"
    assert opened.rewrapped is not None
    core.kms.refresh()
    assert core.kms.decrypt(CALLER, bytes.fromhex(old["seed"]), old["key_id"]) == b"a seed of etcd"


def test_an_old_standard_key_has_its_payload(core: Core, old: dict[str, Any]) -> None:
    assert core.keys.open(CALLER, old["standard"]).payload == bytes(range(32))


def test_an_old_tombstone_stays_one(core: Core, old: dict[str, Any]) -> None:
    key = core.keys.get(CALLER, old["deleted"])

    assert (key.state, key.deleted_by) == (KeyState.DESTROYED, old.get("deleted_by"))


def test_an_old_key_takes_an_alias_and_is_then_of_the_newest_format(
    core: Core, old: dict[str, Any]
) -> None:
    core.keys.add_alias(CALLER, old["root"], "alias")

    for alias in ("alias", *old.get("aliases", ())):
        assert core.keys.resolve(alias, within=old["instance"]) == old["root"]
    with core.store.reading() as rows:
        saved = rows.keys.get(old["root"])
    assert saved is not None
    assert saved.record_format == 2


def test_an_old_row_cannot_be_given_what_its_format_does_not_sign(
    core: Core, old: dict[str, Any]
) -> None:
    with core.store._database.writing.begin() as connection:  # type: ignore[attr-defined]
        row = t.keys.c.id == old["root"]
        connection.execute(update(t.keys).where(row).values(aliases='["x"]'))

    with pytest.raises(IntegrityError):
        core.keys.get(CALLER, old["root"])


def test_two_processes_that_open_an_old_store_at_once_both_can(place: Place) -> None:
    opened: list[SqlStore] = []
    threads = [threading.Thread(target=lambda: opened.append(SqlStore.open(place))) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(opened) == 2
    for store in opened:
        store.close()


def test_a_store_of_a_later_release_is_refused_and_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    before = path.read_bytes()

    with pytest.raises(StoreSetupError, match="9999"):
        SqlStore.open(path)

    assert path.read_bytes() == before
