"""How keys come to be: generated or imported, whole or not at all."""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from keycore.domain.ids import InstanceId, new_uuid
from keycore.domain.keys import KeyKind, KeyState, VersionState
from keycore.errors import (
    InstanceNotFoundError,
    InvalidRequestError,
    StoreUnavailableError,
    TokenUnavailableError,
)
from keycore.ports import KeyFilter
from keycore.service.creation import NewKey, fold_to_aes_256
from tests.fakes.installation import CALLER, FakeInstallation
from tests.unit.keycore.examples import (
    material_of,
    root_key,
    standard_key,
)

FOLD = json.loads((Path(__file__).parents[2] / "vectors" / "fold.json").read_text(encoding="utf-8"))
FOLD_CASES = [pytest.param(case, id=f"{case['bits']}-bits") for case in FOLD["cases"]]


def test_a_generated_root_key_is_active_with_one_version(here: FakeInstallation) -> None:
    until = here.clock.now() + timedelta(days=1)

    key = root_key(here, name="etcd", description="what it is for", expires_at=until)

    assert (key.name, key.description, key.kind) == ("etcd", "what it is for", KeyKind.ROOT)
    assert (key.state, key.expires_at, key.deleted_at) == (KeyState.ACTIVE, until, None)
    assert (key.imported, key.bit_length) == (False, 256)
    assert (key.created_by, key.created_at) == (CALLER.actor, here.clock.now())
    assert (key.owner, key.rotation_marker) == (None, None)
    assert [(v.number, v.state) for v in key.versions] == [(1, VersionState.ACTIVE)]
    assert len(material_of(here, key)) == 32
    assert here.core.keys.get(CALLER, key.id) == key


def test_every_generated_key_has_other_material_and_other_ids(here: FakeInstallation) -> None:
    keys = [root_key(here) for _ in range(10)]

    assert len({material_of(here, key) for key in keys}) == 10
    assert len({key.id for key in keys} | {key.current.id for key in keys}) == 20


@pytest.mark.parametrize("case", FOLD_CASES)
def test_imported_material_becomes_the_aes_key_of_the_vector(
    here: FakeInstallation, case: dict[str, Any]
) -> None:
    key = root_key(here, material=bytes.fromhex(case["material"]))

    assert material_of(here, key).hex() == case["root_key"]
    assert (key.imported, key.bit_length) == (True, case["bits"])


@pytest.mark.parametrize("case", FOLD_CASES[1:])
def test_the_fold_is_hkdf_as_rfc_5869_writes_it(case: dict[str, Any]) -> None:
    material = bytes.fromhex(case["material"])
    extracted = hmac.digest(bytes(64), material, hashlib.sha512)
    expanded = hmac.digest(extracted, FOLD["info"].encode() + b"\x01", hashlib.sha512)

    assert fold_to_aes_256(material) == expanded[:32]


def test_a_generated_standard_key_is_handed_out(here: FakeInstallation) -> None:
    one, other = standard_key(here), standard_key(here)

    payload = here.core.keys.payload(CALLER, one.id, within=here.instance.id)

    assert len(payload) == 32
    assert payload != here.core.keys.payload(CALLER, other.id)
    assert (one.imported, one.bit_length) == (False, 256)


@pytest.mark.parametrize("size", [32, 48, 64])
def test_an_imported_standard_key_comes_back_as_it_was(here: FakeInstallation, size: int) -> None:
    material = bytes(range(size))
    key = standard_key(here, material=material)

    assert here.core.keys.payload(CALLER, key.id) == material
    assert (key.imported, key.bit_length) == (True, 8 * size)


def test_a_standard_key_is_sealed_to_its_instance_id_kind_and_version(
    here: FakeInstallation,
) -> None:
    """The exact bytes: whoever changes them loses every standard key in every store."""
    key = standard_key(here, material=bytes(32))
    fields = [
        b"skeyplane/seal/1",
        b"s" + key.instance_id.encode(),
        b"s" + key.id.encode(),
        b"sstandard",
        b"i" + struct.pack(">q", 1),
    ]
    aad = struct.pack("<Q", 5) + b"".join(struct.pack("<Q", len(f)) + f for f in fields)

    sealed = key.current.wrapped

    assert sealed is not None
    assert here.token.unseal(sealed, aad) == bytes(32)


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        pytest.param({"name": "x"}, "name", id="name"),
        pytest.param({"description": "x"}, "description", id="description"),
        pytest.param({"material": bytes(16)}, "payload", id="material"),
        pytest.param({"material": b""}, "payload", id="no-material"),
    ],
)
def test_a_key_out_of_bounds_is_not_made(
    here: FakeInstallation, wanted: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        root_key(here, **wanted)

    assert refused.value.field == field
    assert here.core.keys.count(CALLER, KeyFilter()) == 0


def test_a_key_that_would_be_born_expired_is_not_made(here: FakeInstallation) -> None:
    with pytest.raises(InvalidRequestError):
        root_key(here, expires_at=here.clock.now())


def test_a_key_needs_an_instance(here: FakeInstallation) -> None:
    with pytest.raises(InstanceNotFoundError):
        here.core.keys.create(CALLER, InstanceId(new_uuid()), NewKey("key"))


@pytest.mark.parametrize("part", ["token", "store"])
def test_nothing_is_made_while_token_or_store_are_away(here: FakeInstallation, part: str) -> None:
    getattr(here, part).lost = True
    with pytest.raises((TokenUnavailableError, StoreUnavailableError)):
        root_key(here)
    getattr(here, part).lost = False

    assert here.core.keys.count(CALLER, KeyFilter()) == 0


def test_new_material_never_shows_in_a_representation() -> None:
    assert "planted" not in repr(NewKey("key", material=b"planted"))
