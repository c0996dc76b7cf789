"""A provider that stands alone: what a node keeps beside the store, and how it starts from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from keycore.bootstrap import Core, wire
from keycore.domain.ids import new_uuid
from keycore.domain.keys import Key
from keycore.domain.providers import ActivationState
from keycore.errors import IntegrityError, StoreUnavailableError
from keycore.service.keyring import KMS_USES_AHEAD, KMS_USES_ASIDE
from keycore.service.kms import HEALTHY, KmsProvider
from keycore.service.kms_health import PROBE_SECONDS, KmsStatus
from keycore.settings import ProviderSettings, Settings
from tests.fakes.installation import CALLER, FakeInstallation
from tests.fakes.memory_keyring import MemoryKeyring
from tests.unit.keycore.examples import APISERVER, SEED, put_provider, root_key, tamper_key


def process(here: FakeInstallation, keyring: MemoryKeyring, node: str = "node-a") -> Core:
    """Start a provider process with a keyring, as bootstrap does."""
    kept = keyring.kept
    core = wire(
        Settings(state_dir=Path("/nonexistent"), provider=ProviderSettings(node=node)),
        here.store,
        here.token,
        here.audit,
        here.clock,
        keyring=keyring,
        installation=here.core.installation,
    )
    if kept is not None:
        core.kms.start_from(kept)
    core.kms.refresh()
    return core


@pytest.fixture
def keyring() -> MemoryKeyring:
    return MemoryKeyring()


@pytest.fixture
def key(here: FakeInstallation) -> Key:
    key = root_key(here)
    here.core.providers.bind(CALLER, "keyplane", key.id)
    return key


@pytest.fixture
def kms(here: FakeInstallation, key: Key, keyring: MemoryKeyring) -> KmsProvider:
    """A provider that has run once with its store."""
    kms = process(here, keyring).kms
    kms.status()
    return kms


def test_a_start_without_the_store_serves_everything_that_was_known(
    here: FakeInstallation, keyring: MemoryKeyring, kms: KmsProvider
) -> None:
    ciphertext, key_id = kms.encrypt(APISERVER, SEED)
    here.store.lost = True

    restarted = process(here, keyring).kms

    assert restarted.status().healthz == HEALTHY
    assert restarted.status().key_id == key_id
    assert restarted.decrypt(APISERVER, ciphertext, key_id) == SEED
    assert restarted.encrypt(APISERVER, SEED)[1] == key_id
    assert restarted.report().from_keyring


def test_what_was_rotated_meanwhile_is_learnt_when_the_store_answers(
    here: FakeInstallation, keyring: MemoryKeyring, key: Key, kms: KmsProvider
) -> None:
    former = kms.status().key_id
    here.store.lost = True
    restarted = process(here, keyring).kms
    here.store.lost = False
    here.core.keys.rotate(CALLER, key.id)
    here.store.lost = True
    restarted.refresh()
    assert restarted.status().key_id == former

    here.store.lost = False
    restarted.refresh()

    assert restarted.status().key_id not in ("", former)
    assert not restarted.report().from_keyring


def test_a_node_keeps_an_activation_before_it_says_that_it_has_loaded_it(
    here: FakeInstallation, keyring: MemoryKeyring, key: Key, kms: KmsProvider
) -> None:
    former = kms.status().key_id
    keyring.full = True
    here.core.keys.rotate(CALLER, key.id)

    kms.refresh()

    assert kms.status().key_id == former
    assert here.core.providers.overview("keyplane").waiting_for == ("node-a",)
    assert any("could not start without the store" in warning for warning in kms.warnings())
    assert kms.status().healthz == HEALTHY

    keyring.full = False
    kms.refresh()
    assert kms.status().key_id not in ("", former)
    assert kms.warnings() == []


def test_all_generations_are_kept(
    here: FakeInstallation, keyring: MemoryKeyring, key: Key, kms: KmsProvider
) -> None:
    written = [kms.encrypt(APISERVER, SEED)]
    for _ in range(3):
        here.core.keys.rotate(CALLER, key.id)
        kms.refresh()
        kms.status()
        written.append(kms.encrypt(APISERVER, SEED))
    here.store.lost = True

    restarted = process(here, keyring).kms

    assert len({key_id for _, key_id in written}) == 4
    for ciphertext, key_id in written:
        assert restarted.decrypt(APISERVER, ciphertext, key_id) == SEED


def test_nothing_is_kept_of_keys_that_the_provider_does_not_need(
    here: FakeInstallation, keyring: MemoryKeyring, key: Key, kms: KmsProvider
) -> None:
    root_key(here)
    kms.refresh()

    assert keyring.kept is not None
    assert [kept.id for kept in keyring.kept.keys] == [key.id]


def test_a_released_key_leaves_the_keyring(
    here: FakeInstallation, keyring: MemoryKeyring, key: Key, kms: KmsProvider
) -> None:
    other = root_key(here)
    here.core.providers.bind(CALLER, "keyplane", other.id)
    kms.refresh()
    kms.status()

    here.core.providers.release(CALLER, "keyplane", key.id)
    kms.refresh()

    assert keyring.kept is not None
    assert [kept.id for kept in keyring.kept.keys] == [other.id]


def test_the_keyring_is_written_only_when_something_has_changed(
    here: FakeInstallation, keyring: MemoryKeyring, kms: KmsProvider
) -> None:
    before = keyring.writes
    root_key(here)

    for _ in range(10):
        here.clock.advance(seconds=60)
        kms.refresh()

    assert keyring.writes == before


def test_a_ledger_that_is_shorter_than_the_keyring_is_not_followed(
    here: FakeInstallation, keyring: MemoryKeyring, key: Key, kms: KmsProvider
) -> None:
    """An older backup of the store was put back while the node was down."""
    older = here.store._tables.providers["keyplane"]
    here.core.keys.rotate(CALLER, key.id)
    kms.refresh()
    kms.status()
    ciphertext, key_id = kms.encrypt(APISERVER, SEED)
    here.store._tables.providers["keyplane"] = older

    restarted = process(here, keyring).kms

    assert restarted.status().key_id == key_id
    assert "fails its integrity check" in restarted.status().healthz
    assert restarted.decrypt(APISERVER, ciphertext, key_id) == SEED


def test_another_ledger_of_the_same_length_is_not_followed(
    here: FakeInstallation, keyring: MemoryKeyring, key: Key, kms: KmsProvider
) -> None:
    """An older store was put back, and went on differently."""
    rows = here.store._tables
    older = rows.providers["keyplane"], rows.keys[key.id]
    here.core.keys.rotate(CALLER, key.id)
    kms.refresh()
    kms.status()
    ciphertext, key_id = kms.encrypt(APISERVER, SEED)
    rows = here.store._tables
    rows.providers["keyplane"], rows.keys[key.id] = older
    here.core.providers.bind(CALLER, "keyplane", root_key(here).id)

    kms.refresh()

    assert kms.status().key_id == key_id
    assert "fails its integrity check" in kms.status().healthz
    assert kms.decrypt(APISERVER, ciphertext, key_id) == SEED


def test_a_ledger_in_an_earlier_state_is_not_followed(
    here: FakeInstallation, keyring: MemoryKeyring, key: Key, kms: KmsProvider
) -> None:
    """Its rows are as many, but Status would go back to a former key_id."""
    here.core.providers.report("keyplane", "node-b", 1)
    here.core.keys.rotate(CALLER, key.id)
    kms.refresh()
    older = here.store._tables.providers["keyplane"]
    here.core.providers.report("keyplane", "node-b", 2)
    kms.refresh()
    newest = kms.status().key_id
    put_provider(here, older)
    here.core.providers.report("keyplane", "node-c", 0)

    kms.refresh()

    assert kms.status().key_id == newest


def test_status_does_not_move_to_a_key_id_that_a_restart_would_take_back(
    here: FakeInstallation, keyring: MemoryKeyring, key: Key, kms: KmsProvider
) -> None:
    """The disk is full just when the others have switched."""
    former = kms.status().key_id
    here.core.providers.report("keyplane", "node-b", 1)
    here.core.keys.rotate(CALLER, key.id)
    kms.refresh()
    keyring.full = True
    here.core.providers.report("keyplane", "node-b", 2)

    kms.refresh()

    assert kms.status() == KmsStatus(HEALTHY, former)
    assert kms.encrypt(APISERVER, SEED)[1] == former
    keyring.full = False
    kms.refresh()
    newest = kms.status().key_id
    assert newest not in ("", former)
    here.store.lost = True
    assert process(here, keyring).kms.status().key_id == newest


def test_what_the_token_could_not_load_at_the_start_is_loaded_without_the_store(
    here: FakeInstallation, keyring: MemoryKeyring, kms: KmsProvider
) -> None:
    ciphertext, key_id = kms.encrypt(APISERVER, SEED)
    here.store.lost = here.token.lost = True
    restarted = process(here, keyring).kms
    assert restarted.status().key_id == ""
    here.token.lost = False

    restarted.refresh()

    assert restarted.status() == KmsStatus(HEALTHY, key_id)
    assert restarted.decrypt(APISERVER, ciphertext, key_id) == SEED


def test_a_key_that_is_broken_in_the_store_stays_in_the_keyring_and_serves(
    here: FakeInstallation, keyring: MemoryKeyring, key: Key, kms: KmsProvider
) -> None:
    ciphertext, key_id = kms.encrypt(APISERVER, SEED)
    tamper_key(here, key.id, name="changed")
    here.token.lost = True
    restarted = process(here, keyring).kms
    here.token.lost = False

    restarted.refresh()

    assert restarted.decrypt(APISERVER, ciphertext, key_id) == SEED
    assert keyring.kept is not None
    assert [kept.id for kept in keyring.kept.keys] == [key.id]


def test_an_older_keyring_does_not_bring_back_what_was_released(
    here: FakeInstallation, keyring: MemoryKeyring, key: Key, kms: KmsProvider
) -> None:
    ciphertext, key_id = kms.encrypt(APISERVER, SEED)
    older = keyring.kept
    here.core.providers.bind(CALLER, "keyplane", root_key(here).id)
    kms.refresh()
    kms.status()
    here.core.providers.release(CALLER, "keyplane", key.id)
    kms.refresh()
    keyring.kept = older

    restarted = process(here, keyring).kms

    with pytest.raises(Exception, match="invalid or corrupted"):
        restarted.decrypt(APISERVER, ciphertext, key_id)
    assert keyring.kept is not older


def test_a_process_that_knows_less_does_not_write_over_one_that_knows_more(
    here: FakeInstallation, keyring: MemoryKeyring, key: Key, kms: KmsProvider
) -> None:
    """During a takeover two processes have one keyring, and one may be cut off."""
    newer = process(here, keyring).kms
    here.core.keys.rotate(CALLER, key.id)
    newer.refresh()
    newer.status()
    here.store.lost = True
    kms._keeper.keyring.fault = "the disk was full"

    kms.refresh()

    assert keyring.kept is not None
    assert len(keyring.kept.provider.activations) == 2
    assert kms._keeper.keyring.fault == ""


def test_the_keyring_of_another_installation_is_not_overwritten(
    here: FakeInstallation, keyring: MemoryKeyring, kms: KmsProvider
) -> None:
    """It may be the last copy of keys that somebody still needs."""
    assert keyring.kept is not None
    other = replace(keyring.kept.installation, id="another")
    foreign = keyring.kept = replace(keyring.kept, installation=other)

    core = wire(
        Settings(state_dir=Path("/nonexistent"), provider=ProviderSettings(node="node-a")),
        here.store,
        here.token,
        here.audit,
        here.clock,
        keyring=keyring,
    )
    core.kms.refresh()

    assert keyring.kept is foreign
    assert any("another installation" in warning for warning in core.kms.warnings())


@pytest.mark.parametrize("change", ["node", "provider", "installation"])
def test_the_keyring_of_somebody_else_is_refused(
    here: FakeInstallation, keyring: MemoryKeyring, kms: KmsProvider, change: str
) -> None:
    kept = keyring.kept
    assert kept is not None
    foreign = {
        "node": replace(kept, node="node-b"),
        "provider": replace(kept, provider=replace(kept.provider, name="other")),
        "installation": replace(kept, installation=replace(kept.installation, id=new_uuid())),
    }[change]

    with pytest.raises(IntegrityError):
        here.another_process("node-a").kms.start_from(foreign)


def test_a_refused_keyring_is_audited_and_replaced(
    here: FakeInstallation, keyring: MemoryKeyring, kms: KmsProvider
) -> None:
    keyring.broken = True
    restarted = process(here, MemoryKeyring()).kms
    restarted.refuse_keyring(IntegrityError("keyring", "memory"))

    assert [event.outcome for event in here.audit.events if event.operation == "keyring.load"] == [
        "integrity"
    ]
    assert any("keyring" in warning for warning in restarted.warnings())


# --- uses ---------------------------------------------------------------------------


def spare(keyring: MemoryKeyring) -> int:
    assert keyring.kept is not None
    return sum(count for _, count in keyring.kept.uses)


def test_a_start_without_the_store_takes_uses_that_were_counted_before(
    here: FakeInstallation, keyring: MemoryKeyring, key: Key, kms: KmsProvider
) -> None:
    granted = here.store.uses([key.current.id])[key.current.id]
    aside = spare(keyring)
    here.store.lost = True

    restarted = process(here, keyring).kms

    assert spare(keyring) == aside - KMS_USES_AHEAD
    for _ in range(KMS_USES_AHEAD):
        restarted.encrypt(APISERVER, SEED)
    with pytest.raises(StoreUnavailableError):
        restarted.encrypt(APISERVER, SEED)
    here.store.lost = False
    assert here.store.uses([key.current.id])[key.current.id] == granted


def test_a_block_that_is_used_up_is_followed_by_the_next_one(
    here: FakeInstallation, keyring: MemoryKeyring, kms: KmsProvider
) -> None:
    here.store.lost = True
    restarted = process(here, keyring).kms
    for _ in range(KMS_USES_AHEAD):
        restarted.encrypt(APISERVER, SEED)

    restarted.refresh_ledger()

    assert restarted.encrypt(APISERVER, SEED)


def test_start_after_start_without_the_store_counts_nothing_twice(
    here: FakeInstallation, keyring: MemoryKeyring, kms: KmsProvider
) -> None:
    here.store.lost = True
    starts = spare(keyring) // KMS_USES_AHEAD

    for _ in range(starts):
        process(here, keyring).kms.encrypt(APISERVER, SEED)
    one_more = process(here, keyring).kms

    assert starts >= 32
    assert spare(keyring) == 0
    with pytest.raises(StoreUnavailableError):
        one_more.encrypt(APISERVER, SEED)
    assert one_more.status().healthz == HEALTHY


def test_uses_are_put_aside_again_when_the_store_is_back(
    here: FakeInstallation, keyring: MemoryKeyring, key: Key, kms: KmsProvider
) -> None:
    here.store.lost = True
    while spare(keyring):
        restarted = process(here, keyring).kms
    here.store.lost = False
    granted = here.store.uses([key.current.id])[key.current.id]

    restarted.refresh()

    assert spare(keyring) >= KMS_USES_ASIDE // 2
    assert here.store.uses([key.current.id])[key.current.id] >= granted + spare(keyring)


def test_no_use_is_taken_that_cannot_be_struck_off_the_keyring(
    here: FakeInstallation, keyring: MemoryKeyring, kms: KmsProvider
) -> None:
    aside = spare(keyring)
    here.store.lost = True
    keyring.full = True

    restarted = process(here, keyring).kms

    with pytest.raises(StoreUnavailableError):
        restarted.encrypt(APISERVER, SEED)
    assert spare(keyring) == aside


def test_a_keyring_that_cannot_be_written_wastes_no_uses(here: FakeInstallation, key: Key) -> None:
    """A full disk for a day would otherwise use the version up."""
    keyring = MemoryKeyring()
    keyring.full = True
    kms = process(here, keyring).kms
    granted = here.store.uses([key.current.id])

    for _ in range(100):
        kms.refresh()

    assert here.store.uses([key.current.id]) == granted


def test_that_no_uses_are_left_is_told(
    here: FakeInstallation, keyring: MemoryKeyring, kms: KmsProvider
) -> None:
    here.store.lost = keyring.full = True

    restarted = process(here, keyring).kms

    assert any(warning.startswith("Encrypt is refused") for warning in restarted.warnings())
    here.store.lost = keyring.full = False
    restarted.refresh()
    assert restarted.warnings() == []


def test_a_store_that_hangs_makes_no_proof_old(
    here: FakeInstallation,
    keyring: MemoryKeyring,
    kms: KmsProvider,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hang(*_: object) -> None:
        pytest.fail("a proof has asked the store")

    for _ in range(KMS_USES_AHEAD - 1):
        kms.encrypt(APISERVER, SEED)
    for method in ("reserve_uses", "changes_since", "reading", "writing", "uses"):
        monkeypatch.setattr(here.store, method, hang)
    here.clock.advance(seconds=PROBE_SECONDS)

    kms.prove()

    assert kms.report().probe_age_seconds == 0


def test_uses_that_another_process_of_the_node_has_taken_do_not_come_back(
    here: FakeInstallation, keyring: MemoryKeyring, key: Key, kms: KmsProvider
) -> None:
    """During a takeover two processes have one keyring."""
    before = spare(keyring)
    here.store.lost = True
    process(here, keyring)
    left = spare(keyring)
    assert left == before - KMS_USES_AHEAD
    here.store.lost = False

    # A node that is down holds the next version back, so the old process writes the
    # keyring while the version that it knew uses of is still the active one.
    here.core.providers.report("keyplane", "node-b", 1)
    here.core.keys.rotate(CALLER, key.id)
    granted = here.store.uses([key.current.id])[key.current.id]
    kms.refresh()

    assert keyring.kept is not None
    assert len(keyring.kept.provider.activations) == 2
    reserved = here.store.uses([key.current.id])[key.current.id] - granted
    assert dict(keyring.kept.uses)[key.current.id] == left + reserved


def test_states_of_all_activations_are_told(
    here: FakeInstallation, key: Key, kms: KmsProvider
) -> None:
    here.core.keys.rotate(CALLER, key.id)
    kms.refresh()

    assert kms.report().generations == {ActivationState.RETIRED: 1, ActivationState.ACTIVE: 1}
