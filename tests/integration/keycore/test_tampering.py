"""Whoever can write to the database can break keys, but can never get one used.

Every column of every signed table is changed behind the store's back, by a bit
where it has bits, and rows are swapped; each change must be refused and audited.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from keycore.adapters.pkcs11_token import Pkcs11Token
from keycore.adapters.sql_store import SqlStore
from keycore.adapters.sql_tables import metadata
from keycore.adapters.system_clock import SystemClock
from keycore.bootstrap import Core, wire
from keycore.domain.ids import InstanceId, KeyId, new_uuid
from keycore.domain.instances import Installation, Instance
from keycore.errors import IntegrityError, StoreSetupError, StoreUnavailableError
from keycore.service.caller import Caller
from keycore.service.creation import NewKey
from keycore.service.records import Records
from keycore.settings import ProviderSettings, Settings
from tests.fakes.memory_audit import MemoryAuditLog

CALLER = Caller("cli", "tests")

UNSIGNED = {
    ("keys", "changed"),
    ("key_versions", "uses"),
    ("nodes", "seen_at"),
}
"""Counters and heartbeats: changing them is a nuisance, not a way to a key."""

IDENTITIES = {
    ("keys", "id"),
    ("key_versions", "id"),
    ("instances", "id"),
    ("providers", "name"),
    ("activations", "id"),
    ("activations", "provider"),
    ("key_versions", "key_id"),
    ("nodes", "name"),
    ("nodes", "provider"),
}
"""Columns that say which row it is. A changed one makes the row unfindable by its
name, and wrong under the new one; both are tested by moving and swapping rows."""

PROVED_OTHERWISE = {"audit_heads", "key_aliases", "receipts"}
"""An index that the signed list of a key must confirm, and rows whose MAC is checked
when they are used; the tests of aliases, of repeatable creates and of the audit change
them."""

COLUMNS = [
    (table.name, column.name)
    for table in metadata.sorted_tables
    for column in table.columns
    if table.name not in {"changes", "installations", *PROVED_OTHERWISE}
    and (table.name, column.name) not in UNSIGNED | IDENTITIES
]


class Victim:
    """An installation on SoftHSM2 and SQLite, with direct access to the database."""

    def __init__(self, path: Path, token: Pkcs11Token) -> None:
        self.path = path
        self.token = token
        self.audit = MemoryAuditLog()
        self.store = SqlStore.create(path)
        clock = SystemClock()
        instance = Instance(InstanceId(new_uuid()), "default", "home", clock.now())
        with Records(self.store, token).writing() as unit:
            unit.save_instance(instance)
            unit.save_installation(Installation(new_uuid(), "keyplane", "0", clock.now()))
        self.instance = instance
        core = self.core()
        self.key = core.keys.create(CALLER, instance.id, NewKey("first", description="what for"))
        self.other = core.keys.create(CALLER, instance.id, NewKey("second"))
        core.providers.bind(CALLER, "keyplane", self.key.id)
        core.kms.refresh()
        self.ciphertext = core.wrapping.wrap(CALLER, instance.id, self.key.id, b"x").ciphertext
        self.seed = core.kms.encrypt(CALLER, b"seed")

    def core(self) -> Core:
        """Return a core without anything cached, as after a restart."""
        settings = Settings(state_dir=self.path.parent, provider=ProviderSettings(node="node-a"))
        return wire(settings, self.store, self.token, self.audit, SystemClock())

    def sql(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.path)) as connection:
            rows = connection.execute(statement, parameters).fetchall()
            connection.commit()
        return rows


@pytest.fixture
def victim(tmp_path: Path, softhsm_token: Pkcs11Token) -> Iterator[Victim]:
    made = Victim(tmp_path / "keyplane.db", softhsm_token)
    yield made
    made.store.close()


def read_everything(victim: Victim) -> None:
    """Use every record once, the way the faces do."""
    core = victim.core()
    core.instances.all()
    core.keys.get(CALLER, victim.key.id)
    core.providers.overviews()
    core.providers.nodes()


def flipped(value: Any) -> Any:
    match value:
        case None:
            return "made up"
        case int():
            return value ^ 1
        case bytes():
            return bytes([value[0] ^ 1]) + value[1:]
        case str():
            return chr(ord(value[0]) ^ 1) + value[1:]
        case _:
            raise AssertionError(value)


def nullable_as_number(column: str, value: Any) -> Any:
    return 1 if value is None and column.endswith("_at") else flipped(value)


@pytest.mark.parametrize(("table", "column"), COLUMNS, ids=lambda name: name)
def test_a_changed_column_is_refused(victim: Victim, table: str, column: str) -> None:
    where = {
        "keys": ("id", victim.key.id),
        "key_versions": ("key_id", victim.key.id),
        "instances": ("id", victim.instance.id),
        "providers": ("name", "keyplane"),
        "activations": ("provider", "keyplane"),
        "nodes": ("provider", "keyplane"),
    }[table]
    condition = f"WHERE {where[0]} = ?"
    (before,) = victim.sql(f"SELECT {column} FROM {table} {condition}", where[1])[0]
    read_everything(victim)

    after = nullable_as_number(column, before)
    victim.sql(f"UPDATE {table} SET {column} = ? {condition}", after, where[1])

    with pytest.raises(IntegrityError):
        read_everything(victim)


@pytest.mark.parametrize("bit", range(0, 320, 7))
def test_any_flipped_bit_of_a_wrapped_key_is_refused_and_audited(victim: Victim, bit: int) -> None:
    wrapped = bytearray(victim.key.versions[0].wrapped or b"")
    wrapped[bit // 8] ^= 1 << bit % 8
    victim.sql(
        "UPDATE key_versions SET wrapped = ? WHERE key_id = ?", bytes(wrapped), victim.key.id
    )

    with pytest.raises(IntegrityError):
        victim.core().wrapping.unwrap(CALLER, victim.instance.id, victim.key.id, victim.ciphertext)

    assert victim.audit.last("key.unwrap").outcome == "integrity"


def swap_wrapped(victim: Victim) -> None:
    first, second = victim.key.versions[0], victim.other.versions[0]
    for version, other in ((first, second), (second, first)):
        victim.sql("UPDATE key_versions SET wrapped = ? WHERE id = ?", other.wrapped, version.id)


def swap_versions(victim: Victim) -> None:
    """Give each key the other one's version rows, whole."""
    victim.sql("UPDATE key_versions SET number = 2 WHERE key_id = ?", victim.other.id)
    victim.sql(
        "UPDATE key_versions SET key_id = ? WHERE key_id = ?", victim.key.id, victim.other.id
    )
    victim.sql(
        "UPDATE key_versions SET key_id = ?, number = 9 WHERE id = ?",
        victim.other.id,
        victim.key.versions[0].id,
    )
    victim.sql("UPDATE key_versions SET number = 1")


