"""Fixed records and small tools that the core's unit tests share."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.keywrap import aes_key_unwrap_with_padding

from keycore.domain.ids import ActivationId, InstanceId, KeyId, VersionId
from keycore.domain.instances import Installation, Instance
from keycore.domain.keys import Key, KeyKind, KeyState, KeyVersion, VersionState
from keycore.domain.providers import Activation, ActivationState, Node, Provider
from keycore.ports import Signed
from keycore.service.caller import Caller
from keycore.service.creation import NewKey
from keycore.service.kms import KmsProvider
from keycore.service.records import Records
from tests.fakes.installation import CALLER, FakeInstallation

NOW = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)

INSTANCE_ID = InstanceId("0a000000-0000-4000-8000-000000000001")
KEY_ID = KeyId("0b000000-0000-4000-8000-000000000002")
OTHER_KEY_ID = KeyId("0b000000-0000-4000-8000-000000000003")
FIRST_VERSION_ID = VersionId("0c000000-0000-4000-8000-000000000004")
SECOND_VERSION_ID = VersionId("0c000000-0000-4000-8000-000000000005")

KEY = Key(
    id=KEY_ID,
    instance_id=INSTANCE_ID,
    name="etcd näme",
    description="what it is for",
    kind=KeyKind.ROOT,
    state=KeyState.ACTIVE,
    imported=True,
    bit_length=384,
    created_at=NOW,
    created_by="uid:0",
    updated_at=NOW + timedelta(seconds=1),
    expires_at=NOW + timedelta(days=1),
    deleted_at=NOW + timedelta(days=2),
    owner="demo/etcd",
    rotation_marker="first",
    versions=(
        KeyVersion(FIRST_VERSION_ID, 1, VersionState.RETIRED, NOW, b"\x01" * 40),
        KeyVersion(SECOND_VERSION_ID, 2, VersionState.ACTIVE, NOW, b"\x02" * 40),
    ),
    aliases=("etcd", "etcd-2"),
    tags=("team:a", "täg"),
    deleted_by="uid:1",
)

PROVIDER = Provider(
    name="keyplane",
    key_id=KEY_ID,
    created_at=NOW,
    updated_at=NOW + timedelta(seconds=1),
    activations=(
        Activation(
            id=ActivationId("0d000000-0000-4000-8000-000000000006"),
            sequence=1,
            key_id=OTHER_KEY_ID,
            version_id=FIRST_VERSION_ID,
            state=ActivationState.RETIRED,
            created_at=NOW,
        ),
        Activation(
            id=ActivationId("0d000000-0000-4000-8000-000000000007"),
            sequence=2,
            key_id=KEY_ID,
            version_id=SECOND_VERSION_ID,
            state=ActivationState.ACTIVE,
            created_at=NOW,
        ),
    ),
)

NODE = Node("keyplane", "node-a", 2, NOW, NOW + timedelta(minutes=1))
INSTANCE = Instance(INSTANCE_ID, "home", "keyplane-system", NOW)
INSTALLATION = Installation("0e000000-0000-4000-8000-000000000008", "label", "0123", NOW)

APISERVER = Caller("provider", "kube-apiserver", "uid-1")
SEED = bytes(range(32))


def root_key(here: FakeInstallation, **wanted: Any) -> Key:
    """Create a root key in the installation's instance."""
    return here.core.keys.create(CALLER, here.instance.id, NewKey(**{"name": "root key", **wanted}))


def material_of(here: FakeInstallation, key: Key) -> bytes:
    """Return the key bytes inside the fake token."""
    wrapped = key.current.wrapped
    assert wrapped is not None
    return aes_key_unwrap_with_padding(here.token._master, wrapped)


def standard_key(here: FakeInstallation, **wanted: Any) -> Key:
    """Create a standard key in the installation's instance."""
    return root_key(here, kind=KeyKind.STANDARD, **wanted)


def another_instance(here: FakeInstallation) -> InstanceId:
    """Create a second instance."""
    return here.core.instances.create(CALLER, "other").id


def put_state(here: FakeInstallation, key: Key, state: KeyState) -> None:
    """Bring a key into a state by the means that leads there."""
    if state is KeyState.DESTROYED:
        here.core.keys.delete(CALLER, key.id)
    elif state is KeyState.DEACTIVATED:
        save_key(here, replace(key, expires_at=here.clock.now()))
    else:
        save_key(here, replace(key, state=state))


def save_key(here: FakeInstallation, key: Key) -> None:
    """Write a signed key as another process would, and wait until this one has seen it."""
    with Records(here.store, here.token).writing() as unit:
        unit.save_key(key)
    here.clock.advance(seconds=0.6)


def tamper_key(here: FakeInstallation, key_id: KeyId, **changes: Any) -> None:
    """Change a stored key and keep the MAC of the old one."""
    rows = here.store._tables
    signed = rows.keys[key_id]
    rows.keys[key_id] = replace(signed, record=replace(signed.record, **changes))
    rows.changed[key_id] = rows.bump()


def tamper_provider(here: FakeInstallation, **changes: Any) -> Signed[Provider]:
    """Change the stored provider, keep its MAC, and return the row as it was."""
    rows = here.store._tables
    signed = rows.providers["keyplane"]
    put_provider(here, replace(signed, record=replace(signed.record, **changes)))
    return signed


def put_provider(here: FakeInstallation, signed: Signed[Provider] | None) -> None:
    """Replace the stored provider row, or remove it."""
    rows = here.store._tables
    rows.bump()
    if signed is None:
        del rows.providers["keyplane"]
    else:
        rows.providers["keyplane"] = signed


def bind(here: FakeInstallation, key: Key) -> str:
    """Bind the provider to a key, let node-a take it up, and return the new key_id."""
    here.core.providers.bind(CALLER, "keyplane", key.id)
    refresh(here)
    active = here.core.providers.overview("keyplane").provider.active
    assert active is not None
    return active.id


def refresh(here: FakeInstallation, kms: KmsProvider | None = None) -> None:
    """Do what the background loop does in the next second."""
    for _ in range(2):
        here.clock.advance(seconds=0.5)
        (kms or here.core.kms).refresh()
