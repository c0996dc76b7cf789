"""What another process did a moment ago, and what nobody may overlook."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from keycore.domain.keys import Key
from keycore.errors import CiphertextRejectedError, KeyNotFoundError
from keycore.service.creation import NewKey
from keycore.service.keys import Edits
from keycore.service.use_budget import RESERVED_MAX, UseBudget
from tests.fakes.installation import CALLER, FakeInstallation
from tests.unit.keycore.examples import root_key


@pytest.fixture
def key(here: FakeInstallation) -> Key:
    return root_key(here)


def test_a_ciphertext_of_a_version_that_another_process_just_made_opens_at_once(
    here: FakeInstallation, key: Key
) -> None:
    here.core.wrapping.wrap(CALLER, key.instance_id, key.id)
    other = here.another_process()
    other.keys.rotate(CALLER, key.id)
    fresh = other.wrapping.wrap(CALLER, key.instance_id, key.id, b"x")

    opened = here.core.wrapping.unwrap(CALLER, key.instance_id, key.id, fresh.ciphertext)

    assert opened.plaintext == b"x"


def test_a_version_that_nobody_made_is_rejected_after_the_second_look(
    here: FakeInstallation, key: Key
) -> None:
    stranger = root_key(here)
    foreign = here.core.wrapping.wrap(CALLER, stranger.instance_id, stranger.id, b"x")

    with pytest.raises(CiphertextRejectedError):
        here.core.wrapping.unwrap(CALLER, key.instance_id, key.id, foreign.ciphertext)


def test_a_working_copy_that_a_running_call_brought_back_is_forgotten_at_the_next_refresh(
    here: FakeInstallation, key: Key
) -> None:
    here.core.wrapping.wrap(CALLER, key.instance_id, key.id)
    here.core.keys.delete(CALLER, key.id)
    here.token.forgotten.clear()

    here.core.cache.refresh()

    assert key.current.id in here.token.forgotten


def test_half_of_the_uses_are_warned_of_once(here: FakeInstallation, key: Key) -> None:
    warned: list[int] = []
    budget = UseBudget(
        here.store, block=10, limit=100, warn=lambda _version, used: warned.append(used)
    )

    for _ in range(100):
        budget.take(key.current.id)

    assert warned == [50]


def test_the_warning_is_an_audit_line(here: FakeInstallation, key: Key) -> None:
    limit = RESERVED_MAX
    here.store.reserve_uses([key.current.id], limit // 2 - 1, limit)

    here.core.wrapping.wrap(CALLER, key.instance_id, key.id)

    event = here.audit.last("key.half_used")
    assert (event.outcome, event.details["version"]) == ("warning", key.current.id)


def test_the_report_that_activates_a_version_is_audited(here: FakeInstallation, key: Key) -> None:
    here.core.providers.bind(CALLER, "keyplane", key.id)
    here.core.kms.refresh()
    rotated = here.core.keys.rotate(CALLER, key.id)

    here.core.kms.refresh()

    event = here.audit.last("provider.activate")
    assert event.details["version"] == rotated.versions[-1].id
    assert event.actor == "node:node-a"


def test_a_heartbeat_leaves_no_audit_line(here: FakeInstallation, key: Key) -> None:
    here.core.providers.bind(CALLER, "keyplane", key.id)
    here.core.kms.refresh()
    before = len(here.audit.events)

    here.clock.advance(seconds=30)
    here.core.kms.refresh()

    assert len(here.audit.events) == before


def test_a_key_that_a_provider_never_had_cannot_be_released(
    here: FakeInstallation, key: Key
) -> None:
    here.core.providers.bind(CALLER, "keyplane", key.id)

    with pytest.raises(KeyNotFoundError):
        here.core.providers.release(CALLER, "keyplane", root_key(here).id)


def test_a_rotated_import_reports_the_length_of_its_newest_material(
    here: FakeInstallation,
) -> None:
    key = here.core.keys.create(CALLER, here.instance.id, NewKey("mine", material=bytes(32)))

    rotated = here.core.keys.rotate(CALLER, key.id, material=bytes(64))

    assert (key.bit_length, rotated.bit_length) == (256, 512)


def test_the_expiry_of_a_bound_key_warns_and_does_not_touch_health(
    here: FakeInstallation, key: Key
) -> None:
    here.core.providers.bind(CALLER, "keyplane", key.id)
    here.core.keys.edit(
        CALLER, key.id, replace(Edits(), expires_at=here.clock.now() + timedelta(days=1))
    )
    here.core.kms.refresh()
    assert here.core.kms.warnings() == []

    here.clock.advance(days=1)
    here.core.kms.refresh()

    assert key.id in here.core.kms.warnings()[0]
    assert here.core.kms.status().healthz == "ok"
