"""Two-phase rotation: a version decrypts on every node before it encrypts on any.

Nodes are only names here that report what they have loaded; test_kms_provider
runs the real ones.
"""

from __future__ import annotations

from itertools import pairwise

import pytest

from keycore.domain.keys import Key, VersionState
from keycore.domain.providers import ActivationState, Provider
from keycore.errors import (
    KeyInUseError,
    KeyStateError,
    RotationPendingError,
    StoreUnavailableError,
)
from keycore.service.records import Records
from tests.fakes.installation import CALLER, FakeInstallation
from tests.unit.keycore.examples import root_key

PENDING, ACTIVE = ActivationState.PENDING, ActivationState.ACTIVE
RETIRED, RELEASED = ActivationState.RETIRED, ActivationState.RELEASED


def provider(here: FakeInstallation, name: str = "keyplane") -> Provider:
    """Return a provider as it is stored."""
    return here.core.providers.overview(name).provider


def states(here: FakeInstallation, name: str = "keyplane") -> list[ActivationState]:
    """Return the states of a provider's activations in order."""
    return [activation.state for activation in provider(here, name).activations]


def version_states(here: FakeInstallation, key: Key) -> list[str]:
    """Return the states of a key's versions in order."""
    return [version.state.value for version in here.core.keys.get(CALLER, key.id).versions]


def bound_key(here: FakeInstallation, *nodes: str) -> Key:
    """Return a key that provider ``keyplane`` encrypts with, loaded on ``nodes``."""
    key = root_key(here)
    here.core.providers.bind(CALLER, "keyplane", key.id)
    for node in nodes:
        here.core.providers.report("keyplane", node, 1)
    return key


def report(here: FakeInstallation, node: str, loaded: int, name: str = "keyplane") -> None:
    """Report as a node does."""
    here.core.providers.report(name, node, loaded)


# --- nodes -------------------------------------------------------------------------


def test_without_nodes_a_rotation_is_active_at_once(here: FakeInstallation) -> None:
    """The bootstrap: the key is bound before the first API server runs."""
    key = bound_key(here)

    rotated = here.core.keys.rotate(CALLER, key.id)

    assert states(here) == [RETIRED, ACTIVE]
    assert version_states(here, key) == ["retired", "active"]
    assert provider(here).activations[1].version_id == rotated.current.id


def test_one_node_holds_a_rotation_until_it_has_loaded_it(here: FakeInstallation) -> None:
    key = bound_key(here, "node-a")

    pending = here.core.keys.rotate(CALLER, key.id)
    assert (states(here), version_states(here, key)) == ([ACTIVE, PENDING], ["active", "pending"])
    assert pending.current.id == key.current.id
    report(here, "node-a", 1)
    assert states(here) == [ACTIVE, PENDING]
    report(here, "node-a", 2)

    assert (states(here), version_states(here, key)) == ([RETIRED, ACTIVE], ["retired", "active"])


def test_the_last_of_two_nodes_activates(here: FakeInstallation) -> None:
    key = bound_key(here, "node-a", "node-b")
    here.core.keys.rotate(CALLER, key.id)

    report(here, "node-a", 2)
    assert states(here) == [ACTIVE, PENDING]
    assert here.core.providers.overview("keyplane").waiting_for == ("node-b",)
    report(here, "node-b", 2)

    assert states(here) == [RETIRED, ACTIVE]
    assert here.core.providers.overview("keyplane").waiting_for == ()


def test_a_node_that_is_away_holds_a_rotation_for_ever(here: FakeInstallation) -> None:
    """Only an administrator knows that it will not come back and ask for old objects."""
    key = bound_key(here, "node-a", "node-b")
    here.clock.advance(days=400)
    here.core.keys.rotate(CALLER, key.id)
    report(here, "node-a", 2)
    here.clock.advance(days=400)
    report(here, "node-a", 2)

    assert states(here) == [ACTIVE, PENDING]


def test_removing_the_node_that_is_away_lets_the_rotation_go_on(here: FakeInstallation) -> None:
    key = bound_key(here, "node-a", "node-b")
    here.core.keys.rotate(CALLER, key.id)
    report(here, "node-a", 2)

    here.core.providers.remove_node(CALLER, "keyplane", "node-b")

    assert (states(here), version_states(here, key)) == ([RETIRED, ACTIVE], ["retired", "active"])


