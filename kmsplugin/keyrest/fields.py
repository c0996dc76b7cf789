"""What each field of a request must be, in words for people; nothing else decides by them."""

from __future__ import annotations

from collections.abc import Mapping

FIELDS: Mapping[str, str] = {
    "type": "application/vnd.ibm.kms.key+json",
    "name": "a text of 2 to 90 printable characters",
    "description": "a text of 2 to 240 printable characters",
    "expirationDate": "a time in the future in RFC 3339 format, such as 2030-01-02T03:04:05Z",
    "extractable": "true for a standard key, or false for a root key",
    "aliases": "an array of up to 5 different aliases of 2 to 90 letters, digits, '-' and '_'",
    "alias": "a text of 2 to 90 letters, digits, '-' and '_' that is no UUID",
    "tags": "an array of up to 30 texts of 1 to 128 printable characters",
    "payload": "a base64 encoded key material of 256, 384 or 512 bits",
    "plaintext": "a base64 encoded key material of 1 to 4096 bytes",
    "ciphertext": "the original base64 encoded ciphertext from the wrap operation",
    "aad": "an array of up to 126 texts of up to 255 characters",
    "id": "the UUID or an alias of a key",
}
"""By the name that the field has in JSON, or in the path."""


def requirement(field: str) -> str:
    """Return the sentence about a field, or nothing for one that has none."""
    must_be = FIELDS.get(field)
    return f"The field '{field}' must be: {must_be}" if must_be else ""