def move_to_another_instance(victim: Victim) -> None:
    thief = InstanceId(new_uuid())
    victim.core().instances.create(CALLER, "thief", instance_id=thief)
    victim.sql("UPDATE keys SET instance_id = ? WHERE id = ?", thief, victim.key.id)


def copy_row_from_the_other_key(victim: Victim) -> None:
    victim.sql(
        "UPDATE keys SET (name, created_at, updated_at, description, record_format, mac) = "
        "(SELECT name, created_at, updated_at, description, record_format, mac "
        "FROM keys WHERE id = ?) WHERE id = ?",
        victim.other.id,
        victim.key.id,
    )


def drop_the_versions(victim: Victim) -> None:
    victim.sql("DELETE FROM key_versions WHERE key_id = ?", victim.key.id)


@pytest.mark.parametrize(
    "attack",
    [
        swap_wrapped,
        swap_versions,
        move_to_another_instance,
        copy_row_from_the_other_key,
        drop_the_versions,
    ],
    ids=lambda attack: attack.__name__,
)
def test_swapped_and_moved_rows_are_refused(
    victim: Victim, attack: Callable[[Victim], None]
) -> None:
    attack(victim)

    with pytest.raises(IntegrityError):
        victim.core().keys.get(CALLER, victim.key.id)


