"""The one ciphertext format, byte by byte, and what is authenticated with it.

====== ====== ==================================================================
offset size   meaning
====== ====== ==================================================================
0      1      format, always 0x01
1      1      suite: 0x01 is AES-256-GCM (NIST SP 800-38D) inside the HSM
2      16     id of the key version that made it, a UUID in network order
18     12     nonce, random, from the HSM
30     n      ciphertext, as long as the plaintext (1..4096 bytes)
30+n   16     tag
====== ====== ==================================================================

The additional authenticated data is the pre-authentication encoding of a label
that names the face, the 18 header bytes, instance id and key id (16 bytes each)
and the caller's AAD, one piece for each. A REST caller can therefore never open
what the API server wrote, and identical material imported twice does not open
each other's ciphertexts.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from keycore.domain.framing import pre_auth_encode
from keycore.domain.ids import VersionId, uuid_bytes
from keycore.domain.keys import Key
from keycore.errors import CiphertextMalformedError, InvalidRequestError

FORMAT = 0x01
SUITE_AES_256_GCM = 0x01

HEADER_BYTES = 18
NONCE_BYTES = 12
TAG_BYTES = 16
OVERHEAD_BYTES = HEADER_BYTES + NONCE_BYTES + TAG_BYTES

PLAINTEXT_BYTES_MAX = 4096
"""The seed's bound for wrap."""

AAD_ITEMS_MAX = 126
AAD_CHARACTERS_MAX = 255

USES_MAX = 2**32
"""Ciphertexts per key version with random 96-bit nonces (NIST SP 800-38D, 8.3)."""


class Face(StrEnum):
    """Domain label of the face that a ciphertext belongs to."""

    REST = "keyplane/rest/1"
    KMS = "keyplane/kmsv2/1"


@dataclass(frozen=True, slots=True)
class Envelope:
    """A parsed ciphertext.

    Attributes:
        body: nonce, ciphertext and tag: 29..4124 bytes.
    """

    version_id: VersionId
    body: bytes

    @property
    def header(self) -> bytes:
        """The 18 bytes before the body."""
        return header_of(self.version_id)


def header_of(version_id: VersionId) -> bytes:
    """Return the 18 header bytes of a ciphertext made by ``version_id``."""
    return bytes((FORMAT, SUITE_AES_256_GCM)) + uuid_bytes(version_id)


def parse(ciphertext: bytes) -> Envelope:
    """Take a ciphertext apart without decrypting anything.

    Args:
        ciphertext: 47..4142 bytes.

    Raises:
        CiphertextMalformedError: impossible length, unknown format or suite.
    """
    if not OVERHEAD_BYTES < len(ciphertext) <= OVERHEAD_BYTES + PLAINTEXT_BYTES_MAX:
        raise CiphertextMalformedError
    if ciphertext[0] != FORMAT or ciphertext[1] != SUITE_AES_256_GCM:
        raise CiphertextMalformedError
    version_id = VersionId(str(uuid.UUID(bytes=ciphertext[2:HEADER_BYTES])))
    return Envelope(version_id, ciphertext[HEADER_BYTES:])


def authenticated_data(face: Face, key: Key, header: bytes, aad: Sequence[bytes]) -> bytes:
    """Return what the tag protects beside the plaintext; see the module's table."""
    return pre_auth_encode(
        (face.encode(), header, uuid_bytes(key.instance_id), uuid_bytes(key.id), *aad)
    )


def check_plaintext(plaintext: bytes) -> bytes:
    """Return ``plaintext`` if it has 1..4096 bytes.

    Raises:
        InvalidRequestError: it has not.
    """
    if not 1 <= len(plaintext) <= PLAINTEXT_BYTES_MAX:
        raise InvalidRequestError(
            f"the plaintext must have 1 to {PLAINTEXT_BYTES_MAX} bytes", field="plaintext"
        )
    return plaintext


def encode_aad(aad: Sequence[str]) -> tuple[bytes, ...]:
    """Return a caller's AAD as UTF-8, order kept, nothing normalised.

    Args:
        aad: up to 126 texts of up to 255 Unicode code points; empty texts count.

    Raises:
        InvalidRequestError: too many, too long, or a text that is not Unicode
            (a lone surrogate).
    """
    if len(aad) > AAD_ITEMS_MAX or any(len(item) > AAD_CHARACTERS_MAX for item in aad):
        raise InvalidRequestError(
            f"aad may have up to {AAD_ITEMS_MAX} items of up to {AAD_CHARACTERS_MAX} characters",
            field="aad",
        )
    try:
        return tuple(item.encode() for item in aad)
    except UnicodeEncodeError:
        raise InvalidRequestError("aad must be valid Unicode text", field="aad") from None
