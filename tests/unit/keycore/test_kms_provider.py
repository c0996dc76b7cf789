"""One KMS v2 provider process: Status, Encrypt and Decrypt as kube-apiserver needs them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from keycore.domain.envelope import AES_256_GCM, Face
from keycore.domain.ids import VersionId, new_uuid, uuid_bytes
from keycore.domain.keys import Key
from keycore.errors import (
    CiphertextMalformedError,
    CiphertextRejectedError,
    InvalidRequestError,
    KeyExhaustedError,
    ProviderUnboundError,
    TokenUnavailableError,
    UnavailableError,
)
from keycore.service.cipher import EnvelopeCipher
from keycore.service.keyring import KMS_USES_AHEAD
from keycore.service.kms import (
    CIPHERTEXT_BYTES_MAX,
    HEALTHY,
    KmsProvider,
    KmsStatus,
)
from keycore.service.use_budget import RESERVED_MAX, UseBudget
from tests.fakes.installation import CALLER, FakeInstallation
from tests.unit.keycore.examples import (
    APISERVER,
    SEED,
    bind,
    refresh,
    root_key,
)

# --- Status ------------------------------------------------------------------------

PLAINTEXT_BYTES_MAX = AES_256_GCM.plaintext_bytes_max(CIPHERTEXT_BYTES_MAX)


def test_status_reports_the_active_activation_as_healthy(
    here: FakeInstallation, kms: KmsProvider
) -> None:
    active = here.core.providers.overview("keyplane").provider.active

    assert active is not None
    assert kms.status() == KmsStatus("ok", active.id)


def test_status_needs_neither_token_nor_store(here: FakeInstallation, kms: KmsProvider) -> None:
    """It is called every few seconds with a deadline, and must never queue behind crypto."""
    here.core.providers.bind(CALLER, "keyplane", root_key(here).id)
    before = kms.status()
    here.token.lost = here.store.lost = True

    assert kms.status() == before
    assert before.healthz == HEALTHY


def test_an_unbound_provider_names_the_way_out(here: FakeInstallation) -> None:
    here.core.kms.refresh()

    status = here.core.kms.status()

    assert status.key_id == ""
    assert "keyplane provider set keyplane --key" in status.healthz


def test_a_provider_that_has_read_nothing_yet_says_so(here: FakeInstallation, key: Key) -> None:
    status = here.another_process().kms.status()

    assert status == KmsStatus("the store has not been read yet", "")


def test_a_first_binding_that_waits_for_another_node_says_so(here: FakeInstallation) -> None:
    here.core.providers.report("keyplane", "node-b", 0)
    here.core.providers.bind(CALLER, "keyplane", root_key(here).id)
    here.core.kms.refresh()

    status = here.core.kms.status()

    assert status.key_id == ""
    assert "waits until every registered node has loaded" in status.healthz
    assert "keyplane provider show keyplane" in status.healthz


def test_the_key_id_is_stable_between_polls(here: FakeInstallation, kms: KmsProvider) -> None:
    seen = set()
    for _ in range(20):
        seen.add(kms.status().key_id)
        refresh(here)

    assert len(seen) == 1


def test_every_node_reports_the_same_key_id(here: FakeInstallation, kms: KmsProvider) -> None:
    other = here.another_process().kms
    other.refresh()

    assert other.status() == kms.status()


def test_the_outlook_is_the_status_and_fixes_nothing(
    here: FakeInstallation, kms: KmsProvider
) -> None:
    former = kms.status().key_id
    new = bind(here, root_key(here))

    assert kms.outlook() == KmsStatus("ok", new)
    assert kms.encrypt(APISERVER, SEED)[1] == former
    assert kms.status() == KmsStatus("ok", new)
    assert kms.outlook() == kms.status()


# --- Encrypt and Decrypt -----------------------------------------------------------------


def test_a_seed_is_encrypted_and_decrypted_on_any_node(
    here: FakeInstallation, kms: KmsProvider
) -> None:
    other = here.another_process().kms
    other.refresh()

    ciphertext, key_id = kms.encrypt(APISERVER, SEED)

    assert key_id == kms.status().key_id
    assert other.decrypt(APISERVER, ciphertext, key_id) == SEED
    assert kms.decrypt(APISERVER, ciphertext, key_id) == SEED


def test_the_longest_plaintext_fits_what_the_api_server_takes(kms: KmsProvider) -> None:
    ciphertext, key_id = kms.encrypt(APISERVER, bytes(PLAINTEXT_BYTES_MAX))

    assert len(ciphertext) == CIPHERTEXT_BYTES_MAX == 1024
    assert PLAINTEXT_BYTES_MAX == 978
    assert kms.decrypt(APISERVER, ciphertext, key_id) == bytes(PLAINTEXT_BYTES_MAX)


@pytest.mark.parametrize("size", [0, PLAINTEXT_BYTES_MAX + 1])
def test_a_plaintext_out_of_bounds_is_refused(kms: KmsProvider, size: int) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        kms.encrypt(APISERVER, bytes(size))

    assert refused.value.field == "plaintext"


def test_encrypt_uses_the_activation_that_status_last_reported(
    here: FakeInstallation, kms: KmsProvider
) -> None:
    """An answer under another one would be thrown away, and the plugin count as unhealthy."""
    former = kms.status().key_id
    new = bind(here, root_key(here))

    ciphertext, key_id = kms.encrypt(APISERVER, SEED)
    assert key_id == former
    assert kms.decrypt(APISERVER, ciphertext, former) == SEED
    assert kms.status().key_id == new
    assert kms.encrypt(APISERVER, SEED)[1] == new


def test_an_encrypt_before_the_first_status_fixes_the_activation(
    here: FakeInstallation, kms: KmsProvider
) -> None:
    _, first = kms.encrypt(APISERVER, SEED)
    bind(here, root_key(here))

    assert kms.encrypt(APISERVER, SEED)[1] == first


def test_an_activation_that_was_released_is_not_used_any_more(
    here: FakeInstallation, key: Key, kms: KmsProvider
) -> None:
    kms.status()
    new = bind(here, root_key(here))
    here.core.providers.release(CALLER, "keyplane", key.id)
    refresh(here)

    assert kms.encrypt(APISERVER, SEED)[1] == new


def test_an_unbound_provider_encrypts_nothing(here: FakeInstallation) -> None:
    here.core.kms.refresh()

    with pytest.raises(ProviderUnboundError, match="keyplane provider set"):
        here.core.kms.encrypt(APISERVER, SEED)


def test_after_a_rotation_old_and_new_decrypt(here: FakeInstallation, key: Key) -> None:
    kms = here.core.kms
    kms.status()
    old = kms.encrypt(APISERVER, SEED)
    here.core.keys.rotate(CALLER, key.id)
    refresh(here)
    kms.status()
    new = kms.encrypt(APISERVER, SEED)

    assert old[1] != new[1]
    assert kms.decrypt(APISERVER, *old) == kms.decrypt(APISERVER, *new) == SEED


def test_a_pending_activation_decrypts_already(here: FakeInstallation, key: Key) -> None:
    """Another node may see it active and encrypt before this one looks again."""
    late = here.another_process().kms
    late.refresh()
    here.core.keys.rotate(CALLER, key.id)
    refresh(here, late)
    here.core.kms.refresh()
    here.core.kms.status()
    assert late.outlook().key_id != here.core.kms.outlook().key_id

    ciphertext, key_id = here.core.kms.encrypt(APISERVER, SEED)

    assert late.decrypt(APISERVER, ciphertext, key_id) == SEED


def test_an_unknown_key_id_is_refused_without_the_token(
    here: FakeInstallation, kms: KmsProvider
) -> None:
    ciphertext, _ = kms.encrypt(APISERVER, SEED)
    here.token.lost = True

    for unknown in (new_uuid(), "", "x" * 2000):
        with pytest.raises(CiphertextRejectedError):
            kms.decrypt(APISERVER, ciphertext, unknown)


def test_a_key_id_opens_the_ciphertexts_of_its_own_generation_alone(
    here: FakeInstallation, key: Key, kms: KmsProvider
) -> None:
    """Without the token even: the version in the header must be the ledger's."""
    kms.status()
    old, old_id = kms.encrypt(APISERVER, SEED)
    here.core.keys.rotate(CALLER, key.id)
    refresh(here)
    new_id = kms.status().key_id
    here.token.lost = True

    with pytest.raises(CiphertextRejectedError):
        kms.decrypt(APISERVER, old, new_id)
    here.token.lost = False
    assert kms.decrypt(APISERVER, old, old_id) == SEED