def test_a_provider_pointed_at_another_key_behind_our_back_is_not_served(victim: Victim) -> None:
    victim.sql(
        "UPDATE activations SET key_id = ?, version_id = ?",
        victim.other.id,
        victim.other.versions[0].id,
    )
    core = victim.core()

    core.kms.refresh()

    status = core.kms.status()
    assert status.key_id == ""
    assert "integrity check" in status.healthz


def test_a_running_provider_serves_on_from_what_it_verified_and_says_what_is_wrong(
    victim: Victim,
) -> None:
    core = victim.core()
    core.kms.refresh()
    victim.sql("UPDATE providers SET updated_at = updated_at + 1")
    victim.sql("UPDATE changes SET sequence = sequence + 1")

    core.kms.refresh()

    status = core.kms.status()
    assert status.key_id == victim.seed[1]
    assert "integrity check" in status.healthz
    assert core.kms.decrypt(CALLER, *victim.seed) == b"seed"


def test_a_deleted_key_cannot_be_revived_by_editing_its_state(victim: Victim) -> None:
    core = victim.core()
    core.keys.delete(CALLER, victim.other.id)

    victim.sql("UPDATE keys SET state = 1, deleted_at = NULL WHERE id = ?", victim.other.id)
    victim.sql(
        "UPDATE key_versions SET state = 'active', wrapped = ? WHERE key_id = ?",
        victim.other.versions[0].wrapped,
        victim.other.id,
    )

    with pytest.raises(IntegrityError):
        victim.core().wrapping.wrap(CALLER, victim.instance.id, victim.other.id, b"x")


def test_a_store_signed_by_another_token_is_refused_at_the_start(victim: Victim) -> None:
    victim.sql("UPDATE installations SET mac = ?", bytes(32))

    with pytest.raises(StoreSetupError, match="not signed by this token"):
        victim.core()


def test_an_unknown_record_format_is_refused(victim: Victim) -> None:
    victim.sql("UPDATE keys SET record_format = 99 WHERE id = ?", victim.key.id)

    with pytest.raises(IntegrityError):
        victim.core().keys.get(CALLER, KeyId(victim.key.id))


@pytest.mark.parametrize(
    ("column", "value"),
    [("created_at", "zz"), ("created_at", 2**62), ("mac", "zz"), ("bit_length", 1.5)],
)
def test_a_column_of_another_type_is_a_changed_record(
    victim: Victim, column: str, value: object
) -> None:
    victim.sql(f"UPDATE keys SET {column} = ? WHERE id = ?", value, victim.key.id)

    with pytest.raises(IntegrityError):
        victim.core().keys.get(CALLER, victim.key.id)


def test_a_store_whose_file_was_replaced_is_not_written_to(victim: Victim) -> None:
    """The open file lives on without a name, and nobody would see what is written to it."""
    core = victim.core()
    core.kms.refresh()
    victim.path.rename(victim.path.with_suffix(".away"))

    with pytest.raises(StoreUnavailableError, match="removed or replaced"):
        core.keys.create(CALLER, victim.instance.id, NewKey("lost"))
    # A key that was deleted in the file that took its place would live on here.
    with pytest.raises(StoreUnavailableError, match="removed or replaced"):
        core.keys.get(CALLER, victim.key.id)
    with pytest.raises(StoreUnavailableError, match="removed or replaced"):
        core.store.uses([victim.key.current.id])
    core.kms.refresh()
    assert "removed or replaced" in core.kms.report().store_fault
    assert core.kms.decrypt(CALLER, *victim.seed) == b"seed"
