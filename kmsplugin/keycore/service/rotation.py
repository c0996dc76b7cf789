"""Two-phase rotation: a new version decrypts everywhere before it encrypts anywhere.

These functions run inside a transaction of the calling use case, so a crash
leaves either all of a step or none of it.
"""

from __future__ import annotations

from datetime import datetime

from keycore.domain import providers
from keycore.domain.ids import ActivationId, VersionId, new_uuid
from keycore.domain.keys import (
    Key,
    KeyVersion,
    VersionState,
    with_new_version,
    with_pending_activated,
)
from keycore.domain.providers import (
    Activation,
    ActivationState,
    Provider,
    nodes_without,
    with_activation,
)
from keycore.errors import RotationPendingError
from keycore.service.records import Unit


def first_version(wrapped: bytes, now: datetime) -> KeyVersion:
    """Return version 1 of a new key."""
    return KeyVersion(VersionId(new_uuid()), 1, VersionState.ACTIVE, now, wrapped)


def add_version(unit: Unit, key: Key, wrapped: bytes, now: datetime) -> Key:
    """Give ``key`` a new version and save both.

    Without a provider the version is active at once. For a key that providers
    encrypt with it is pending, with one pending activation for each of them, until
    every registered node has loaded it.

    Raises:
        RotationPendingError: an earlier rotation or binding is not finished.
    """
    # A provider that is being bound to another key still encrypts with this one, so
    # it counts, and its unfinished binding refuses the rotation.
    bound = [provider for provider in unit.providers() if provider.encrypts_with(key.id)]
    ensure_settled(unit, key, bound)
    version = KeyVersion(
        id=VersionId(new_uuid()),
        number=key.versions[-1].number + 1,
        state=VersionState.PENDING if bound else VersionState.ACTIVE,
        created_at=now,
        wrapped=wrapped,
    )
    unit.save_key(with_new_version(key, version, now))
    for provider in bound:
        unit.save_provider(
            with_activation(provider, next_activation(provider, key, version, now), now)
        )
    for provider in bound:
        settle(unit, provider.name, now)
    return unit.key(key.id)


def next_activation(
    provider: Provider | None, key: Key, version: KeyVersion, now: datetime
) -> Activation:
    """Return a pending activation with a ``key_id`` that was never used before."""
    return Activation(
        id=ActivationId(new_uuid()),
        sequence=len(provider.activations) + 1 if provider else 1,
        key_id=key.id,
        version_id=version.id,
        state=ActivationState.PENDING,
        created_at=now,
    )


def ensure_settled(unit: Unit, key: Key, concerned: list[Provider]) -> None:
    """Check that neither the key nor one of the providers waits for nodes.

    Raises:
        RotationPendingError: one does; the hint names the nodes it waits for.
    """
    unsettled = [provider for provider in concerned if provider.pending is not None]
    if key.pending is None and not unsettled:
        return
    waiting = sorted(
        {
            name
            for provider in unit.providers()
            if provider in unsettled or provider.encrypts_with(key.id)
            for name in waits_for(unit, provider)
        }
    )
    raise RotationPendingError(
        f"an earlier rotation or binding of key {key.id} is not finished",
        hint=f"it waits for node {', '.join(waiting)}; start the provider there, or remove a "
        "node that will not come back: keyplane nodes remove <node>"
        if waiting
        else "try again in a moment",
    )


def waits_for(unit: Unit, provider: Provider) -> list[str]:
    """Return the nodes that have not loaded the provider's pending activation."""
    pending = provider.pending
    return nodes_without(pending, unit.nodes(provider.name)) if pending else []


def settle(unit: Unit, provider_name: str, now: datetime) -> bool:
    """Activate the provider's pending activation if every node concerned has loaded it.

    When the activation came from a rotation, all providers of that key go together
    with the key's own version: none of them can lag behind on a retired one.

    Returns:
        Whether something was activated.
    """
    provider = unit.provider(provider_name)
    pending = provider.pending
    if pending is None:
        return False
    key = unit.key(pending.key_id)
    rotating = key.pending is not None and key.pending.id == pending.version_id
    concerned = [
        other
        for other in unit.providers()
        if other.name == provider.name
        or (rotating and other.pending and other.pending.version_id == pending.version_id)
    ]
    if any(waits_for(unit, other) for other in concerned):
        return False
    for other in concerned:
        unit.save_provider(providers.with_pending_activated(other, now))
    if rotating:
        unit.save_key(with_pending_activated(key, now))
    return True