def test_two_activations_of_one_version_open_nothing_of_each_other(
    here: FakeInstallation, key: Key, kms: KmsProvider
) -> None:
    """A→B→A gives the first version a second activation; the AAD tells them apart."""
    kms.status()
    ciphertext, first = kms.encrypt(APISERVER, SEED)
    bind(here, root_key(here))
    second = bind(here, key)

    with pytest.raises(CiphertextRejectedError):
        kms.decrypt(APISERVER, ciphertext, second)
    assert kms.decrypt(APISERVER, ciphertext, first) == SEED


def test_a_flipped_bit_anywhere_is_refused(kms: KmsProvider) -> None:
    ciphertext, key_id = kms.encrypt(APISERVER, SEED)

    for position in range(8 * len(ciphertext)):
        flipped = bytearray(ciphertext)
        flipped[position // 8] ^= 1 << position % 8
        expected = CiphertextMalformedError if position < 16 else CiphertextRejectedError
        with pytest.raises(expected):
            kms.decrypt(APISERVER, bytes(flipped), key_id)


def test_what_a_rest_caller_wrapped_is_not_decrypted(
    here: FakeInstallation, key: Key, kms: KmsProvider
) -> None:
    key_id = kms.status().key_id
    cipher = EnvelopeCipher(here.token, UseBudget(here.store))
    for face, opens in ((Face.REST, False), (Face.KMS, True)):
        ciphertext = cipher.encrypt(face, key, key.current, SEED, (key_id.encode(),))
        if opens:
            assert kms.decrypt(APISERVER, ciphertext, key_id) == SEED
        else:
            with pytest.raises(CiphertextRejectedError):
                kms.decrypt(APISERVER, ciphertext, key_id)


def test_a_redirected_version_is_refused(here: FakeInstallation, kms: KmsProvider) -> None:
    ciphertext, key_id = kms.encrypt(APISERVER, SEED)
    redirected = ciphertext[:2] + uuid_bytes(root_key(here).current.id) + ciphertext[18:]

    with pytest.raises(CiphertextRejectedError):
        kms.decrypt(APISERVER, redirected, key_id)


def test_a_released_generation_is_forgotten_and_decrypts_no_more(
    here: FakeInstallation, key: Key, kms: KmsProvider
) -> None:
    kms.status()
    ciphertext, key_id = kms.encrypt(APISERVER, SEED)
    bind(here, root_key(here))
    here.core.providers.release(CALLER, "keyplane", key.id)
    here.token.forgotten.clear()

    refresh(here)

    assert here.token.forgotten == [key.current.id]
    with pytest.raises(CiphertextRejectedError):
        kms.decrypt(APISERVER, ciphertext, key_id)


def test_expiry_stops_nothing(here: FakeInstallation) -> None:
    """Data in etcd outlives any date; that the key expired is told elsewhere."""
    soon = here.clock.now().replace(hour=13)
    bind(here, root_key(here, expires_at=soon))
    kms = here.core.kms
    ciphertext, key_id = kms.encrypt(APISERVER, SEED)
    here.clock.advance(days=30)
    refresh(here)

    assert kms.status().healthz == HEALTHY
    assert kms.decrypt(APISERVER, ciphertext, key_id) == SEED
    again, same_id = kms.encrypt(APISERVER, SEED)
    assert same_id == key_id
    restarted = here.another_process("node-a").kms
    restarted.refresh()
    assert restarted.decrypt(APISERVER, again, key_id) == SEED


# --- uses ------------------------------------------------------------------------------


def test_an_exhausted_version_encrypts_no_more_and_decrypts_still(
    here: FakeInstallation, key: Key, kms: KmsProvider
) -> None:
    ciphertext, key_id = kms.encrypt(APISERVER, SEED)
    here.store._tables.uses[key.current.id] = 2**32
    restarted = here.another_process("node-a").kms
    restarted.refresh()

    assert restarted.status().key_id == key_id
    assert f"has made {RESERVED_MAX} ciphertexts" in restarted.status().healthz
    with pytest.raises(KeyExhaustedError):
        restarted.encrypt(APISERVER, SEED)
    assert restarted.decrypt(APISERVER, ciphertext, key_id) == SEED


def test_probes_are_not_counted_as_uses(here: FakeInstallation, key: Key, kms: KmsProvider) -> None:
    before = here.store.uses([key.current.id])
    for _ in range(100):
        here.clock.advance(seconds=10)
        kms.refresh()

    assert here.store.uses([key.current.id]) == before == {key.current.id: KMS_USES_AHEAD}


def test_a_block_of_uses_is_ready_before_the_store_goes_away(
    here: FakeInstallation, kms: KmsProvider
) -> None:
    here.store.lost = True

    ciphertext, key_id = kms.encrypt(APISERVER, SEED)

    assert kms.decrypt(APISERVER, ciphertext, key_id) == SEED


def test_uses_of_a_new_version_are_in_hand_before_its_key_id_shows(
    here: FakeInstallation, key: Key, kms: KmsProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise an Encrypt in between would wait for the store, or fail without it."""
    before, reserve, shown = kms.outlook().key_id, here.store.reserve_uses, []

    def reserved(version_ids: Sequence[VersionId], count: int, limit: int) -> dict[VersionId, int]:
        shown.append(kms.outlook().key_id)
        return reserve(version_ids, count, limit)

    monkeypatch.setattr(here.store, "reserve_uses", reserved)
    here.core.keys.rotate(CALLER, key.id)

    kms.refresh()

    assert kms.outlook().key_id != before
    assert shown == [before]


# --- outages are no bad ciphertexts ---------------------------------------------------


def test_a_ledger_that_was_not_read_yet_is_no_reason_to_call_a_ciphertext_bad(
    here: FakeInstallation, kms: KmsProvider
) -> None:
    ciphertext, key_id = kms.encrypt(APISERVER, SEED)
    starting = here.another_process("node-a").kms

    with pytest.raises(UnavailableError, match="not been read yet"):
        starting.decrypt(APISERVER, ciphertext, key_id)


def test_a_lost_token_is_told_as_such(here: FakeInstallation, kms: KmsProvider) -> None:
    ciphertext, key_id = kms.encrypt(APISERVER, SEED)
    here.token.lost = True

    with pytest.raises(TokenUnavailableError):
        kms.encrypt(APISERVER, SEED)
    with pytest.raises(TokenUnavailableError):
        kms.decrypt(APISERVER, ciphertext, key_id)


def test_an_activation_id_is_known_in_its_exact_spelling_alone(kms: KmsProvider) -> None:
    ciphertext, key_id = kms.encrypt(APISERVER, SEED)

    with pytest.raises(CiphertextRejectedError):
        kms.decrypt(APISERVER, ciphertext, key_id + " ")
