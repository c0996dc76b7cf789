"""The JSON objects that commands answer with, made from the core's values.

What people see is made from the same objects, so both always say the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from keycli.output import Document, as_time
from keycore.domain.ids import KeyId
from keycore.domain.instances import Installation, Instance
from keycore.domain.keys import Key
from keycore.domain.providers import Activation, Node, key_id_hash
from keycore.ports import TokenDescription

if TYPE_CHECKING:
    from keycore.service.providers import ProviderOverview

KeyFinder = Callable[[KeyId], Key]


def key_document(key: Key, now: datetime, overviews: Iterable[ProviderOverview]) -> Document:
    """Describe a key.

    Args:
        key: a key or its tombstone.
        now: decides whether it has expired.
        overviews: every provider, to tell which of them need the key.
    """
    users = [seen for seen in overviews if seen.provider.needs(key.id)]
    return {
        "id": key.id,
        "name": key.name,
        "description": key.description,
        "instance": key.instance_id,
        "type": key.kind.value,
        "state": key.state_at(now).name.lower(),
        "imported": key.imported,
        "bitLength": key.bit_length,
        "currentVersion": key.current.number,
        "pendingVersion": key.pending.number if key.pending else None,
        "createdAt": as_time(key.created_at),
        "createdBy": key.created_by,
        "updatedAt": as_time(key.updated_at),
        "expiresAt": as_time(key.expires_at),
        "deletedAt": as_time(key.deleted_at),
        "owner": key.owner,
        "providers": [seen.provider.name for seen in users],
        "waitingFor": _nodes_waited_for(users),
        "versions": [
            {
                "number": version.number,
                "id": version.id,
                "state": version.state.value,
                "createdAt": as_time(version.created_at),
            }
            for version in key.versions
        ],
    }


def provider_document(overview: ProviderOverview, find_key: KeyFinder) -> Document:
    """Describe a provider with its ledger and nodes."""
    provider = overview.provider
    key = find_key(provider.key_id)
    return {
        "name": provider.name,
        "key": provider.key_id,
        "keyName": key.name,
        "active": activation_document(provider.active, find_key),
        "pending": activation_document(provider.pending, find_key),
        "waitingFor": list(overview.waiting_for),
        "createdAt": as_time(provider.created_at),
        "updatedAt": as_time(provider.updated_at),
        "nodes": [node_document(node, overview) for node in overview.nodes],
        "activations": [activation_document(a, find_key) for a in provider.activations],
    }


def activation_document(activation: Activation | None, find_key: KeyFinder) -> Document | None:
    """Describe one entry of a provider's ledger."""
    if activation is None:
        return None
    version = find_key(activation.key_id).version(activation.version_id)
    return {
        "sequence": activation.sequence,
        "keyId": activation.id,
        "keyIdHash": key_id_hash(activation.id),
        "key": activation.key_id,
        "version": version.number if version else None,
        "state": activation.state.value,
        "createdAt": as_time(activation.created_at),
    }


def node_document(node: Node, overview: ProviderOverview | None) -> Document:
    """Describe a registered node; ``overview`` is its provider's, if that is bound."""
    waited_for = overview.waiting_for if overview else ()
    return {
        "provider": node.provider,
        "name": node.name,
        "ready": node.name not in waited_for,
        "loaded": node.loaded,
        "registeredAt": as_time(node.registered_at),
        "seenAt": as_time(node.seen_at),
    }


def instance_document(instance: Instance) -> Document:
    """Describe an instance."""
    return {
        "id": instance.id,
        "name": instance.name,
        "namespace": instance.namespace,
        "createdAt": as_time(instance.created_at),
    }


def installation_document(installation: Installation, state_dir: str) -> Document:
    """Describe the installation."""
    return {
        "id": installation.id,
        "stateDir": state_dir,
        "createdAt": as_time(installation.created_at),
    }


def token_document(token: TokenDescription, module: str) -> Document:
    """Describe the token."""
    return {
        "label": token.label,
        "serial": token.serial,
        "manufacturer": token.manufacturer,
        "model": token.model,
        "module": module,
        "guardsUnwrapping": token.guards_unwrapping,
    }


def _nodes_waited_for(users: Sequence[ProviderOverview]) -> list[str]:
    return sorted({name for seen in users for name in seen.waiting_for})