def test_removing_a_node_that_is_ready_activates_nothing(here: FakeInstallation) -> None:
    key = bound_key(here, "node-a", "node-b")
    here.core.keys.rotate(CALLER, key.id)
    report(here, "node-a", 2)

    here.core.providers.remove_node(CALLER, "keyplane", "node-a")

    assert states(here) == [ACTIVE, PENDING]


def test_a_node_that_can_no_longer_decrypt_counts_as_not_ready(here: FakeInstallation) -> None:
    """A restart that fails to load takes its earlier report back."""
    key = bound_key(here, "node-a", "node-b")
    here.core.keys.rotate(CALLER, key.id)
    report(here, "node-a", 2)
    report(here, "node-a", 0)
    report(here, "node-b", 2)

    assert states(here) == [ACTIVE, PENDING]


def test_a_node_that_registers_during_a_rotation_is_waited_for(here: FakeInstallation) -> None:
    key = bound_key(here, "node-a")
    here.core.keys.rotate(CALLER, key.id)
    report(here, "node-new", 0)
    report(here, "node-a", 2)

    assert states(here) == [ACTIVE, PENDING]
    report(here, "node-new", 2)
    assert states(here) == [RETIRED, ACTIVE]


def test_nodes_of_another_provider_are_not_waited_for(here: FakeInstallation) -> None:
    key = bound_key(here, "node-a")
    report(here, "node-z", 0, name="other")
    here.core.keys.rotate(CALLER, key.id)
    report(here, "node-a", 2)

    assert states(here) == [RETIRED, ACTIVE]


# --- two providers on one key ----------------------------------------------------------


def test_two_providers_of_a_key_are_rotated_together(here: FakeInstallation) -> None:
    key = bound_key(here, "node-a")
    here.core.providers.bind(CALLER, "second", key.id)
    report(here, "node-b", 1, name="second")
    here.core.keys.rotate(CALLER, key.id)

    report(here, "node-a", 2)
    assert (states(here), states(here, "second")) == ([ACTIVE, PENDING], [ACTIVE, PENDING])
    assert version_states(here, key) == ["active", "pending"]
    report(here, "node-b", 2, name="second")

    assert (states(here), states(here, "second")) == ([RETIRED, ACTIVE], [RETIRED, ACTIVE])
    assert version_states(here, key) == ["retired", "active"]
    first, second = provider(here).active, provider(here, "second").active
    assert first is not None
    assert second is not None
    assert first.version_id == second.version_id
    assert first.id != second.id


def test_removing_the_last_awaited_node_rotates_both_providers(here: FakeInstallation) -> None:
    key = bound_key(here, "node-a")
    here.core.providers.bind(CALLER, "second", key.id)
    report(here, "node-b", 1, name="second")
    here.core.keys.rotate(CALLER, key.id)
    report(here, "node-a", 2)

    here.core.providers.remove_node(CALLER, "second", "node-b")

    assert (states(here), states(here, "second")) == ([RETIRED, ACTIVE], [RETIRED, ACTIVE])


def test_two_providers_without_nodes_rotate_at_once(here: FakeInstallation) -> None:
    key = bound_key(here)
    here.core.providers.bind(CALLER, "second", key.id)

    here.core.keys.rotate(CALLER, key.id)

    assert (states(here), states(here, "second")) == ([RETIRED, ACTIVE], [RETIRED, ACTIVE])


def test_binding_one_provider_leaves_the_others_alone(here: FakeInstallation) -> None:
    key = bound_key(here, "node-a")
    other = root_key(here)
    here.core.providers.bind(CALLER, "second", other.id)
    before = provider(here, "second")
    here.core.keys.rotate(CALLER, key.id)
    report(here, "node-a", 2)

    assert provider(here, "second") == before
    assert version_states(here, other) == ["active"]


# --- one at a time ---------------------------------------------------------------------


def test_a_second_rotation_waits_for_the_first_and_says_for_which_node(
    here: FakeInstallation,
) -> None:
    key = bound_key(here, "node-a", "node-b")
    here.core.keys.rotate(CALLER, key.id)
    report(here, "node-a", 2)

    with pytest.raises(RotationPendingError, match=key.id) as refused:
        here.core.keys.rotate(CALLER, key.id)

    assert "node node-b;" in refused.value.hint
    assert "node-a" not in refused.value.hint
    assert "keyplane nodes remove" in refused.value.hint
    assert len(here.core.keys.get(CALLER, key.id).versions) == 2


