"""KMS providers, their activations and nodes, and the pure rules of two-phase rotation.

A provider is what one kube-apiserver configuration calls by name. Each time it
is bound to a key, or that key is rotated, it gets a new *activation*; the
activation's id is the ``key_id`` that the API server stores beside every object.
All activations together are the ledger: an id in it is never given out twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from keycore.domain.ids import ActivationId, KeyId, VersionId


class ActivationState(StrEnum):
    """Life of an activation: pending → active → retired → released.

    Pending: nodes load it, nothing is encrypted with it. Active: Status reports
    it. Retired: it decrypts only. Released: it is given up, and kept in the
    ledger only so that its id stays taken.
    """

    PENDING = "pending"
    ACTIVE = "active"
    RETIRED = "retired"
    RELEASED = "released"


_LIFE = tuple(ActivationState)


class OutagePolicy(StrEnum):
    """What Status says while the token does not answer.

    Coast: unhealthy, with the ``key_id``; the API server goes on writing under the
    seed that it has. FailClosed: no ``key_id``; the API server stops writing within
    three minutes (``kms-v2-contract``, outages).
    """

    COAST = "Coast"
    FAIL_CLOSED = "FailClosed"


@dataclass(frozen=True, slots=True)
class Activation:
    """One entry of the ledger.

    Attributes:
        sequence: 1 for a provider's first activation, counting up without gaps.
    """

    id: ActivationId
    sequence: int
    key_id: KeyId
    version_id: VersionId
    state: ActivationState
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Provider:
    """A KMS provider with its whole ledger: signed, stored and changed as one.

    Attributes:
        key_id: the key it is bound to, the newest activation's.
        activations: in order of their sequence, never empty.
    """

    name: str
    key_id: KeyId
    created_at: datetime
    updated_at: datetime
    activations: tuple[Activation, ...]

    @property
    def active(self) -> Activation | None:
        """The activation that encrypts; ``None`` until the first one is loaded everywhere."""
        return self._only(ActivationState.ACTIVE)

    @property
    def pending(self) -> Activation | None:
        """The activation that some registered node has not loaded yet."""
        return self._only(ActivationState.PENDING)

    @property
    def live(self) -> tuple[Activation, ...]:
        """All activations that must be decryptable: everything not released."""
        return tuple(a for a in self.activations if a.state is not ActivationState.RELEASED)

    def needs(self, key_id: KeyId) -> bool:
        """Tell whether objects in etcd may depend on the key."""
        return any(a.key_id == key_id for a in self.live)

    def encrypts_with(self, key_id: KeyId) -> bool:
        """Tell whether the provider encrypts under the key, or will when its nodes are ready."""
        return any(a.key_id == key_id for a in (self.active, self.pending) if a is not None)

    def continues(self, earlier: Provider) -> bool:
        """Tell whether this can be what became of ``earlier``.

        A ledger only grows, and an activation only goes on in its life. Anything else
        is another ledger, or an older one that somebody has put back.
        """
        return len(self.activations) >= len(earlier.activations) and all(
            (now.id, now.version_id) == (was.id, was.version_id)
            and _LIFE.index(now.state) >= _LIFE.index(was.state)
            for was, now in zip(earlier.activations, self.activations, strict=False)
        )

    def _only(self, state: ActivationState) -> Activation | None:
        return next((a for a in self.activations if a.state is state), None)


@dataclass(frozen=True, slots=True)
class Node:
    """A registered provider process, one per control-plane node.

    Attributes:
        loaded: every live activation up to this sequence can be decrypted there.
        seen_at: last sign of life; a heartbeat, so it is not signed.
    """

    provider: str
    name: str
    loaded: int
    registered_at: datetime
    seen_at: datetime


def key_id_hash(key_id: str) -> str:
    """Return ``key_id`` as kube-apiserver's metrics show it (label ``key_id_hash``).

    Empty for the empty ``key_id`` of a provider that has no key yet.
    """
    return f"sha256:{hashlib.sha256(key_id.encode()).hexdigest()}" if key_id else ""


def nodes_without(activation: Activation, nodes: Iterable[Node]) -> list[str]:
    """Return the names of the registered nodes, alive or not, that cannot decrypt it yet."""
    return sorted(node.name for node in nodes if node.loaded < activation.sequence)


def with_activation(provider: Provider, activation: Activation, now: datetime) -> Provider:
    """Return ``provider`` bound to the activation's key, the activation pending."""
    return replace(
        provider,
        key_id=activation.key_id,
        activations=(*provider.activations, activation),
        updated_at=now,
    )


def with_pending_activated(provider: Provider, now: datetime) -> Provider:
    """Return ``provider`` with its pending activation active and the former one retired."""
    successor = {
        ActivationState.ACTIVE: ActivationState.RETIRED,
        ActivationState.PENDING: ActivationState.ACTIVE,
    }
    return replace(
        provider,
        activations=tuple(
            replace(a, state=successor.get(a.state, a.state)) for a in provider.activations
        ),
        updated_at=now,
    )


def with_key_released(provider: Provider, key_id: KeyId, now: datetime) -> Provider:
    """Return ``provider`` with every retired activation of the key released."""
    return replace(
        provider,
        activations=tuple(
            replace(a, state=ActivationState.RELEASED)
            if a.key_id == key_id and a.state is ActivationState.RETIRED
            else a
            for a in provider.activations
        ),
        updated_at=now,
    )
