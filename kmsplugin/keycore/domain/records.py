"""What the HSM signs of each stored record.

The encoding starts with a domain label that names kind and format, so a record
of one kind can never pass for another. Counters and heartbeats are left out, or
every wrap would need a signature. A format, once released, verifies for ever;
the next write of the record uses the newest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, assert_never

from keycore.domain.framing import Field, encode_fields
from keycore.domain.instances import Installation, Instance
from keycore.domain.keys import Key, KeyVersion
from keycore.domain.providers import Activation, Node, Provider

Record = Key | Provider | Node | Instance | Installation
RecordT = TypeVar("RecordT", Key, Provider, Node, Instance, Installation)

NEWEST_FORMAT = 2
"""The format that new signatures are made with."""


def signed_bytes(record: Record, record_format: int) -> bytes | None:
    """Return the bytes that the record MAC covers, or ``None`` for an unknown format.

    Raises:
        ValueError: the record holds what that format does not cover.
    """
    encoders = _ENCODERS.get(record_format)
    return None if encoders is None else encoders(record)


def describe(record: Record) -> tuple[str, str]:
    """Return kind and id of a record, for messages."""
    match record:
        case Key():
            return "key", record.id
        case Provider():
            return "provider", record.name
        case Node():
            return "node", f"{record.provider}/{record.name}"
        case Instance():
            return "instance", record.id
        case Installation():
            return "installation", record.id
        case _:
            assert_never(record)


def _encode_1(record: Record) -> bytes:
    match record:
        case Key():
            return _encode_key_1(record)
        case Provider():
            return _encode_provider_1(record)
        case Node(provider, name, loaded, registered_at, _):
            return encode_fields(("keyplane/record/node/1", provider, name, loaded, registered_at))
        case Instance(instance_id, name, namespace, created_at):
            return encode_fields(
                ("keyplane/record/instance/1", instance_id, name, namespace, created_at)
            )
        case Installation(installation_id, label, serial, created_at):
            return encode_fields(
                ("keyplane/record/installation/1", installation_id, label, serial, created_at)
            )
        case _:
            assert_never(record)


def _encode_2(record: Record) -> bytes:
    match record:
        case Key():
            return encode_fields(
                (
                    "keyplane/record/key/2",
                    *_key_fields_1(record),
                    encode_fields(record.aliases),
                    encode_fields(record.tags),
                    record.deleted_by,
                )
            )
        case _:
            # Only keys have changed since format 1.
            return _encode_1(record)


def _encode_key_1(key: Key) -> bytes:
    if key.aliases or key.tags or key.deleted_by:
        raise ValueError("format 1 does not cover what this key holds")
    return encode_fields(("keyplane/record/key/1", *_key_fields_1(key)))


def _key_fields_1(key: Key) -> tuple[Field, ...]:
    return (
        key.instance_id,
        key.id,
        key.name,
        key.description,
        key.kind.value,
        int(key.state),
        key.imported,
        key.bit_length,
        key.created_at,
        key.created_by,
        key.updated_at,
        key.expires_at,
        key.deleted_at,
        key.owner,
        key.rotation_marker,
        *(_encode_version_1(version) for version in key.versions),
    )


def _encode_version_1(version: KeyVersion) -> bytes:
    return encode_fields(
        (version.id, version.number, version.state.value, version.created_at, version.wrapped)
    )


def _encode_provider_1(provider: Provider) -> bytes:
    return encode_fields(
        (
            "keyplane/record/provider/1",
            provider.name,
            provider.key_id,
            provider.created_at,
            provider.updated_at,
            *(_encode_activation_1(activation) for activation in provider.activations),
        )
    )


def _encode_activation_1(activation: Activation) -> bytes:
    return encode_fields(
        (
            activation.id,
            activation.sequence,
            activation.key_id,
            activation.version_id,
            activation.state.value,
            activation.created_at,
        )
    )


_ENCODERS: dict[int, Callable[[Record], bytes]] = {1: _encode_1, 2: _encode_2}
