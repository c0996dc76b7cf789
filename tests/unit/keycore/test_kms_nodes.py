"""A provider over several nodes: what each tells the store, and a rotation across them."""

from __future__ import annotations

from keycore.domain.keys import Key
from keycore.domain.providers import ActivationState
from keycore.service.kms import (
    HEALTHY,
    KmsProvider,
)
from tests.fakes.installation import CALLER, FakeInstallation
from tests.unit.keycore.examples import (
    APISERVER,
    SEED,
    bind,
    refresh,
    root_key,
)

# --- what a node tells the store -----------------------------------------------------------


def test_a_node_registers_before_there_is_anything_to_serve(here: FakeInstallation) -> None:
    here.core.kms.refresh()

    (node,) = here.core.providers.nodes()

    assert (node.provider, node.name, node.loaded) == ("keyplane", "node-a", 0)


def test_a_node_reports_what_it_loaded_at_once_and_takes_up_what_that_activates(
    here: FakeInstallation, key: Key, kms: KmsProvider
) -> None:
    former = kms.status().key_id
    here.core.keys.rotate(CALLER, key.id)

    kms.refresh()

    assert here.core.providers.nodes()[0].loaded == 2
    assert kms.status().key_id not in ("", former)
    assert kms.status().healthz == HEALTHY


def test_a_heartbeat_is_written_every_ten_seconds_and_no_oftener(
    here: FakeInstallation, kms: KmsProvider
) -> None:
    started = here.clock.now()
    beats = set()
    for _ in range(100):
        kms.refresh()
        beats.add((here.core.providers.nodes()[0].seen_at - started).total_seconds())
        here.clock.advance(seconds=0.5)

    assert sorted(beats) == [0, 10, 20, 30, 40]


def test_a_removed_node_that_runs_registers_again(here: FakeInstallation, kms: KmsProvider) -> None:
    here.core.providers.remove_node(CALLER, "keyplane", "node-a")
    here.clock.advance(seconds=10)

    kms.refresh()

    assert here.core.providers.nodes()[0].loaded == 1


def test_a_released_activation_leaves_no_gap_in_what_is_loaded(
    here: FakeInstallation, key: Key
) -> None:
    bind(here, root_key(here))
    here.core.providers.release(CALLER, "keyplane", key.id)
    restarted = here.another_process("node-b").kms

    restarted.refresh()

    assert [node.loaded for node in here.core.providers.nodes()] == [2, 2]


# --- a whole rotation over two nodes -------------------------------------------------------


def test_over_two_nodes_nothing_is_ever_encrypted_that_the_other_cannot_decrypt(
    here: FakeInstallation, key: Key
) -> None:
    nodes = [here.core.kms, here.another_process().kms]
    written = []
    for kms in nodes:
        kms.refresh()
    here.core.keys.rotate(CALLER, key.id)

    for turn in range(6):
        nodes[turn % 2].refresh()
        here.clock.advance(seconds=0.5)
        for kms in nodes:
            kms.status()
            written.append(kms.encrypt(APISERVER, SEED))
        for kms in nodes:
            assert all(kms.decrypt(APISERVER, *one) == SEED for one in written)

    assert len({key_id for _, key_id in written}) == 2
    states = [a.state for a in here.core.providers.overview("keyplane").provider.activations]
    assert states == [ActivationState.RETIRED, ActivationState.ACTIVE]
    assert nodes[0].status() == nodes[1].status()


def test_a_restart_on_a_node_serves_every_generation_again(
    here: FakeInstallation, key: Key, kms: KmsProvider
) -> None:
    written = []
    for _ in range(3):
        kms.status()
        written.append(kms.encrypt(APISERVER, SEED))
        here.core.keys.rotate(CALLER, key.id)
        refresh(here)
    restarted = here.another_process("node-a").kms

    restarted.refresh()

    assert restarted.status() == kms.status()
    assert [restarted.decrypt(APISERVER, *one) for one in written] == [SEED] * 3
