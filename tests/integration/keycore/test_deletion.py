"""After a deletion the wrapped key is in no file, not even the write-ahead log."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from keycore.adapters.audit_log import ChainedAuditLog
from keycore.adapters.pkcs11_token import Pkcs11Token
from keycore.adapters.sql_store import SqlStore
from keycore.adapters.system_clock import SystemClock
from keycore.bootstrap import Core, open_audit, wire
from keycore.domain.ids import InstanceId, VersionId, new_uuid
from keycore.domain.instances import Installation, Instance
from keycore.service.caller import Caller
from keycore.service.creation import NewKey
from keycore.service.records import Records
from keycore.settings import Settings

CALLER = Caller("cli", "tests")


@pytest.fixture
def audit(
    tmp_path: Path, softhsm_token: Pkcs11Token, sqlite_store: SqlStore
) -> Iterator[ChainedAuditLog]:
    """A real audit log beside the store."""
    settings = Settings(state_dir=tmp_path)
    with closing(open_audit(settings, "cli", softhsm_token, sqlite_store)) as log:
        yield log


def a_core(
    state_dir: Path, token: Pkcs11Token, store: SqlStore, audit: ChainedAuditLog
) -> tuple[Core, InstanceId]:
    clock = SystemClock()
    instance = InstanceId(new_uuid())
    with Records(store, token).writing() as unit:
        unit.save_instance(Instance(instance, "default", None, clock.now()))
        unit.save_installation(Installation(new_uuid(), "keyplane", "0", clock.now()))
    return wire(Settings(state_dir=state_dir), store, token, audit, clock), instance


def holders(directory: Path, needle: bytes) -> list[str]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return [path.name for path in files if needle in path.read_bytes()]


def test_deleted_material_is_in_no_file_of_the_state_directory(
    tmp_path: Path, softhsm_token: Pkcs11Token, sqlite_store: SqlStore, audit: ChainedAuditLog
) -> None:
    core, instance = a_core(tmp_path, softhsm_token, sqlite_store, audit)
    key = core.keys.create(CALLER, instance, NewKey("doomed"))
    key = core.keys.rotate(CALLER, key.id)
    # Neighbours on the same database pages, so that pages are rewritten and not freed.
    for _ in range(20):
        core.keys.create(CALLER, instance, NewKey("neighbour"))
    blobs = [version.wrapped or b"" for version in key.versions]
    assert all(holders(tmp_path, blob) for blob in blobs), "the search must be able to find them"

    core.keys.delete(CALLER, key.id)

    assert [holders(tmp_path, blob) for blob in blobs] == [[], []]


def test_deletion_scrubs_although_others_read_all_the_time(
    tmp_path: Path, softhsm_token: Pkcs11Token, sqlite_store: SqlStore, audit: ChainedAuditLog
) -> None:
    core, instance = a_core(tmp_path, softhsm_token, sqlite_store, audit)
    key = core.keys.create(CALLER, instance, NewKey("doomed"))
    blob = key.versions[0].wrapped or b""
    done = threading.Event()

    def read() -> None:
        other = SqlStore(tmp_path / "keyplane.db")
        while not done.is_set():
            other.changes_since(0)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        core.keys.delete(CALLER, key.id)
    finally:
        done.set()
        for reader in readers:
            reader.join()

    assert holders(tmp_path, blob) == []


def test_the_working_copy_in_the_token_goes_with_the_key(
    tmp_path: Path, softhsm_token: Pkcs11Token, sqlite_store: SqlStore, audit: ChainedAuditLog
) -> None:
    core, instance = a_core(tmp_path, softhsm_token, sqlite_store, audit)
    key = core.keys.create(CALLER, instance, NewKey("doomed"))
    core.wrapping.wrap(CALLER, instance, key.id, b"x")
    assert key.versions[0].id in held_by(softhsm_token)

    core.keys.delete(CALLER, key.id)

    assert key.versions[0].id not in held_by(softhsm_token)


def held_by(token: Pkcs11Token) -> set[VersionId]:
    """Return the versions that the token has working copies of."""
    return {version_id for lane in token._lanes._lanes for version_id in lane._copies}
