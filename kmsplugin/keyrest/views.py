"""What answers look like: the resources of the REST contract, made from values of the core.

Every view names the fields that it shows one by one, so that nothing of a key,
least of all its wrapped material, is shown because somebody added it elsewhere.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import orjson

from keycore.domain.ids import InstanceId, KeyId
from keycore.domain.keys import Key, KeyKind, KeyState, KeyVersion
from keycore.ports import Clock
from keycore.service.key_reading import DeletionPreview, OpenedKey
from keycore.service.wrapping import Rewrapped, Unwrapped, Wrapped
from keyrest.answers import ACTION_TYPE, KEY_TYPE, Answer

ALGORITHM = "AES"

Resource = dict[str, Any]
"""One JSON object."""

# Dates as the original writes them, RFC 3339 in UTC without fractions: clients that
# compare texts would see a change in every other form.
_FORMAT = orjson.OPT_UTC_Z | orjson.OPT_OMIT_MICROSECONDS


class KeyViews:
    """Shows keys as they are at the moment of asking."""

    def __init__(self, clock: Clock, cluster: str, *, mode: str) -> None:
        """Tell states by ``clock``; ``cluster`` is part of every ``crn``.

        Args:
            clock: tells which keys have expired.
            cluster: name of the cluster.
            mode: of the cipher that the token uses.
        """
        self._clock = clock
        self._cluster = cluster
        self._mode = mode

    def minimal(self, key: Key) -> Resource:
        """Return what identifies a key."""
        return _without_none(
            {
                "type": KEY_TYPE,
                "id": key.id,
                "name": key.name,
                "aliases": list(key.aliases) or None,
                "description": key.description,
                "tags": list(key.tags) or None,
                "state": int(key.state_at(self._clock.now())),
                "expirationDate": key.expires_at,
                "extractable": key.kind is KeyKind.STANDARD,
                "crn": self._crn(key.instance_id, key.id),
                "imported": key.imported,
                "deleted": key.state is KeyState.DESTROYED,
            }
        )

    def whole(self, key: Key) -> Resource:
        """Return everything about a key that is no secret."""
        return _without_none(
            {
                **self.minimal(key),
                "aliases": list(key.aliases),
                "tags": list(key.tags),
                "keyRingID": "default",
                "creationDate": key.created_at,
                "createdBy": key.created_by,
                "algorithmType": ALGORITHM,
                # A text here and a number below, as in the original.
                "algorithmMetadata": {"bitLength": str(key.bit_length), "mode": self._mode},
                "algorithmBitSize": key.bit_length,
                "algorithmMode": self._mode,
                "lastUpdateDate": key.updated_at,
                "lastRotateDate": key.rotated_at,
                "keyVersion": version(key.current),
                "dualAuthDelete": {"enabled": False},
                "deletionDate": key.deleted_at,
                "deletedBy": key.deleted_by,
            }
        )

    def opened(self, opened: OpenedKey) -> Resource:
        """Return a key with its payload if it has one that may be handed out."""
        if opened.payload is None:
            return self.whole(opened.key)
        return {**self.whole(opened.key), "payload": _base64(opened.payload)}

    def previewed(self, preview: DeletionPreview) -> Resource:
        """Return a key with what its deletion would destroy for ever.

        ``ciphertexts`` may be too high, never too low: uses are counted ahead.
        """
        losses = {"versions": len(preview.key.versions), "ciphertexts": preview.uses}
        return {**self.whole(preview.key), "deletion": {"dryRun": True, "losses": losses}}

    def _crn(self, instance_id: InstanceId, key_id: KeyId) -> str:
        return f"crn:v1:icp:private:kms:{self._cluster}:n/kube-system:{instance_id}:key:{key_id}"


def collection(content_type: str, resources: Sequence[Resource], **metadata: int) -> bytes:
    """Return resources with their number, as every collection has it."""
    return orjson.dumps(
        {
            "metadata": {
                "collectionType": content_type,
                "collectionTotal": len(resources),
                **metadata,
            },
            "resources": resources,
        },
        option=_FORMAT,
    )


def version(shown: KeyVersion) -> Resource:
    """Return a key version without its material."""
    return {"id": shown.id, "creationDate": shown.created_at}


def alias(key: Key, name: str, *, by: str) -> Resource:
    """Return the alias that ``by`` has just given to a key."""
    return {"keyId": key.id, "alias": name, "createdBy": by, "creationDate": key.updated_at}


def wrapped(result: Wrapped) -> Answer:
    """Answer wrap; the data key is shown only when the caller did not know it."""
    return _action(
        {
            "plaintext": None if result.plaintext is None else _base64(result.plaintext),
            "ciphertext": _base64(result.ciphertext),
            "keyVersion": version(result.version),
        }
    )


def unwrapped(result: Unwrapped) -> Answer:
    """Answer unwrap; with a new ciphertext when the given one is of an older version."""
    fresh = result.rewrapped
    return _action(
        {
            "plaintext": _base64(result.plaintext),
            "ciphertext": None if fresh is None else _base64(fresh.ciphertext),
            "keyVersion": version(result.version),
            "rewrappedKeyVersion": None if fresh is None else version(fresh.rewrapped_version),
        }
    )


def rewrapped(result: Rewrapped) -> Answer:
    """Answer rewrap, never with the plaintext."""
    return _action(
        {
            "ciphertext": _base64(result.ciphertext),
            "keyVersion": version(result.version),
            "rewrappedKeyVersion": version(result.rewrapped_version),
        }
    )


def _action(fields: Resource) -> Answer:
    return Answer(200, orjson.dumps(_without_none(fields), option=_FORMAT), ACTION_TYPE)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _without_none(fields: Resource) -> Resource:
    return {name: value for name, value in fields.items() if value is not None}
