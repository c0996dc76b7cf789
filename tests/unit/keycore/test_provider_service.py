"""Providers and nodes as an administrator sees them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from keycore.domain.ids import KeyId, new_uuid
from keycore.domain.keys import KeyState
from keycore.domain.names import check_node_name, check_provider_name
from keycore.domain.providers import (
    ActivationState,
    nodes_without,
    with_key_released,
)
from keycore.errors import (
    InvalidRequestError,
    KeyInUseError,
    KeyNotFoundError,
    KeyStateError,
    NodeNotFoundError,
    NotARootKeyError,
    ProviderNotFoundError,
    StoreUnavailableError,
)
from tests.fakes.installation import CALLER, FakeInstallation
from tests.unit.keycore.examples import (
    KEY_ID,
    NODE,
    NOW,
    OTHER_KEY_ID,
    PROVIDER,
    put_state,
    root_key,
    standard_key,
)

# --- binding -----------------------------------------------------------------------


def test_a_first_binding_makes_the_provider(here: FakeInstallation) -> None:
    key = root_key(here)

    seen = here.core.providers.bind(CALLER, "keyplane", key.id)

    active = seen.provider.active
    assert active is not None
    assert (active.sequence, active.key_id, active.version_id) == (1, key.id, key.current.id)
    assert (seen.provider.name, seen.provider.key_id) == ("keyplane", key.id)
    assert (seen.nodes, seen.waiting_for) == ((), ())
    assert seen.provider.created_at == here.clock.now()
    assert here.core.providers.overview("keyplane") == seen


def test_binding_to_the_key_it_has_changes_nothing(here: FakeInstallation) -> None:
    key = root_key(here)
    once = here.core.providers.bind(CALLER, "keyplane", key.id)
    here.clock.advance(hours=1)

    assert here.core.providers.bind(CALLER, "keyplane", key.id) == once


def test_a_rebinding_waits_for_the_registered_nodes(here: FakeInstallation) -> None:
    here.core.providers.bind(CALLER, "keyplane", root_key(here).id)
    here.core.providers.report("keyplane", "node-b", 1)
    here.core.providers.report("keyplane", "node-a", 1)
    new = root_key(here)

    seen = here.core.providers.bind(CALLER, "keyplane", new.id)

    assert seen.provider.key_id == new.id
    assert seen.provider.pending is not None
    assert seen.provider.pending.key_id == new.id
    assert seen.waiting_for == ("node-a", "node-b")
    assert [node.name for node in seen.nodes] == ["node-a", "node-b"]
    assert here.core.providers.bind(CALLER, "keyplane", new.id) == seen


def test_a_provider_is_bound_to_the_version_that_is_active(here: FakeInstallation) -> None:
    key = root_key(here)
    rotated = here.core.keys.rotate(CALLER, key.id)

    active = here.core.providers.bind(CALLER, "keyplane", key.id).provider.active

    assert active is not None
    assert active.version_id == rotated.current.id


def test_a_standard_key_is_not_bound(here: FakeInstallation) -> None:
    with pytest.raises(NotARootKeyError):
        here.core.providers.bind(CALLER, "keyplane", standard_key(here).id)


def test_an_unknown_key_is_not_bound(here: FakeInstallation) -> None:
    with pytest.raises(KeyNotFoundError):
        here.core.providers.bind(CALLER, "keyplane", KeyId(new_uuid()))

    assert here.core.providers.overviews() == []


def test_a_refused_binding_leaves_the_provider_as_it_is(here: FakeInstallation) -> None:
    before = here.core.providers.bind(CALLER, "keyplane", root_key(here).id)
    suspended = root_key(here)
    put_state(here, suspended, KeyState.SUSPENDED)

    with pytest.raises(KeyStateError):
        here.core.providers.bind(CALLER, "keyplane", suspended.id)

    assert here.core.providers.overview("keyplane") == before


# --- release -----------------------------------------------------------------------


def test_a_former_key_is_released_and_its_ids_stay_taken(here: FakeInstallation) -> None:
    former, new = root_key(here), root_key(here)
    here.core.providers.bind(CALLER, "keyplane", former.id)
    here.core.keys.rotate(CALLER, former.id)
    before = here.core.providers.bind(CALLER, "keyplane", new.id).provider

    after = here.core.providers.release(CALLER, "keyplane", former.id).provider

    assert [a.state for a in after.activations] == [
        ActivationState.RELEASED,
        ActivationState.RELEASED,
        ActivationState.ACTIVE,
    ]
    assert [a.id for a in after.activations] == [a.id for a in before.activations]
    assert (after.needs(former.id), after.needs(new.id)) == (False, True)
    assert after.live == (after.active,)
    assert here.core.providers.users_of(former.id) == []


def test_a_key_that_the_provider_encrypts_with_is_not_released(here: FakeInstallation) -> None:
    key = root_key(here)
    before = here.core.providers.bind(CALLER, "keyplane", key.id)

    with pytest.raises(KeyInUseError, match=key.id) as refused:
        here.core.providers.release(CALLER, "keyplane", key.id)

    assert "keyplane provider set keyplane" in refused.value.hint
    assert here.core.providers.overview("keyplane") == before


@pytest.mark.parametrize("which", ["former", "new"])
def test_neither_key_is_released_before_a_rebinding_is_finished(
    here: FakeInstallation, which: str
) -> None:
    former, new = root_key(here), root_key(here)
    here.core.providers.bind(CALLER, "keyplane", former.id)
    here.core.providers.report("keyplane", "node-a", 1)
    here.core.providers.bind(CALLER, "keyplane", new.id)

    with pytest.raises(KeyInUseError):
        here.core.providers.release(CALLER, "keyplane", {"former": former, "new": new}[which].id)


def test_releasing_one_former_key_leaves_the_others(here: FakeInstallation) -> None:
    keys = [root_key(here) for _ in range(3)]
    for key in keys:
        here.core.providers.bind(CALLER, "keyplane", key.id)

    after = here.core.providers.release(CALLER, "keyplane", keys[0].id).provider

    assert [after.needs(key.id) for key in keys] == [False, True, True]


def test_an_unknown_provider_is_named(here: FakeInstallation) -> None:
    with pytest.raises(ProviderNotFoundError, match="nowhere"):
        here.core.providers.release(CALLER, "nowhere", root_key(here).id)
    with pytest.raises(ProviderNotFoundError, match="nowhere"):
        here.core.providers.overview("nowhere")


# --- nodes -------------------------------------------------------------------------


def test_a_node_registers_itself_before_its_provider_exists(here: FakeInstallation) -> None:
    here.core.providers.report("keyplane", "node-a", 0)
    registered_at = here.clock.now()
    here.clock.advance(minutes=1)
    here.core.providers.report("keyplane", "node-a", 0)

    (node,) = here.core.providers.nodes()

    assert (node.provider, node.name, node.loaded) == ("keyplane", "node-a", 0)
    assert (node.registered_at, node.seen_at) == (registered_at, here.clock.now())


def test_a_first_binding_waits_for_nodes_that_are_there_already(here: FakeInstallation) -> None:
    here.core.providers.report("keyplane", "node-a", 0)

    seen = here.core.providers.bind(CALLER, "keyplane", root_key(here).id)

    assert (seen.provider.active, seen.waiting_for) == (None, ("node-a",))
    here.core.providers.report("keyplane", "node-a", 1)
    assert here.core.providers.overview("keyplane").provider.active is not None


def test_one_host_may_serve_two_providers(here: FakeInstallation) -> None:
    here.core.providers.report("keyplane", "node-a", 0)
    here.core.providers.report("second", "node-a", 0)

    here.core.providers.remove_node(CALLER, "second", "node-a")

    assert [(n.provider, n.name) for n in here.core.providers.nodes()] == [("keyplane", "node-a")]


def test_a_removed_node_that_runs_after_all_registers_again(here: FakeInstallation) -> None:
    here.core.providers.report("keyplane", "node-a", 0)
    here.core.providers.remove_node(CALLER, "keyplane", "node-a")
    assert here.core.providers.nodes() == []
    here.clock.advance(minutes=1)

    here.core.providers.report("keyplane", "node-a", 0)

    assert here.core.providers.nodes()[0].registered_at == here.clock.now()


def test_a_node_that_is_not_registered_cannot_be_removed(here: FakeInstallation) -> None:
    with pytest.raises(NodeNotFoundError):
        here.core.providers.remove_node(CALLER, "keyplane", "node-a")


def test_nothing_is_reported_while_the_store_is_away(here: FakeInstallation) -> None:
    here.store.lost = True
    with pytest.raises(StoreUnavailableError):
        here.core.providers.report("keyplane", "node-a", 0)
    here.store.lost = False

    assert here.core.providers.nodes() == []


# --- pure rules ----------------------------------------------------------------------


def test_nodes_without_an_activation_are_named_in_order() -> None:
    nodes = [replace(NODE, name=name, loaded=n) for name, n in (("c", 1), ("a", 0), ("b", 2))]

    assert nodes_without(PROVIDER.activations[1], nodes) == ["a", "c"]
    assert nodes_without(PROVIDER.activations[0], nodes) == ["a"]
    assert nodes_without(PROVIDER.activations[0], []) == []


def test_a_provider_needs_every_key_that_is_not_released() -> None:
    released = replace(PROVIDER.activations[0], state=ActivationState.RELEASED)
    after = replace(PROVIDER, activations=(released, PROVIDER.activations[1]))

    assert (PROVIDER.needs(OTHER_KEY_ID), PROVIDER.encrypts_with(OTHER_KEY_ID)) == (True, False)
    assert (PROVIDER.needs(KEY_ID), PROVIDER.encrypts_with(KEY_ID)) == (True, True)
    assert (after.needs(OTHER_KEY_ID), after.needs(KEY_ID)) == (False, True)
    assert PROVIDER.created_at == NOW


def test_releasing_gives_up_retired_activations_of_the_key_alone() -> None:
    states = list(ActivationState)
    ledger = tuple(
        replace(PROVIDER.activations[0], state=state, key_id=key_id)
        for key_id in (KEY_ID, OTHER_KEY_ID)
        for state in states
    )

    after = with_key_released(replace(PROVIDER, activations=ledger), KEY_ID, NOW)

    released = ActivationState.RELEASED
    expected = [released if s is ActivationState.RETIRED else s for s in states] + states
    assert [entry.state for entry in after.activations] == expected


@pytest.mark.parametrize(
    "name", ["k", "keyplane", "a-b", "0", pytest.param("x" * 63, id="63-characters")]
)
def test_a_dns_label_is_a_provider_name(name: str) -> None:
    assert check_provider_name(name) == name


BAD_NAMES = [
    pytest.param("", id="empty"),
    pytest.param("-a", id="dash-first"),
    pytest.param("a-", id="dash-last"),
    pytest.param("a:b", id="colon"),
    pytest.param("a/b", id="slash"),
    pytest.param("A", id="upper-case"),
    pytest.param("a_b", id="underscore"),
    pytest.param("é", id="not-ascii"),
    pytest.param("a\n", id="line-feed"),
    pytest.param("x" * 254, id="too-long"),
]


@pytest.mark.parametrize("name", [*BAD_NAMES, "a.b", pytest.param("x" * 64, id="64-characters")])
def test_anything_else_is_no_provider_name(here: FakeInstallation, name: str) -> None:
    """A colon would end the name in etcd's prefix, and the rest would be read as key."""
    with pytest.raises(InvalidRequestError) as refused:
        check_provider_name(name)
    assert refused.value.field == "provider"

    with pytest.raises(InvalidRequestError):
        here.core.providers.bind(CALLER, name, root_key(here).id)
    with pytest.raises(InvalidRequestError):
        here.core.providers.report(name, "node-a", 0)


@pytest.mark.parametrize("name", ["n", "node-a.example", pytest.param("x" * 253, id="longest")])
def test_a_dns_subdomain_is_a_node_name(name: str) -> None:
    assert check_node_name(name) == name


@pytest.mark.parametrize("name", BAD_NAMES)
def test_anything_else_is_no_node_name(here: FakeInstallation, name: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        check_node_name(name)
    assert refused.value.field == "node"

    with pytest.raises(InvalidRequestError):
        here.core.providers.report("keyplane", name, 0)
    assert here.core.providers.nodes() == []