def test_the_hint_names_each_awaited_node_once_and_no_other(here: FakeInstallation) -> None:
    key = bound_key(here, "node-a", "node-b")
    here.core.providers.bind(CALLER, "second", key.id)
    report(here, "node-a", 1, name="second")
    unrelated = root_key(here)
    here.core.providers.bind(CALLER, "third", unrelated.id)
    report(here, "node-z", 1, name="third")
    here.core.keys.rotate(CALLER, unrelated.id)
    here.core.keys.rotate(CALLER, key.id)

    with pytest.raises(RotationPendingError) as refused:
        here.core.keys.rotate(CALLER, key.id)

    assert "it waits for node node-a, node-b;" in refused.value.hint


def test_a_binding_waits_for_a_rotation_of_the_provider(here: FakeInstallation) -> None:
    key, other = bound_key(here, "node-a"), root_key(here)
    here.core.keys.rotate(CALLER, key.id)

    with pytest.raises(RotationPendingError) as refused:
        here.core.providers.bind(CALLER, "keyplane", other.id)

    assert "node-a" in refused.value.hint
    assert states(here) == [ACTIVE, PENDING]


def test_a_binding_waits_for_a_rotation_of_the_key(here: FakeInstallation) -> None:
    key = bound_key(here, "node-a")
    here.core.keys.rotate(CALLER, key.id)

    with pytest.raises(RotationPendingError) as refused:
        here.core.providers.bind(CALLER, "second", key.id)

    assert "node-a" in refused.value.hint
    assert [seen.provider.name for seen in here.core.providers.overviews()] == ["keyplane"]


@pytest.mark.parametrize("which", ["former", "new"])
def test_a_rotation_waits_for_a_binding_of_its_key(here: FakeInstallation, which: str) -> None:
    """The former key too: the provider encrypts with its active version until the end."""
    former, new = bound_key(here, "node-a"), root_key(here)
    here.core.providers.bind(CALLER, "keyplane", new.id)

    with pytest.raises(RotationPendingError) as refused:
        here.core.keys.rotate(CALLER, {"former": former, "new": new}[which].id)

    assert "node-a" in refused.value.hint
    assert version_states(here, former) == version_states(here, new) == ["active"]


def test_a_key_that_a_provider_has_left_rotates_without_it(here: FakeInstallation) -> None:
    former, new = bound_key(here, "node-a"), root_key(here)
    here.core.providers.bind(CALLER, "keyplane", new.id)
    report(here, "node-a", 2)
    before = provider(here)

    here.core.keys.rotate(CALLER, former.id)

    assert version_states(here, former) == ["retired", "active"]
    assert provider(here) == before


def test_a_rotation_that_waits_for_nobody_says_try_again(here: FakeInstallation) -> None:
    """Between the last node's removal by hand and the next report there is nobody to name."""
    key = bound_key(here, "node-a")
    here.core.keys.rotate(CALLER, key.id)
    with Records(here.store, here.token).writing() as unit:
        unit.remove_node("keyplane", "node-a")

    with pytest.raises(RotationPendingError) as refused:
        here.core.keys.rotate(CALLER, key.id)

    assert refused.value.hint == "try again in a moment"


def test_a_rotation_with_the_same_marker_is_not_refused_while_pending(
    here: FakeInstallation,
) -> None:
    key = bound_key(here, "node-a")
    pending = here.core.keys.rotate(CALLER, key.id, marker="a")

    assert here.core.keys.rotate(CALLER, key.id, marker="a") == pending


