"""Record MACs: every fact of a record is signed, in bytes that never change.

The walk over fields is generic on purpose: a field that somebody adds to a record
and forgets to sign fails here.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any, get_args

import pytest

from keycore.domain.ids import InstanceId, KeyId
from keycore.domain.instances import Instance
from keycore.domain.records import NEWEST_FORMAT, Record, describe, signed_bytes
from keycore.errors import (
    InstanceNotFoundError,
    IntegrityError,
    KeyNotFoundError,
    NodeNotFoundError,
    ProviderNotFoundError,
)
from keycore.ports import KeyFilter, Signed
from keycore.service import records as service_records
from keycore.service.records import Records
from tests.fakes.installation import FakeInstallation
from tests.unit.keycore.examples import (
    INSTALLATION,
    INSTANCE,
    KEY,
    NODE,
    NOW,
    PROVIDER,
    root_key,
)


def vectors_in(name: str) -> Any:
    return json.loads((Path(__file__).parents[2] / "vectors" / name).read_text(encoding="utf-8"))


VECTORS = vectors_in("records.json")
VECTORS_2 = vectors_in("records-2.json")

OLD_KEY = replace(KEY, aliases=(), tags=(), deleted_by=None)
"""As far as format 1 goes."""

RECORDS: dict[str, Record] = {
    "key": KEY,
    "provider": PROVIDER,
    "node": NODE,
    "instance": INSTANCE,
    "installation": INSTALLATION,
}

UNSIGNED = {"node.seen_at"}
"""A heartbeat; signing it would need the HSM every ten seconds for each node."""


def others(value: Any) -> list[Any]:
    """Return plain values of the same type that differ from ``value``."""
    match value:
        case Enum():
            return [other for other in type(value) if other is not value]
        case bool():
            return [not value]
        case int():
            return [value + 1]
        case datetime():
            return [value + timedelta(microseconds=1)]
        case str():
            return [value + "x", value[:-1], ""]
        case bytes():
            return [value + b"\0", value[:-1], b"\xff" + value[1:]]
    raise AssertionError(f"tell others() how to change {value!r}")


def other_values(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield (path suffix, value) for values of the same kind that differ from ``value``."""
    if not isinstance(value, tuple):
        yield from (("", other) for other in others(value))
        return
    yield "", value[:-1]
    yield "", tuple(reversed(value))
    for place, element in enumerate(value):
        changes = (
            other_records(element) if dataclasses.is_dataclass(element) else other_values(element)
        )
        for path, changed in changes:
            yield f".{path}" if path else "", (*value[:place], changed, *value[place + 1 :])


def other_records(record: Any) -> Iterator[tuple[str, Any]]:
    """Yield (path of the field, record) for every way to change one field."""
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        for path, other in other_values(value):
            yield field.name + path, replace(record, **{field.name: other})
        if "None" in str(field.type):
            yield field.name, replace(record, **{field.name: None})


CHANGES = [
    pytest.param(kind, f"{kind}.{path}", changed, id=f"{kind}.{path}-{number}")
    for kind, record in RECORDS.items()
    for number, (path, changed) in enumerate(other_records(record))
]


@pytest.mark.parametrize(("kind", "path", "changed"), CHANGES)
def test_a_change_of_any_field_changes_the_signed_bytes(
    kind: str, path: str, changed: Record
) -> None:
    same = signed_bytes(changed, NEWEST_FORMAT) == signed_bytes(RECORDS[kind], NEWEST_FORMAT)

    assert same == (path in UNSIGNED)


def test_the_walk_covers_every_field_of_every_kind_of_record() -> None:
    assert {type(record) for record in RECORDS.values()} == set(get_args(Record))
    walked = {param.values[1] for param in CHANGES}
    for kind, record in RECORDS.items():
        for field in dataclasses.fields(record):
            assert f"{kind}.{field.name}" in walked
    assert {"key.versions.wrapped", "provider.activations.version_id"} <= walked


def encode(field: list[Any]) -> bytes:
    """Encode one field of the vectors, independently of the product."""
    letter: bytes = field[0].encode()
    match field:
        case [_]:
            return letter
        case ["i" | "d", number]:
            return letter + struct.pack(">q", number)
        case ["s", text]:
            return letter + str(text).encode()
        case [_, list() as nested]:
            return letter + frame(nested)
    return letter + bytes.fromhex(field[1])


def frame(fields: list[list[Any]]) -> bytes:
    """Join encoded fields as the vectors' description says."""
    pieces = [encode(field) for field in fields]
    framed = b"".join(struct.pack("<Q", len(piece)) + piece for piece in pieces)
    return struct.pack("<Q", len(pieces)) + framed


