"""Short ways to the values that tests of decisions need."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from keycore.domain.ids import ActivationId, InstanceId, KeyId, VersionId
from keycore.domain.keys import Key, KeyKind, KeyState, KeyVersion, VersionState
from keycore.domain.providers import Activation, ActivationState, Node, Provider
from keycore.service.providers import ProviderOverview
from keyoperator.wanted import Identity, Wanted

NOW = datetime(2030, 3, 1, 12, tzinfo=UTC)
KEY_ID = KeyId("11111111-1111-4111-8111-111111111111")
OTHER_KEY_ID = KeyId("22222222-2222-4222-8222-222222222222")
INSTANCE_ID = InstanceId("33333333-3333-4333-8333-333333333333")
UID = "44444444-4444-4444-8444-444444444444"
IDENTITY = Identity("demo", "etcd", UID, 3)


def a_version(
    number: int, state: VersionState = VersionState.ACTIVE, *, age: timedelta = timedelta(days=1)
) -> KeyVersion:
    """Return a version that was made ``age`` ago."""
    version_id = VersionId(f"55555555-5555-4555-8555-{number:012}")
    return KeyVersion(version_id, number, state, NOW - age, b"wrapped")


def a_key(**changes: Any) -> Key:
    """Return an active root key of the resource, one day old."""
    key = Key(
        id=KEY_ID,
        instance_id=INSTANCE_ID,
        name="etcd",
        description=None,
        kind=KeyKind.ROOT,
        state=KeyState.ACTIVE,
        imported=False,
        bit_length=256,
        created_at=NOW - timedelta(days=1),
        created_by="Key demo/etcd",
        updated_at=NOW - timedelta(days=1),
        expires_at=None,
        deleted_at=None,
        owner=IDENTITY.owner,
        rotation_marker=None,
        versions=(a_version(1),),
    )
    return replace(key, **changes)


def a_rotating_key(**changes: Any) -> Key:
    """Return a key whose second version is pending."""
    versions = (a_version(1), a_version(2, VersionState.PENDING, age=timedelta(minutes=1)))
    return a_key(versions=versions, **changes)


def a_wish(**fields: Any) -> Wanted:
    """Return a resource that sets only the given fields."""
    return Wanted(IDENTITY, **fields)


def a_user(
    *, key_id: KeyId = KEY_ID, pending: bool = False, waiting_for: tuple[str, ...] = ()
) -> ProviderOverview:
    """Return a provider that is bound to a key, and whether it waits for nodes."""
    activations = [_activation(1, key_id, ActivationState.ACTIVE)]
    if pending:
        activations.append(_activation(2, key_id, ActivationState.PENDING))
    provider = Provider("keyplane", key_id, NOW, NOW, tuple(activations))
    nodes = tuple(Node("keyplane", name, 1, NOW, NOW) for name in waiting_for)
    return ProviderOverview(provider, nodes, waiting_for)


def _activation(sequence: int, key_id: KeyId, state: ActivationState) -> Activation:
    activation_id = ActivationId(f"66666666-6666-4666-8666-{sequence:012}")
    version_id = VersionId(f"55555555-5555-4555-8555-{sequence:012}")
    return Activation(activation_id, sequence, key_id, version_id, state, NOW)


def a_manifest(**spec: Any) -> dict[str, Any]:
    """Return a Key as the API server shows it to the operator, held by its finalizer."""
    return {
        "apiVersion": "kms.keyplane.dev/v1",
        "kind": "Key",
        "metadata": {
            "namespace": IDENTITY.namespace,
            "name": IDENTITY.name,
            "uid": IDENTITY.uid,
            "generation": IDENTITY.generation,
            "finalizers": ["kms.keyplane.dev/key"],
        },
        "spec": {"type": "Root", "deletionPolicy": "Delete", **spec},
    }
