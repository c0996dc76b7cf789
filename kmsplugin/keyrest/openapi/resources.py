"""What successful answers hold, as :mod:`keyrest.views` makes them.

A client must pass over fields that it does not know: later versions may add some.
"""

from __future__ import annotations

from keycore.domain.envelope import SUITES
from keycore.domain.keys import KeyState
from keycore.service.readiness import Outcome
from keyrest.answers import ALIAS_TYPE, KEY_TYPE, VERSION_TYPE
from keyrest.openapi.bodies import ALIAS_PATTERN, BASE64_PATTERN
from keyrest.openapi.nodes import Node, object_of, reference
from keyrest.views import ALGORITHM

_UUID: Node = {"type": "string", "format": "uuid"}
_BASE64: Node = {"type": "string", "contentEncoding": "base64", "pattern": BASE64_PATTERN}
_COUNT: Node = {"type": "integer", "minimum": 0}
_FLAG: Node = {"type": "boolean"}
_TEXT: Node = {"type": "string"}
_ALIAS: Node = {"type": "string", "pattern": ALIAS_PATTERN}
_DATE: Node = {
    "type": "string",
    "format": "date-time",
    "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$",
    "description": "In UTC and without fractions of a second.",
}
_MODE: Node = {"enum": [suite.mode for suite in SUITES.values()]}
_OUTCOME: Node = {"enum": [outcome.value for outcome in Outcome]}
_VERSION: Node = reference("schemas", "KeyVersion")


def _said(schema: Node, description: str) -> Node:
    return {**schema, "description": description}


_SUMMARY: Node = {
    "type": {"const": KEY_TYPE},
    "id": _UUID,
    "name": _TEXT,
    "aliases": {"type": "array", "items": _ALIAS},
    "description": _TEXT,
    "tags": {"type": "array", "items": _TEXT},
    "state": _said(
        {"enum": [*map(int, KeyState)]},
        "0 pre-active, 1 active, 2 suspended, 3 deactivated because it has expired, 5 destroyed.",
    ),
    "expirationDate": _DATE,
    "extractable": _said(_FLAG, "`true` for a standard key, `false` for a root key."),
    "crn": _TEXT,
    "imported": _FLAG,
    "deleted": _FLAG,
}

_KEY: Node = {
    **_SUMMARY,
    "keyRingID": {"const": "default"},
    "creationDate": _DATE,
    "createdBy": _said(_TEXT, "Who made it: the issuer's name and the credential's subject."),
    "algorithmType": {"const": ALGORITHM},
    "algorithmMetadata": object_of(
        {"bitLength": {"type": "string", "pattern": "^[0-9]+$"}, "mode": _MODE}
    ),
    "algorithmBitSize": _said(_COUNT, "Length of the key material as it was made or imported."),
    "algorithmMode": _MODE,
    "lastUpdateDate": _DATE,
    "lastRotateDate": _DATE,
    "keyVersion": _VERSION,
    "dualAuthDelete": object_of({"enabled": {"const": False}}),
    "deletionDate": _DATE,
    "deletedBy": _TEXT,
}

_OPTIONAL = ("description", "expirationDate", "lastRotateDate", "deletionDate", "deletedBy")
"""What is left away when there is nothing to show."""

_PAYLOAD = _said(_BASE64, "Material of a standard key that lives; a root key never has one.")

_LOSSES = object_of(
    {
        "versions": _said(_COUNT, "Key versions whose material would be destroyed."),
        "ciphertexts": _said(
            _COUNT, "Ciphertexts that nobody could open any more; rather too many than too few."
        ),
    }
)

_DELETION = object_of({"dryRun": {"const": True}, "losses": _LOSSES})

_CIPHERTEXT = _said(_BASE64, "Opaque. Keep it as it is, and send it to `unwrap` with the same AAD.")

_REWRAPPED = _said(
    _BASE64,
    "The same data key under the newest key version; store it in place of the old ciphertext.",
)


def resource_schemas() -> Node:
    """Return the schemas of all answers but errors, by name."""
    return {**_keys(), **_of_actions(), **_of_probes()}


def _keys() -> Node:
    return {
        "KeySummary": object_of(_SUMMARY, without=(*_OPTIONAL, "aliases", "tags")),
        "Key": object_of(_KEY, without=_OPTIONAL),
        "KeyWithPayload": object_of({**_KEY, "payload": _PAYLOAD}, without=(*_OPTIONAL, "payload")),
        "KeyWithLosses": object_of({**_KEY, "deletion": _DELETION}, without=_OPTIONAL),
        "KeyVersion": object_of({"id": _UUID, "creationDate": _DATE}),
        "KeyAlias": object_of(
            {"keyId": _UUID, "alias": _ALIAS, "createdBy": _TEXT, "creationDate": _DATE}
        ),
        "KeyList": _collection(KEY_TYPE, "Key"),
        "KeyFound": _collection(KEY_TYPE, "KeyWithPayload"),
        "KeyCreated": _collection(KEY_TYPE, "KeySummary", "KeyWithPayload"),
        "KeyDeleted": _collection(KEY_TYPE, "Key", "KeyWithLosses"),
        "KeyVersions": _collection(VERSION_TYPE, "KeyVersion", asked_for={"totalCount": _COUNT}),
        "KeyAliases": _collection(ALIAS_TYPE, "KeyAlias"),
    }


def _of_actions() -> Node:
    return {
        "Wrapped": object_of(
            {
                "plaintext": _said(_BASE64, "The new data key, when the request held none."),
                "ciphertext": _CIPHERTEXT,
                "keyVersion": _VERSION,
            },
            without=("plaintext",),
        ),
        "Unwrapped": object_of(
            {
                "plaintext": _BASE64,
                "ciphertext": _REWRAPPED,
                "keyVersion": _VERSION,
                "rewrappedKeyVersion": _VERSION,
            },
            without=("ciphertext", "rewrappedKeyVersion"),
        ),
        "Rewrapped": object_of(
            {"ciphertext": _REWRAPPED, "keyVersion": _VERSION, "rewrappedKeyVersion": _VERSION}
        ),
    }


def _of_probes() -> Node:
    return {
        "Liveness": object_of({"status": {"const": Outcome.OK.value}}),
        "Readiness": object_of(
            {
                "status": {"enum": [Outcome.OK.value, Outcome.FAILED.value]},
                "checks": {"type": "object", "additionalProperties": _OUTCOME},
            }
        ),
    }


def _collection(media_type: str, *resources: str, asked_for: Node | None = None) -> Node:
    """Return a collection of resources that each have one of the named forms.

    Args:
        media_type: its ``collectionType``.
        resources: names of schemas.
        asked_for: further metadata, shown on request.
    """
    extra = asked_for or {}
    metadata = {"collectionType": {"const": media_type}, "collectionTotal": _COUNT, **extra}
    forms = [reference("schemas", name) for name in resources]
    items = forms[0] if len(forms) == 1 else {"anyOf": forms}
    return object_of(
        {
            "metadata": object_of(metadata, without=tuple(extra)),
            "resources": {"type": "array", "items": items},
        }
    )