@pytest.mark.parametrize("kind", list(RECORDS))
def test_format_1_has_exactly_the_bytes_of_the_vector(kind: str) -> None:
    """A MAC once made must verify for ever: never edit the vectors, add a format."""
    vector = VECTORS["records"][kind]
    record = OLD_KEY if kind == "key" else RECORDS[kind]

    signed = signed_bytes(record, VECTORS["format"])

    assert signed is not None
    assert signed.hex() == vector["encoding"]
    assert frame(vector["fields"]).hex() == vector["encoding"]


@pytest.mark.parametrize("kind", list(RECORDS))
def test_format_2_has_exactly_the_bytes_of_the_vector(kind: str) -> None:
    vector = VECTORS_2["records"].get(kind) or VECTORS["records"][kind]

    signed = signed_bytes(RECORDS[kind], VECTORS_2["format"])

    assert signed is not None
    assert signed.hex() == vector["encoding"]
    assert frame(vector["fields"]).hex() == vector["encoding"]


@pytest.mark.parametrize(
    "newer",
    [
        pytest.param({"aliases": ("other",)}, id="aliases"),
        pytest.param({"tags": ("other",)}, id="tags"),
        pytest.param({"deleted_by": "uid:2"}, id="deleted_by"),
    ],
)
def test_format_1_refuses_what_it_does_not_cover(
    here: FakeInstallation, newer: dict[str, Any]
) -> None:
    """Otherwise an old row could be given an alias that nobody signed."""
    signed = signed_bytes(OLD_KEY, 1)
    assert signed is not None
    forged = Signed(replace(OLD_KEY, **newer), 1, here.token.sign(signed))
    with here.store.writing() as rows:
        rows.keys.save(forged)

    with Records(here.store, here.token).reading() as unit, pytest.raises(IntegrityError):
        unit.key(KEY.id)


def test_a_record_of_format_1_verifies_and_is_upgraded_by_the_next_write(
    here: FakeInstallation,
) -> None:
    signed = signed_bytes(OLD_KEY, 1)
    assert signed is not None
    with here.store.writing() as rows:
        rows.keys.save(Signed(OLD_KEY, 1, here.token.sign(signed)))

    with Records(here.store, here.token).writing() as unit:
        unit.save_key(unit.key(KEY.id))

    with here.store.reading() as rows:
        saved = rows.keys.get(KEY.id)
    assert saved is not None
    assert saved.record_format == NEWEST_FORMAT == 2


def test_the_newest_format_has_vectors() -> None:
    assert VECTORS_2["format"] == NEWEST_FORMAT


@pytest.mark.parametrize("record_format", [-1, 0, NEWEST_FORMAT + 1])
def test_an_unknown_format_has_no_encoding(record_format: int) -> None:
    assert signed_bytes(KEY, record_format) is None


@pytest.mark.parametrize(
    ("kind", "record_id"),
    [
        pytest.param("key", KEY.id, id="key"),
        pytest.param("provider", "keyplane", id="provider"),
        pytest.param("node", "keyplane/node-a", id="node"),
        pytest.param("instance", INSTANCE.id, id="instance"),
        pytest.param("installation", INSTALLATION.id, id="installation"),
    ],
)
def test_a_record_is_described_by_kind_and_id(kind: str, record_id: str) -> None:
    assert describe(RECORDS[kind]) == (kind, record_id)


def test_what_is_no_record_is_neither_signed_nor_described() -> None:
    odd: Any = KEY.versions[0]

    with pytest.raises(AssertionError):
        signed_bytes(odd, NEWEST_FORMAT)
    with pytest.raises(AssertionError):
        describe(odd)


# --- the verified view of the store -------------------------------------------


def test_a_record_comes_back_as_it_was_saved(here: FakeInstallation) -> None:
    with Records(here.store, here.token).writing() as unit:
        unit.save_key(KEY)
        unit.save_provider(PROVIDER)
        unit.save_node(NODE)

    with Records(here.store, here.token).reading() as unit:
        assert unit.key(KEY.id, within=KEY.instance_id) == KEY
        assert unit.keys(KeyFilter(), KEY.created_at, offset=0, limit=10) == [KEY]
        assert unit.providers() == [PROVIDER]
        assert unit.nodes() == [NODE]
        assert unit.instance(here.instance.id) == here.instance
        assert unit.instances() == [here.instance]


def test_what_is_not_there_is_named_in_the_error(here: FakeInstallation) -> None:
    missing = InstanceId("0f000000-0000-4000-8000-000000000001")
    with Records(here.store, here.token).reading() as unit:
        with pytest.raises(KeyNotFoundError, match=missing):
            unit.key(KeyId(missing))
        with pytest.raises(InstanceNotFoundError, match=missing):
            unit.instance(missing)
        with pytest.raises(ProviderNotFoundError, match="nowhere") as refused:
            unit.provider("nowhere")
        with pytest.raises(NodeNotFoundError, match="node-x"):
            unit.remove_node("keyplane", "node-x")
    assert "keyplane provider set nowhere" in refused.value.hint


