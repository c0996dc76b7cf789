"""What callers may see of keys: their instance's, verified, and never a root key's material."""

from __future__ import annotations

from dataclasses import replace

import pytest

from keycore.domain.ids import KeyId, new_uuid
from keycore.errors import (
    IntegrityError,
    InvalidRequestError,
    KeyDeletedError,
    KeyNotFoundError,
)
from keycore.ports import KeyFilter
from keycore.service.creation import NewKey
from keycore.service.keys import Edits
from tests.fakes.installation import CALLER, FakeInstallation
from tests.unit.keycore.examples import (
    another_instance,
    root_key,
    save_key,
    standard_key,
    tamper_key,
)


def test_a_key_of_another_instance_does_not_exist(here: FakeInstallation) -> None:
    """The answer must not tell that it exists elsewhere."""
    key, elsewhere = root_key(here), another_instance(here)
    unknown = KeyId(new_uuid())

    messages = set()
    for key_id in (key.id, unknown):
        for use in (
            lambda k: here.core.keys.get(CALLER, k, within=elsewhere),
            lambda k: here.core.keys.payload(CALLER, k, within=elsewhere),
            lambda k: here.core.keys.rotate(CALLER, k, within=elsewhere),
            lambda k: here.core.keys.suspend(CALLER, k, within=elsewhere),
            lambda k: here.core.keys.resume(CALLER, k, within=elsewhere),
            lambda k: here.core.keys.edit(CALLER, k, Edits(), within=elsewhere),
            lambda k: here.core.keys.adopt(CALLER, k, "owner", within=elsewhere),
            lambda k: here.core.keys.release(CALLER, k, within=elsewhere),
            lambda k: here.core.keys.delete(CALLER, k, within=elsewhere),
            lambda k: here.core.wrapping.wrap(CALLER, elsewhere, k),
        ):
            with pytest.raises(KeyNotFoundError) as refused:
                use(key_id)
            messages.add(refused.value.message.replace(key_id, "ID"))

    assert messages == {"key ID does not exist"}
    assert here.core.keys.get(CALLER, key.id) == key


def test_a_root_key_is_never_handed_out(here: FakeInstallation) -> None:
    key = root_key(here, material=bytes(32))

    with pytest.raises(InvalidRequestError, match="never handed out"):
        here.core.keys.payload(CALLER, key.id)


def test_a_deleted_standard_key_is_not_handed_out(here: FakeInstallation) -> None:
    key = standard_key(here)
    here.core.keys.delete(CALLER, key.id)

    with pytest.raises(KeyDeletedError):
        here.core.keys.payload(CALLER, key.id)


def test_a_standard_key_without_material_is_a_broken_record(here: FakeInstallation) -> None:
    key = standard_key(here)
    save_key(here, replace(key, versions=(replace(key.versions[0], wrapped=None),)))

    with pytest.raises(IntegrityError):
        here.core.keys.payload(CALLER, key.id)


def test_pages_are_sorted_by_id_and_cover_the_instance(here: FakeInstallation) -> None:
    made = sorted(root_key(here).id for _ in range(5))
    here.core.keys.create(CALLER, another_instance(here), NewKey("elsewhere"))
    mine = KeyFilter(here.instance.id)

    pages = [here.core.keys.page(CALLER, mine, offset=o, limit=2).keys for o in (0, 2, 4, 6)]

    assert [[key.id for key in page] for page in pages] == [made[:2], made[2:4], made[4:], []]
    assert here.core.keys.count(CALLER, mine) == 5
    assert here.core.keys.count(CALLER, KeyFilter()) == 6


@pytest.mark.parametrize(
    ("bounds", "field"),
    [
        pytest.param({"offset": -1}, "offset", id="negative-offset"),
        pytest.param({"limit": 0}, "limit", id="no-limit"),
        pytest.param({"limit": 5001}, "limit", id="limit-too-high"),
    ],
)
def test_a_page_out_of_bounds_is_refused(
    here: FakeInstallation, bounds: dict[str, int], field: str
) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        here.core.keys.page(CALLER, KeyFilter(), **bounds)

    assert refused.value.field == field


@pytest.mark.parametrize("limit", [1, 5000])
def test_a_page_at_the_bounds_is_given(here: FakeInstallation, limit: int) -> None:
    assert here.core.keys.page(CALLER, KeyFilter(), limit=limit).keys == []


def test_a_key_changed_in_the_store_is_refused_everywhere(here: FakeInstallation) -> None:
    key = root_key(here)
    tamper_key(here, key.id, bit_length=512)

    with pytest.raises(IntegrityError, match=key.id):
        here.core.keys.get(CALLER, key.id)
    with pytest.raises(IntegrityError, match=key.id):
        here.core.keys.page(CALLER, KeyFilter())
    with pytest.raises(IntegrityError, match=key.id):
        here.core.keys.delete(CALLER, key.id)
