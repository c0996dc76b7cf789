"""Several nodes on one store, in any order of rotations, outages and restarts.

Whatever happens: what one registered node has encrypted, every registered node decrypts,
and no node ever goes back to a key_id that it has left.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from keycore.bootstrap import Core, wire
from keycore.domain.keys import Key
from keycore.errors import RotationPendingError, StoreUnavailableError
from keycore.ports import Store
from keycore.settings import ProviderSettings, Settings
from tests.fakes.installation import CALLER, FakeInstallation, fake_installation
from tests.fakes.memory_keyring import MemoryKeyring
from tests.unit.keycore.examples import APISERVER, SEED, root_key

NODES = ("node-a", "node-b", "node-c")


class Line:
    """A node's connection to the store, which can be cut."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.cut = False

    def __getattr__(self, name: str) -> Any:
        if self.cut and name != "version":
            raise StoreUnavailableError("the line is cut")
        return getattr(self._store, name)


class Node:
    """A control-plane node: its keyring stays, its process comes and goes."""

    def __init__(self, here: FakeInstallation, name: str) -> None:
        self._here = here
        self._name = name
        self.line = Line(here.store)
        self.keyring = MemoryKeyring()
        self.key_ids: list[str] = []
        self.core = self._started()

    def restart(self) -> None:
        """Lose everything but the keyring."""
        self.core = self._started()

    def poll(self) -> None:
        """Ask for the status, as the API server does, and remember each new key_id."""
        key_id = self.core.kms.status().key_id
        if key_id and (not self.key_ids or self.key_ids[-1] != key_id):
            self.key_ids.append(key_id)

    def _started(self) -> Core:
        core = wire(
            Settings(state_dir=Path("/nonexistent"), provider=ProviderSettings(node=self._name)),
            cast("Store", self.line),
            self._here.token,
            self._here.audit,
            self._here.clock,
            keyring=self.keyring,
            installation=self._here.core.installation,
        )
        if self.keyring.kept is not None:
            core.kms.start_from(self.keyring.kept)
        core.kms.refresh()
        return core


class Generations(RuleBasedStateMachine):
    """Three nodes, two keys, and whatever can happen to them."""

    @initialize()
    def prepare(self) -> None:
        """Bind a key, and let every node load it."""
        self.here = fake_installation()
        self.keys: list[Key] = [root_key(self.here), root_key(self.here)]
        self.here.core.providers.bind(CALLER, "keyplane", self.keys[0].id)
        self.nodes = {name: Node(self.here, name) for name in NODES}
        for node in self.nodes.values():
            node.core.kms.refresh()
        self.written: list[tuple[bytes, str]] = []

    @rule(number=st.integers(0, 1))
    def rotate(self, number: int) -> None:
        """Rotate a key, unless the last rotation still waits."""
        try:
            self.here.core.keys.rotate(CALLER, self.keys[number].id)
        except RotationPendingError:
            return

    @rule(number=st.integers(0, 1))
    def bind(self, number: int) -> None:
        """Bind the provider to a key, unless something still waits."""
        try:
            self.here.core.providers.bind(CALLER, "keyplane", self.keys[number].id)
        except RotationPendingError:
            return

    @rule(name=st.sampled_from(NODES))
    def refresh(self, name: str) -> None:
        """Let a node look at the store, and its API server at its status."""
        self.here.clock.advance(seconds=1)
        self.nodes[name].core.kms.refresh()
        self.nodes[name].poll()

    @rule()
    def refresh_all(self) -> None:
        """Let some time pass."""
        for name in NODES:
            self.refresh(name)

    @rule(name=st.sampled_from(NODES))
    def restart_alone(self, name: str) -> None:
        """Restart a provider whose store is away."""
        self.cut(name)
        self.restart(name)

    @rule(name=st.sampled_from(NODES))
    def cut(self, name: str) -> None:
        """Take the store away from one node."""
        self.nodes[name].line.cut = True

    @rule(name=st.sampled_from(NODES))
    def mend(self, name: str) -> None:
        """Give the store back."""
        self.nodes[name].line.cut = False

    @rule(name=st.sampled_from(NODES))
    def restart(self, name: str) -> None:
        """Restart a provider, with the store or without."""
        self.nodes[name].restart()
        self.nodes[name].poll()

    @rule(name=st.sampled_from(NODES))
    def fill_or_clear_the_disk(self, name: str) -> None:
        """Let the keyring be written no more, or again."""
        self.nodes[name].keyring.full = not self.nodes[name].keyring.full

    @precondition(lambda self: len(self.written) < 60)
    @rule(name=st.sampled_from(NODES))
    def write(self, name: str) -> None:
        """Encrypt on one node under the key_id that it has reported last."""
        node = self.nodes[name]
        node.poll()
        try:
            ciphertext, key_id = node.core.kms.encrypt(APISERVER, SEED)
        except StoreUnavailableError:
            # No counted uses are left and none can be had: refused, and nothing written.
            return
        assert key_id == node.key_ids[-1]
        self.written.append((ciphertext, key_id))

    @invariant()
    def everything_is_readable_everywhere(self) -> None:
        """No node writes what another registered node cannot open."""
        for node in self.nodes.values():
            for ciphertext, key_id in self.written:
                assert node.core.kms.decrypt(APISERVER, ciphertext, key_id) == SEED

    @invariant()
    def no_key_id_comes_back(self) -> None:
        """kube-apiserver would take stale objects for fresh ones."""
        for node in self.nodes.values():
            assert len(node.key_ids) == len(set(node.key_ids))


TestGenerations = Generations.TestCase
TestGenerations.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
