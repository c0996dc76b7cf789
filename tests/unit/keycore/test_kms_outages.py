"""What a KMS v2 provider does while store, token or records are broken, and how it heals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from keycore.bootstrap import wire
from keycore.domain.ids import VersionId, new_uuid
from keycore.domain.keys import Key
from keycore.domain.providers import Activation, ActivationState, OutagePolicy
from keycore.errors import IntegrityError, TokenUnavailableError, UnavailableError
from keycore.ports import Changes, TokenCondition, WrappedKey
from keycore.service.kms import HEALTHY, STALE_SECONDS, KmsProvider
from keycore.service.kms_health import (
    PROBE_MAX_AGE_SECONDS,
    PROBE_SECONDS,
    KmsStatus,
    SeedsReadable,
)
from keycore.service.kms_ledger import prove
from keycore.service.records import Records
from keycore.settings import ProviderSettings, Settings
from tests.fakes.installation import CALLER, FakeInstallation
from tests.fakes.memory_token import InsecureMemoryToken
from tests.unit.keycore.examples import (
    APISERVER,
    SEED,
    put_provider,
    root_key,
    tamper_key,
    tamper_provider,
)

BROKEN = "fails its integrity check"


@pytest.fixture
def key(here: FakeInstallation) -> Key:
    """A key that the provider is bound to and that node-a has loaded."""
    key = root_key(here)
    here.core.providers.bind(CALLER, "keyplane", key.id)
    here.core.kms.refresh()
    here.core.kms.status()
    return key


@pytest.fixture
def kms(here: FakeInstallation, key: Key) -> KmsProvider:
    """The bound provider on node-a."""
    return here.core.kms


def later(here: FakeInstallation, kms: KmsProvider, seconds: float = PROBE_SECONDS) -> None:
    """Let time pass for the probe and refresh."""
    here.clock.advance(seconds=seconds)
    kms.refresh()


def assert_serving(kms: KmsProvider, key_id: str, ciphertext: bytes) -> None:
    """Check that the provider still does everything under the same key_id."""
    assert kms.status().key_id == key_id
    assert kms.encrypt(APISERVER, SEED)[1] == key_id
    assert kms.decrypt(APISERVER, ciphertext, key_id) == SEED


# --- store -----------------------------------------------------------------------------


def test_without_its_store_a_provider_serves_on_in_good_health_and_warns(
    here: FakeInstallation, kms: KmsProvider
) -> None:
    ciphertext, key_id = kms.encrypt(APISERVER, SEED)
    here.store.lost = True

    for _ in range(100):
        later(here, kms, seconds=600)

    assert_serving(kms, key_id, ciphertext)
    assert kms.status().healthz == HEALTHY
    assert kms.report().store_fault == "the store does not answer"
    assert "the store does not answer; what is known already is served on" in kms.warnings()[0]


def test_a_store_that_comes_back_heals_the_provider_at_the_next_refresh(
    here: FakeInstallation, key: Key, kms: KmsProvider
) -> None:
    here.store.lost = True
    later(here, kms)
    here.store.lost = False
    here.core.keys.rotate(CALLER, key.id)

    kms.refresh()

    assert kms.status().healthz == HEALTHY
    newest = here.core.providers.overview("keyplane").provider.active
    assert newest is not None
    assert kms.status().key_id == newest.id


def test_a_start_without_the_store_serves_as_soon_as_it_is_there(
    here: FakeInstallation, kms: KmsProvider
) -> None:
    ciphertext, key_id = kms.encrypt(APISERVER, SEED)
    restarted = here.another_process("node-a").kms
    here.store.lost = True
    restarted.refresh()
    assert (restarted.status().key_id, restarted.status().healthz) == (
        "",
        "the store does not answer",
    )
    with pytest.raises(UnavailableError, match="store does not answer"):
        restarted.decrypt(APISERVER, ciphertext, key_id)

    here.store.lost = False
    restarted.refresh()

    assert_serving(restarted, key_id, ciphertext)
    assert restarted.status().healthz == HEALTHY


def test_a_store_that_is_away_when_uses_are_prepared_is_no_fault_of_the_key(
    here: FakeInstallation, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    restarted = here.another_process("node-a").kms
    reserve = here.store.reserve_uses

    def lost(version_id: VersionId, count: int, limit: int) -> int:
        here.store.lost = True
        try:
            return reserve(version_id, count, limit)
        finally:
            here.store.lost = False

    monkeypatch.setattr(here.store, "reserve_uses", lost)

    restarted.refresh()

    assert restarted.status().healthz == HEALTHY


# --- token -----------------------------------------------------------------------------


def test_a_lost_token_reddens_health_and_keeps_the_key_id(
    here: FakeInstallation, kms: KmsProvider
) -> None:
    """An empty key_id would stop all writes within three minutes."""
    _, key_id = kms.encrypt(APISERVER, SEED)
    here.token.lost = True

    later(here, kms)

    assert kms.status().key_id == key_id
    assert kms.status().healthz == "the token does not answer"


def test_a_provider_that_shall_fail_closed_takes_its_key_id_back(here: FakeInstallation) -> None:
    kms = wire(
        Settings(
            state_dir=Path("/nonexistent"),
            provider=ProviderSettings(node="node-a", outage=OutagePolicy.FAIL_CLOSED),
        ),
        here.store,
        here.token,
        here.audit,
        here.clock,
    ).kms
    here.core.providers.bind(CALLER, "keyplane", root_key(here).id)
    kms.refresh()
    key_id = kms.status().key_id
    assert key_id

    here.token.lost = True
    later(here, kms)
    assert kms.status() == KmsStatus("the token does not answer", "")
    here.token.lost = False
    with pytest.raises(TokenUnavailableError):
        kms.encrypt(APISERVER, SEED)

    later(here, kms)
    assert kms.status() == KmsStatus(HEALTHY, key_id)


@pytest.mark.parametrize("policy", OutagePolicy)
def test_a_store_that_is_away_is_no_outage(here: FakeInstallation, policy: OutagePolicy) -> None:
    provider = ProviderSettings(node="node-a", outage=policy)
    settings = Settings(state_dir=Path("/nonexistent"), provider=provider)
    kms = wire(settings, here.store, here.token, here.audit, here.clock).kms
    here.core.providers.bind(CALLER, "keyplane", root_key(here).id)
    kms.refresh()
    key_id = kms.status().key_id

    here.store.lost = True
    later(here, kms, seconds=600)

    assert kms.status() == KmsStatus(HEALTHY, key_id)


def test_what_the_token_itself_says_of_its_condition_shows_at_once(
    here: FakeInstallation, kms: KmsProvider
) -> None:
    here.token.current = TokenCondition("a call hangs", stalled_seconds=3.0)

    assert kms.status().healthz == "a call hangs"


def test_a_failed_proof_is_repeated_at_once_and_not_after_five_seconds(
    here: FakeInstallation, kms: KmsProvider
) -> None:
    here.token.lost = True
    later(here, kms)
    here.token.lost = False

    later(here, kms, seconds=0.5)

    assert kms.status().healthz == HEALTHY


def test_during_an_outage_it_is_told_how_long_api_servers_read_on(
    here: FakeInstallation, kms: KmsProvider
) -> None:
    """They keep a seed for 24 hours after they have had it decrypted."""
    kms.encrypt(APISERVER, SEED)
    here.clock.advance(seconds=3600)
    kms.encrypt(APISERVER, SEED)
    kms.prove()
    assert kms.report().seeds_readable is None

    here.token.lost = True
    later(here, kms)

    readable = kms.report().seeds_readable
    assert readable is not None
    assert readable.first_seconds == pytest.approx(23 * 3600, abs=90)
    assert readable.last_seconds == pytest.approx(24 * 3600, abs=90)
    assert any("for 23 hours more, the last for 24" in warning for warning in kms.warnings())

    later(here, kms, seconds=23 * 3600 + 600)
    readable = kms.report().seeds_readable
    assert readable is not None
    assert readable.first_seconds == readable.last_seconds

    later(here, kms, seconds=24 * 3600)
    assert kms.report().seeds_readable == SeedsReadable(0.0, 0.0)


def test_a_token_that_comes_back_heals_the_provider(
    here: FakeInstallation, kms: KmsProvider
) -> None:
    ciphertext, key_id = kms.encrypt(APISERVER, SEED)
    here.token.lost = True
    later(here, kms)
    here.token.lost = False

    later(here, kms)

    assert_serving(kms, key_id, ciphertext)
    assert kms.status().healthz == HEALTHY


def test_a_start_without_the_token_calls_no_ciphertext_bad(
    here: FakeInstallation, kms: KmsProvider
) -> None:
    ciphertext, key_id = kms.encrypt(APISERVER, SEED)
    restarted = here.another_process("node-a").kms
    here.token.lost = True
    restarted.refresh()

    assert restarted.status().key_id == ""
    assert "token does not answer" in restarted.status().healthz
    with pytest.raises(UnavailableError, match="token does not answer"):
        restarted.decrypt(APISERVER, ciphertext, key_id)


def test_the_key_is_proved_and_not_only_the_token(
    here: FakeInstallation, kms: KmsProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(key: WrappedKey, body: bytes, aad: bytes) -> bytes:
        return b"something else"

    monkeypatch.setattr(here.token, "decrypt", wrong)

    later(here, kms)

    assert BROKEN in kms.status().healthz


def test_the_token_is_asked_every_five_seconds_and_no_oftener(
    here: FakeInstallation, kms: KmsProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(here.token, "check", lambda: asked.append(here.clock.monotonic()))

    for _ in range(100):
        here.clock.advance(seconds=0.5)
        kms.refresh()

    assert len(asked) == 10


def test_a_proof_that_gives_something_else_back_is_refused(here: FakeInstallation) -> None:
    class WrongToken(InsecureMemoryToken):
        def decrypt(self, key: WrappedKey, body: bytes, aad: bytes) -> bytes:
            return super().decrypt(key, body, aad) + b"x"

    token = WrongToken()
    key = root_key(here)
    own = replace(key, versions=(replace(key.versions[0], wrapped=token.generate_key()),))

    with pytest.raises(IntegrityError):
        prove(token, own, own.current)


def test_a_call_that_never_comes_back_turns_health_red(
    here: FakeInstallation, kms: KmsProvider
) -> None:
    """A hanging HSM raises nothing, so only the silence tells."""
    key_id = kms.status().key_id
    here.clock.advance(seconds=PROBE_MAX_AGE_SECONDS)
    assert kms.status().healthz == HEALTHY

    here.clock.advance(seconds=0.1)

    assert "has not proved the key for more than 20 seconds" in kms.status().healthz
    assert kms.status().key_id == key_id
    kms.refresh()
    assert kms.status().healthz == HEALTHY


def test_an_unbound_provider_that_hangs_tells_of_the_silence_too(here: FakeInstallation) -> None:
    here.core.kms.refresh()
    here.clock.advance(seconds=PROBE_MAX_AGE_SECONDS + 1)

    assert "has not proved the key" in here.core.kms.status().healthz


def test_a_store_that_never_comes_back_is_told_and_stops_nothing(
    here: FakeInstallation, kms: KmsProvider
) -> None:
    """A hanging disk raises nothing either, and the key is proved beside it."""
    here.clock.advance(seconds=STALE_SECONDS + 1)
    kms.prove()

    assert kms.status().healthz == HEALTHY
    assert "the store has not answered" in kms.report().store_fault


# --- records ---------------------------------------------------------------------------


def test_a_provider_row_that_was_changed_is_not_followed(
    here: FakeInstallation, kms: KmsProvider
) -> None:
    ciphertext, key_id = kms.encrypt(APISERVER, SEED)
    attacker = root_key(here)
    forged = Activation(
        kms.encrypt(APISERVER, SEED)[1],
        1,
        attacker.id,
        attacker.current.id,
        ActivationState.ACTIVE,
        here.clock.now(),
    )
    before = tamper_provider(here, key_id=attacker.id, activations=(forged,))

    later(here, kms)

    assert_serving(kms, key_id, ciphertext)
    assert BROKEN in kms.status().healthz
    put_provider(here, before)
    kms.refresh()
    assert kms.status().healthz == HEALTHY


def test_a_provider_row_that_vanished_is_not_followed(
    here: FakeInstallation, kms: KmsProvider
) -> None:
    """No operation removes one; to follow would be to stop decrypting the whole cluster."""
    ciphertext, key_id = kms.encrypt(APISERVER, SEED)
    before = here.store._tables.providers["keyplane"]
    put_provider(here, None)

    later(here, kms)

    assert_serving(kms, key_id, ciphertext)
    assert BROKEN in kms.status().healthz
    put_provider(here, before)
    kms.refresh()
    assert kms.status().healthz == HEALTHY


def test_an_older_provider_row_that_was_put_back_is_not_followed(
    here: FakeInstallation, key: Key, kms: KmsProvider
) -> None:
    """Its signature is right, but a key_id must never come back."""
    older = here.store._tables.providers["keyplane"]
    here.core.keys.rotate(CALLER, key.id)
    kms.refresh()
    kms.status()
    ciphertext, key_id = kms.encrypt(APISERVER, SEED)
    put_provider(here, older)

    later(here, kms)

    assert_serving(kms, key_id, ciphertext)
    assert BROKEN in kms.status().healthz


def test_a_changed_key_row_stops_nothing_that_is_loaded(
    here: FakeInstallation, key: Key, kms: KmsProvider
) -> None:
    ciphertext, key_id = kms.encrypt(APISERVER, SEED)
    tamper_key(here, key.id, name="changed")

    later(here, kms)

    assert_serving(kms, key_id, ciphertext)


def test_a_key_row_that_is_broken_at_the_start_is_named_and_read_again(
    here: FakeInstallation, key: Key, kms: KmsProvider
) -> None:
    ciphertext, key_id = kms.encrypt(APISERVER, SEED)
    tamper_key(here, key.id, name="changed")
    restarted = here.another_process("node-a").kms
    restarted.refresh()
    assert restarted.status().key_id == ""
    assert key.id in restarted.status().healthz
    with pytest.raises(UnavailableError, match=BROKEN):
        restarted.decrypt(APISERVER, ciphertext, key_id)

    tamper_key(here, key.id, name=key.name)
    restarted.refresh()

    assert_serving(restarted, key_id, ciphertext)
    assert restarted.status().healthz == HEALTHY


def test_a_former_key_that_is_broken_does_not_stop_the_active_one(
    here: FakeInstallation, key: Key, kms: KmsProvider
) -> None:
    here.core.providers.bind(CALLER, "keyplane", root_key(here).id)
    kms.refresh()
    key_id = kms.status().key_id
    tamper_key(here, key.id, name="changed")
    restarted = here.another_process("node-a").kms

    restarted.refresh()

    assert restarted.status().key_id == key_id
    assert key.id in restarted.status().healthz
    assert restarted.encrypt(APISERVER, SEED)[1] == key_id
    assert here.core.providers.nodes()[0].loaded == 0


def test_a_node_that_cannot_load_the_pending_activation_holds_it_back(
    here: FakeInstallation, key: Key, kms: KmsProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, former = kms.encrypt(APISERVER, SEED)
    here.core.keys.rotate(CALLER, key.id)
    decrypt = here.token.decrypt

    def lost(*_: object) -> bytes:
        raise TokenUnavailableError("the token does not answer")

    monkeypatch.setattr(here.token, "decrypt", lost)
    later(here, kms)
    assert kms.status().key_id == former
    assert here.core.providers.overview("keyplane").waiting_for == ("node-a",)

    monkeypatch.setattr(here.token, "decrypt", decrypt)
    later(here, kms)
    assert kms.status().key_id not in ("", former)
    assert kms.status().healthz == HEALTHY


def test_an_activation_of_a_version_that_its_key_lacks_is_a_broken_record(
    here: FakeInstallation, key: Key
) -> None:
    with Records(here.store, here.token).writing() as unit:
        provider = unit.provider("keyplane")
        odd = replace(provider.activations[0], version_id=VersionId(new_uuid()))
        unit.save_provider(replace(provider, activations=(odd,)))
    restarted = here.another_process("node-a").kms

    restarted.refresh()

    assert restarted.status().key_id == ""
    assert f"provider record keyplane {BROKEN}" in restarted.status().healthz


def test_a_pending_key_whose_row_is_gone_is_told_and_never_raised(
    here: FakeInstallation, key: Key, kms: KmsProvider
) -> None:
    """The background loop must outlive whatever the store holds."""
    ciphertext, former = kms.encrypt(APISERVER, SEED)
    new = root_key(here)
    here.core.providers.bind(CALLER, "keyplane", new.id)
    del here.store._tables.keys[new.id]

    later(here, kms)

    assert_serving(kms, former, ciphertext)
    assert kms.status().healthz == f"key {new.id} does not exist"


def test_the_whole_store_is_listed_for_no_refresh(
    here: FakeInstallation, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load that fails again and again asks for what is new alone, not for every key."""
    tamper_key(here, key.id, name="changed")
    restarted = here.another_process("node-a").kms
    restarted.refresh()
    asked: list[int] = []
    changes_since = here.store.changes_since

    def noted(sequence: int) -> Changes:
        asked.append(sequence)
        return changes_since(sequence)

    monkeypatch.setattr(here.store, "changes_since", noted)

    later(here, restarted)

    assert asked
    assert all(changes_since(sequence).key_ids == frozenset() for sequence in asked)
