"""Identifiers as types of their own, so that two kinds of id cannot be mixed up.

All ids are random UUIDs (RFC 9562, version 4) in canonical lower-case text.
"""

from __future__ import annotations

import re
import uuid
from typing import NewType

from keycore.errors import InvalidRequestError

InstanceId = NewType("InstanceId", str)
KeyId = NewType("KeyId", str)
VersionId = NewType("VersionId", str)
ActivationId = NewType("ActivationId", str)
"""What the KMS v2 protocol calls ``key_id``: opaque, and never used for two activations."""


_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def new_uuid() -> str:
    """Return a fresh random UUID as canonical text."""
    return str(uuid.uuid4())


def uuid_bytes(text: str) -> bytes:
    """Return the 16 bytes of a canonical UUID text."""
    return bytes.fromhex(text.replace("-", ""))


def parse_uuid(text: str, *, field: str) -> str:
    """Return ``text`` as canonical lower-case UUID text.

    Args:
        text: hyphenated UUID in either case; other spellings that Python's
            ``uuid`` module understands (braces, URN, bare hex) are refused, because
            two spellings of one id would be two ids in a log.
        field: name of the request field, for the message.

    Raises:
        InvalidRequestError: ``text`` is no UUID.
    """
    if not is_uuid(text):
        raise InvalidRequestError(f"{field} must be a UUID", field=field)
    return text.lower()


def is_uuid(text: str) -> bool:
    """Tell whether ``text`` is a hyphenated UUID, in either case."""
    return _UUID.fullmatch(text) is not None


def parse_key_id(text: str) -> KeyId:
    """Return a key id; see :func:`parse_uuid`."""
    return KeyId(parse_uuid(text, field="key id"))


def parse_instance_id(text: str) -> InstanceId:
    """Return an instance id; see :func:`parse_uuid`."""
    return InstanceId(parse_uuid(text, field="instance id"))
