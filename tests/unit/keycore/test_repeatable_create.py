"""Idempotency keys: a create that may be sent again makes one key."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from keycore.domain.keys import Key, KeyKind
from keycore.errors import (
    IdempotencyKeyReusedError,
    InvalidRequestError,
    KeyDeletedError,
    TokenUnavailableError,
)
from keycore.ports import RECEIPT_AGE, KeyFilter
from keycore.service.creation import NewKey
from tests.fakes.installation import CALLER, FakeInstallation
from tests.unit.keycore.examples import another_instance

WANTED = NewKey("name", description="what for", tags=("a",))


def create(
    here: FakeInstallation, wanted: NewKey = WANTED, key: str = "key-1", **place: Any
) -> Key:
    caller = place.get("caller", CALLER)
    instance = place.get("instance", here.instance.id)
    return here.core.keys.create(caller, instance, wanted, idempotency_key=key)


def count(here: FakeInstallation) -> int:
    return here.core.keys.count(CALLER, KeyFilter())


def test_the_same_request_again_returns_the_first_key(here: FakeInstallation) -> None:
    first = create(here)

    assert create(here) == first
    assert count(here) == 1


def test_the_second_answer_is_audited_as_a_repetition(here: FakeInstallation) -> None:
    create(here)
    assert "repeated" not in here.audit.last("key.create").details

    create(here)

    assert here.audit.last("key.create").details["repeated"] == 1


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"name": "other"}, id="name"),
        pytest.param({"kind": KeyKind.STANDARD}, id="kind"),
        pytest.param({"description": None}, id="description"),
        pytest.param({"material": bytes(32)}, id="material"),
        pytest.param({"aliases": ("alias",)}, id="aliases"),
        pytest.param({"tags": ()}, id="tags"),
    ],
)
def test_another_request_under_one_key_is_refused(
    here: FakeInstallation, other: dict[str, Any]
) -> None:
    create(here)

    with pytest.raises(IdempotencyKeyReusedError):
        create(here, replace(WANTED, **other))
    assert count(here) == 1


def test_another_expiration_date_is_another_request(here: FakeInstallation) -> None:
    create(here)
    later = here.clock.now() + timedelta(days=1)

    with pytest.raises(IdempotencyKeyReusedError):
        create(here, replace(WANTED, expires_at=later))


def test_other_material_is_another_request(here: FakeInstallation) -> None:
    create(here, replace(WANTED, material=bytes(32)))

    with pytest.raises(IdempotencyKeyReusedError):
        create(here, replace(WANTED, material=bytes(31) + b"1"))


def test_other_callers_instances_and_keys_do_not_meet(here: FakeInstallation) -> None:
    made = {
        create(here).id,
        create(here, key="key-2").id,
        create(here, caller=replace(CALLER, actor="uid:1")).id,
        create(here, instance=another_instance(here)).id,
    }

    assert len(made) == 4


def test_the_correlation_id_does_not_matter(here: FakeInstallation) -> None:
    first = create(here)

    assert create(here, caller=replace(CALLER, correlation_id="another")) == first


def test_a_create_that_failed_can_be_sent_again(here: FakeInstallation) -> None:
    here.token.lost = True
    with pytest.raises(TokenUnavailableError):
        create(here)
    here.token.lost = False

    assert create(here).name == "name"
    assert count(here) == 1


def test_a_key_deleted_meanwhile_is_told_and_not_made_again(here: FakeInstallation) -> None:
    first = create(here)
    here.core.keys.delete(CALLER, first.id)

    with pytest.raises(KeyDeletedError):
        create(here)


def test_a_receipt_led_to_another_key_is_refused(here: FakeInstallation) -> None:
    """Whoever changes the store cannot make a repetition return another key."""
    create(here)
    other = create(here, key="key-2")
    receipts = here.store._tables.receipts
    mine = next(r for r in receipts.values() if r.key_id != other.id)
    receipts[mine.id] = replace(mine, key_id=other.id)

    with pytest.raises(IdempotencyKeyReusedError):
        create(here)


def test_a_key_is_remembered_for_a_day(here: FakeInstallation) -> None:
    first = create(here)
    here.clock.advance(seconds=RECEIPT_AGE.total_seconds() + 1)
    create(here, key="key-2")

    assert create(here).id != first.id


def test_the_material_of_an_import_is_not_in_the_receipt(here: FakeInstallation) -> None:
    material = bytes(range(32))
    create(here, replace(WANTED, material=material))

    (receipt,) = here.store._tables.receipts.values()
    assert len(receipt.id) == len(receipt.mac) == 32
    assert material not in receipt.id + receipt.mac


@pytest.mark.parametrize(
    "key",
    [
        pytest.param("", id="empty"),
        pytest.param("x" * 256, id="256 characters"),
        pytest.param("ä", id="not ASCII"),
        pytest.param("a\nb", id="line break"),
    ],
)
def test_a_malformed_idempotency_key_is_refused(here: FakeInstallation, key: str) -> None:
    with pytest.raises(InvalidRequestError):
        create(here, key=key)
    assert count(here) == 0


def test_a_repeated_create_of_a_standard_key_returns_the_same_payload(
    here: FakeInstallation,
) -> None:
    wanted = NewKey("name", kind=KeyKind.STANDARD)

    opened = [
        here.core.keys.create_opened(CALLER, here.instance.id, wanted, idempotency_key="k")
        for _ in range(2)
    ]

    assert opened[0] == opened[1]
    assert opened[0].payload is not None
    assert len(opened[0].payload) == 32
