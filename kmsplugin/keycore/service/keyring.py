"""What a node keeps of its provider for a start without the store, and the uses put aside in it.

The background loop alone calls this. The file is written before a change shows anywhere
else, so what the node has told to others, or to the API server, is true after a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from keycore.domain.ids import ActivationId, KeyId, VersionId
from keycore.domain.instances import Installation
from keycore.domain.keyring import NodeKeyring
from keycore.domain.keys import Key
from keycore.domain.providers import Provider
from keycore.errors import (
    IntegrityError,
    KeyExhaustedError,
    KeyplaneError,
    StoreUnavailableError,
)
from keycore.ports import Clock, Keyring, Store
from keycore.service.use_budget import RESERVED_MAX

KMS_USES_AHEAD = 256
"""Uses that one provider process takes from the store at a time. The API server asks
for an encryption at its start and at each new key_id, so this lasts for months, and a
provider in a restart loop of one second takes half a year to use a version up."""

KMS_USES_ASIDE = 64 * KMS_USES_AHEAD
"""Uses that are put into the keyring when less than half of them are left; each start
without the store takes a block of :data:`KMS_USES_AHEAD`."""

_RESERVE_AGAIN_SECONDS = 3600.0
"""How long nothing is put aside after that could not be written down."""


class KeyringKeeper:
    """Keeps one node's keyring; without a port it keeps nothing and is never in the way.

    Attributes:
        kept: what was loaded or written last; ``None`` before that.
        fault: why it could not be read or written the last time; empty for no reason.
    """

    def __init__(
        self,
        name: str,
        node: str,
        *,
        installation: Installation,
        keyring: Keyring | None,
        store: Store,
        clock: Clock,
    ) -> None:
        """Keep provider ``name`` of ``installation`` for ``node`` in ``keyring``."""
        self._name = name
        self._node = node
        self._installation = installation
        self._keyring = keyring
        self._store = store
        self._clock = clock
        self._used_up: set[VersionId] = set()
        self._not_before = float("-inf")
        self.kept: NodeKeyring | None = None
        self.fault = ""

    def start_from(self, kept: NodeKeyring) -> None:
        """Go on with what an earlier process of this node has kept.

        Raises:
            IntegrityError: it was kept for another installation, provider or node.
        """
        if not self._is_own(kept):
            raise IntegrityError("keyring", f"{kept.provider.name}.{kept.node}")
        self.kept = kept

    def _is_own(self, kept: NodeKeyring) -> bool:
        found = kept.installation.id, kept.provider.name, kept.node
        return found == (self._installation.id, self._name, self._node)

    def key(self, key_id: KeyId) -> Key | None:
        """Return a key as it is kept, or ``None``."""
        keys = self.kept.keys if self.kept else ()
        return next((key for key in keys if key.id == key_id), None)

    def up_to(self, provider: Provider) -> int:
        """Return the sequence up to which every live activation is kept."""
        if self._keyring is None:
            return len(provider.activations)
        kept = {a.id for a in self.kept.provider.live} if self.kept else set[ActivationId]()
        up_to = 0
        for activation in provider.activations:
            if activation in provider.live and activation.id not in kept:
                break
            up_to = activation.sequence
        return up_to

    def keep(self, provider: Provider, keys: tuple[Key, ...]) -> None:
        """Write provider and keys if they have changed; what goes wrong is kept, not raised."""
        kept = self.kept
        # Written again after a fault too, or nobody would know that it has passed.
        if kept and not self.fault and (kept.provider, kept.keys) == (provider, keys):
            return

        def changed(current: NodeKeyring | None) -> NodeKeyring:
            if current and current.installation.id != self._installation.id:
                # It may be the last copy of keys that somebody still needs.
                raise StoreUnavailableError(
                    "the keyring of another installation lies in its place",
                    hint="move that file away, if its store is not to be put back",
                )
            if current and self._is_own(current) and not provider.continues(current.provider):
                # Another process of this node knows more than this one.
                return current
            # What is there now counts: during a takeover two processes take uses from it.
            uses = {v: n for v, n in _uses(current).items() if v in _writing(provider)}
            return NodeKeyring(
                self._installation, self._node, provider, keys, _listed(uses), self._clock.now()
            )

        self._update(changed)

    def put_uses_aside(self) -> None:
        """Reserve uses for starts without the store, where too few are left.

        Nothing is reserved for a keyring that cannot be written: it would be lost.

        Raises:
            StoreUnavailableError: the store did not answer; what it reserved yet is lost.
        """
        kept = self.kept
        if kept is None or self.fault or self._clock.monotonic() < self._not_before:
            return
        known = _uses(kept)
        low = {v for v in _writing(kept.provider) if known.get(v, 0) < KMS_USES_ASIDE // 2}
        low -= self._used_up
        if not low:
            return
        granted = self._store.reserve_uses(sorted(low), KMS_USES_ASIDE, RESERVED_MAX)
        self._used_up |= {version for version, count in granted.items() if not count}

        def changed(current: NodeKeyring | None) -> NodeKeyring:
            there = _uses(current)
            uses = there | {v: there.get(v, 0) + count for v, count in granted.items()}
            return replace(current or kept, uses=_listed(uses), saved_at=self._clock.now())

        if not self._update(changed):
            # It may have been done all the same, so the reservation is given up. A disk
            # that stays full must not eat the bound up.
            self._not_before = self._clock.monotonic() + _RESERVE_AGAIN_SECONDS

    def take_uses(self, version_id: VersionId) -> int:
        """Take a block of the uses that were put aside, and return how many they are.

        They are struck off first, so a crash in between loses them and counts none twice.
        """
        taken = 0

        def changed(current: NodeKeyring | None) -> NodeKeyring:
            nonlocal taken
            uses = _uses(current)
            taken = min(uses.get(version_id, 0), KMS_USES_AHEAD)
            if current is None or not taken:
                raise KeyExhaustedError("the keyring holds no uses")
            uses[version_id] -= taken
            return replace(current, uses=_listed(uses), saved_at=self._clock.now())

        return taken if self._update(changed) else 0

    def _update(self, change: Callable[[NodeKeyring | None], NodeKeyring]) -> bool:
        if self._keyring is None:
            return False
        try:
            self.kept = self._keyring.update(change)
        except KeyExhaustedError:
            return False
        except KeyplaneError as error:
            self.fault = error.message
            return False
        self.fault = ""
        return True


def _writing(provider: Provider) -> set[VersionId]:
    return {a.version_id for a in (provider.active, provider.pending) if a}


def _uses(keyring: NodeKeyring | None) -> dict[VersionId, int]:
    return dict(keyring.uses) if keyring else {}


def _listed(uses: Mapping[VersionId, int]) -> tuple[tuple[VersionId, int], ...]:
    return tuple(sorted((version, count) for version, count in uses.items() if count > 0))