def test_a_rotation_that_the_store_loses_leaves_nothing(
    here: FakeInstallation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Key and providers are one transaction; half of it would be a pending key for ever."""
    key = bound_key(here, "node-a")
    before = provider(here)

    def lost(*_: object) -> None:
        raise StoreUnavailableError("the store does not answer")

    with monkeypatch.context() as patch:
        patch.setattr("tests.fakes.memory_store._ProviderRows.save", lost)
        with pytest.raises(StoreUnavailableError):
            here.core.keys.rotate(CALLER, key.id)

    assert (version_states(here, key), provider(here)) == (["active"], before)


# --- ids -----------------------------------------------------------------------------


def test_an_activation_id_is_never_given_out_twice(here: FakeInstallation) -> None:
    """A→B→A must read as A→B→C."""
    a, b = bound_key(here, "node-a"), root_key(here)
    for loaded, key in enumerate((b, a, b, a), start=2):
        here.core.providers.bind(CALLER, "keyplane", key.id)
        report(here, "node-a", loaded)
    here.core.keys.rotate(CALLER, a.id)
    report(here, "node-a", 6)

    ledger = provider(here).activations

    assert [entry.key_id for entry in ledger] == [a.id, b.id, a.id, b.id, a.id, a.id]
    assert [entry.sequence for entry in ledger] == [1, 2, 3, 4, 5, 6]
    assert len({entry.id for entry in ledger}) == 6
    assert [entry.state for entry in ledger] == [RETIRED] * 5 + [ACTIVE]
    assert len({entry.version_id for entry in ledger}) == 3


def test_an_activation_id_tells_nothing_about_the_key(here: FakeInstallation) -> None:
    """It lies in clear in etcd beside every object."""
    key = bound_key(here)
    activation = provider(here).activations[0]

    assert activation.id not in {key.id, key.current.id, key.instance_id}


def test_versions_count_up_without_gaps(here: FakeInstallation) -> None:
    key = bound_key(here, "node-a")
    for loaded in (2, 3, 4):
        here.core.keys.rotate(CALLER, key.id)
        report(here, "node-a", loaded)

    versions = here.core.keys.get(CALLER, key.id).versions

    assert all(b.number == a.number + 1 for a, b in pairwise(versions))
    assert [v.state for v in versions] == [VersionState.RETIRED] * 3 + [VersionState.ACTIVE]


# --- keys in use -------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["delete", "suspend"])
def test_a_bound_key_is_neither_deleted_nor_suspended(
    here: FakeInstallation, operation: str
) -> None:
    key = bound_key(here)

    with pytest.raises(KeyInUseError, match="keyplane") as refused:
        getattr(here.core.keys, operation)(CALLER, key.id)

    assert f"keyplane provider release keyplane --key {key.id}" in refused.value.hint
    assert here.core.keys.get(CALLER, key.id) == key


def test_a_pending_binding_protects_the_key_already(here: FakeInstallation) -> None:
    bound_key(here, "node-a")
    new = root_key(here)
    here.core.providers.bind(CALLER, "keyplane", new.id)

    with pytest.raises(KeyInUseError):
        here.core.keys.delete(CALLER, new.id)


@pytest.mark.parametrize("operation", ["delete", "suspend"])
def test_retired_activations_protect_their_key_until_released(
    here: FakeInstallation, operation: str
) -> None:
    """Objects in etcd may lie under it; whoever has rewritten them says so by releasing."""
    former = bound_key(here)
    here.core.providers.bind(CALLER, "keyplane", root_key(here).id)
    change = getattr(here.core.keys, operation)

    with pytest.raises(KeyInUseError):
        change(CALLER, former.id)
    here.core.providers.release(CALLER, "keyplane", former.id)

    assert change(CALLER, former.id).id == former.id


def test_every_provider_that_needs_a_key_is_named(here: FakeInstallation) -> None:
    key = bound_key(here)
    here.core.providers.bind(CALLER, "second", key.id)
    here.core.providers.bind(CALLER, "third", root_key(here).id)

    with pytest.raises(KeyInUseError, match=r"provider keyplane, second$"):
        here.core.keys.delete(CALLER, key.id)
    users = here.core.providers.users_of(key.id)
    assert [seen.provider.name for seen in users] == ["keyplane", "second"]


def test_a_bound_key_that_has_expired_is_not_rotated_but_moves_on(here: FakeInstallation) -> None:
    key = root_key(here, expires_at=here.clock.now().replace(hour=13))
    here.core.providers.bind(CALLER, "keyplane", key.id)
    here.clock.advance(hours=1)

    with pytest.raises(KeyStateError, match="deactivated"):
        here.core.keys.rotate(CALLER, key.id)

    here.core.providers.bind(CALLER, "keyplane", root_key(here).id)
    assert states(here) == [RETIRED, ACTIVE]