def rows_with_wrong_mac(here: FakeInstallation) -> None:
    """Write one record of each kind with the MAC of another record."""
    wrong = here.token.sign(b"another record")
    tables = here.store._tables
    tables.keys[KEY.id] = Signed(KEY, NEWEST_FORMAT, wrong)
    tables.aliases[INSTANCE.id, "etcd"] = KEY.id
    tables.providers[PROVIDER.name] = Signed(PROVIDER, NEWEST_FORMAT, wrong)
    tables.nodes[NODE.provider, NODE.name] = Signed(NODE, NEWEST_FORMAT, wrong)
    tables.instances[INSTANCE.id] = Signed(INSTANCE, NEWEST_FORMAT, wrong)
    tables.installation = Signed(INSTALLATION, NEWEST_FORMAT, wrong)


READS = {
    "key": lambda unit: unit.key(KEY.id),
    "key_owned_by": lambda unit: unit.key_owned_by("demo/etcd"),
    "aliased_key": lambda unit: unit.aliased_key("etcd", within=INSTANCE.id),
    "keys": lambda unit: unit.keys(KeyFilter(), KEY.created_at, offset=0, limit=10),
    "provider": lambda unit: unit.provider(PROVIDER.name),
    "find_provider": lambda unit: unit.find_provider(PROVIDER.name),
    "providers": lambda unit: unit.providers(),
    "nodes": lambda unit: unit.nodes(),
    "instance": lambda unit: unit.instance(INSTANCE.id),
    "find_instance": lambda unit: unit.find_instance(INSTANCE.id),
    "instance_bound_to": lambda unit: unit.instance_bound_to("keyplane-system"),
    "instances": lambda unit: unit.instances(),
    "installation": lambda unit: unit.installation(),
}
"""Every method of a unit that hands out records."""


@pytest.mark.parametrize("method", list(READS))
def test_no_method_hands_out_a_record_with_a_wrong_mac(here: FakeInstallation, method: str) -> None:
    here.store._tables.instances.clear()
    rows_with_wrong_mac(here)

    with (
        Records(here.store, here.token).reading() as unit,
        pytest.raises(IntegrityError, match="fails its integrity check"),
    ):
        READS[method](unit)


def test_every_reading_method_of_a_unit_is_tried() -> None:
    methods = {name for name in vars(service_records.Unit) if not name.startswith("_")}
    hand_out_nothing = {"count_keys", "key_made_before", "remove_node"}

    reading = {name for name in methods if not name.startswith("save_")}
    assert reading == {*READS, *hand_out_nothing}


def test_a_record_of_one_kind_cannot_pass_for_another(here: FakeInstallation) -> None:
    """An instance named like an installation has other signed bytes: the label differs."""
    twin = Instance(InstanceId(INSTALLATION.id), "label", "0123", INSTALLATION.created_at)

    assert signed_bytes(twin, NEWEST_FORMAT) != signed_bytes(INSTALLATION, NEWEST_FORMAT)


def test_a_record_of_an_unknown_format_is_refused(here: FakeInstallation) -> None:
    key = root_key(here)
    signed = here.store._tables.keys[key.id]
    here.store._tables.keys[key.id] = replace(signed, record_format=NEWEST_FORMAT + 1)

    with Records(here.store, here.token).reading() as unit, pytest.raises(IntegrityError):
        unit.key(key.id)


def test_material_swapped_between_two_keys_is_refused(here: FakeInstallation) -> None:
    one, other = root_key(here), root_key(here)
    stolen = replace(one.versions[0], wrapped=other.versions[0].wrapped)
    signed = here.store._tables.keys[one.id]
    here.store._tables.keys[one.id] = replace(signed, record=replace(one, versions=(stolen,)))

    with Records(here.store, here.token).reading() as unit, pytest.raises(IntegrityError):
        unit.key(one.id)


def test_a_heartbeat_needs_no_new_signature(here: FakeInstallation) -> None:
    with Records(here.store, here.token).writing() as unit:
        unit.save_node(NODE)
    signed = here.store._tables.nodes[NODE.provider, NODE.name]
    later = replace(NODE, seen_at=NOW + timedelta(days=1))
    here.store._tables.nodes[NODE.provider, NODE.name] = replace(signed, record=later)

    with Records(here.store, here.token).reading() as unit:
        assert unit.nodes() == [later]


def test_a_new_newest_format_without_an_encoder_cannot_sign(
    here: FakeInstallation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_records, "NEWEST_FORMAT", 99)

    with Records(here.store, here.token).writing() as unit, pytest.raises(AssertionError):
        unit.save_key(KEY)


def test_a_node_whose_record_was_changed_can_still_be_removed(here: FakeInstallation) -> None:
    rows_with_wrong_mac(here)

    with Records(here.store, here.token).writing() as unit:
        unit.remove_node(NODE.provider, NODE.name)

    assert here.store._tables.nodes == {}
