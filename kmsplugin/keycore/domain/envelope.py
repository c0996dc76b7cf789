"""The one ciphertext format, byte by byte, and what is authenticated with it.

====== ====== ==================================================================
offset size   meaning
====== ====== ==================================================================
0      1      format, always 0x01
1      1      suite: what the body is; fixed for a token by ``init``
2      16     id of the key version that made it, a UUID in network order
18     ...    body
====== ====== ==================================================================

The body of suite 0x01, AES-256-GCM (NIST SP 800-38D) inside the HSM:

====== ====== ==================================================================
18     12     nonce, random, from the HSM
30     n      ciphertext, as long as the plaintext (1..4096 bytes)
30+n   16     tag
====== ====== ==================================================================

The body of suite 0x02, AES-256-CBC (NIST SP 800-38A) with HMAC-SHA-256 (RFC 2104), both
inside the HSM, for tokens without GCM; encrypted first, then authenticated:

====== ====== ==================================================================
18     16     IV, random, from the HSM
34     m      ciphertext; the plaintext padded to m = 16 (n // 16 + 1) bytes
              (PKCS#7: RFC 5652, 6.3)
34+m   32     tag: HMAC-SHA-256 of :func:`tagged_data`
====== ====== ==================================================================

The additional authenticated data is the pre-authentication encoding of a label
that names the face, the 18 header bytes, instance id and key id (16 bytes each)
and the caller's AAD, one piece for each. A REST caller can therefore never open
what the API server wrote, and identical material imported twice does not open
each other's ciphertexts.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final

from keycore.domain.framing import count_bytes, frame, pre_auth_encode
from keycore.domain.ids import InstanceId, KeyId, VersionId, uuid_bytes
from keycore.domain.keys import Key
from keycore.errors import CiphertextMalformedError, InvalidRequestError

FORMAT = 0x01

HEADER_BYTES = 18
NONCE_BYTES = 12
TAG_BYTES = 16
IV_BYTES = 16
BLOCK_BYTES = 16
MAC_BYTES = 32

TAG_LABEL = b"keyplane/aes-256-cbc-hmac-sha-256/1"
"""First piece of what suite 0x02's tag covers."""

PLAINTEXT_BYTES_MAX = 4096
"""The seed's bound for wrap."""

AAD_ITEMS_MAX = 126
AAD_CHARACTERS_MAX = 255

USES_MAX = 2**32
"""Ciphertexts per key version with random 96-bit nonces (NIST SP 800-38D, 8.3). The same
bound keeps CBC with its random 128-bit IVs far below 2^64 blocks, where they repeat."""


_REMEMBERED_MAX: Final = 4096
"""Keys and versions whose ids are remembered in the forms that every call needs; to make
them anew takes as long as a third of the encryption. Ids are no secrets."""

_FIXED_PIECES: Final = 4
"""Pieces of the authenticated data before the caller's AAD."""


class Face(StrEnum):
    """Domain label of the face that a ciphertext belongs to."""

    REST = "keyplane/rest/1"
    KMS = "keyplane/kmsv2/1"


@dataclass(frozen=True, slots=True)
class Suite:
    """What the body of a ciphertext is made of, and how long that makes it.

    Attributes:
        code: the suite byte.
        mode: name of the cipher's mode, as the REST API shows it.
        iv_bytes: length of nonce or IV.
        padding_bytes: a plaintext is filled up by 1 byte to this many; 0 for not at all.
        tag_bytes: length of the tag.
    """

    code: int
    mode: str
    iv_bytes: int
    padding_bytes: int
    tag_bytes: int

    def ciphertext_bytes(self, plaintext_bytes: int) -> int:
        """Return the length of the whole ciphertext of a plaintext."""
        return self._overhead_bytes + self._padded(plaintext_bytes)

    def plaintext_bytes_max(self, ciphertext_bytes: int) -> int:
        """Return the length of the longest plaintext whose ciphertext is no longer than this."""
        room = ciphertext_bytes - self._overhead_bytes
        return room - room % self.padding_bytes - 1 if self.padding_bytes else room

    def is_ciphertext_length(self, size: int) -> bool:
        """Tell whether a plaintext of 1..4096 bytes gives a ciphertext of ``size`` bytes."""
        padded = size - self._overhead_bytes
        possible = self._padded(1) <= padded <= self._padded(PLAINTEXT_BYTES_MAX)
        return possible and padded % (self.padding_bytes or 1) == 0

    @property
    def _overhead_bytes(self) -> int:
        return HEADER_BYTES + self.iv_bytes + self.tag_bytes

    def _padded(self, size: int) -> int:
        return size + self.padding_bytes - size % self.padding_bytes if self.padding_bytes else size


AES_256_GCM: Final = Suite(0x01, "GCM", iv_bytes=NONCE_BYTES, padding_bytes=0, tag_bytes=TAG_BYTES)

AES_256_CBC_HMAC_SHA_256: Final = Suite(
    0x02, "CBC_PAD", iv_bytes=IV_BYTES, padding_bytes=BLOCK_BYTES, tag_bytes=MAC_BYTES
)

SUITES: Final[Mapping[int, Suite]] = {
    suite.code: suite for suite in (AES_256_GCM, AES_256_CBC_HMAC_SHA_256)
}
"""Every suite that a ciphertext can have, by its byte."""

CIPHERTEXT_BYTES_MIN: Final = min(suite.ciphertext_bytes(1) for suite in SUITES.values())

CIPHERTEXT_BYTES_MAX: Final = max(
    suite.ciphertext_bytes(PLAINTEXT_BYTES_MAX) for suite in SUITES.values()
)


@dataclass(frozen=True, slots=True)
class Envelope:
    """A parsed ciphertext.

    Attributes:
        body: as long as the suite makes it of 1..4096 bytes.
    """

    suite: Suite
    version_id: VersionId
    body: bytes

    @property
    def header(self) -> bytes:
        """The 18 bytes before the body."""
        return header_of(self.suite, self.version_id)


def header_of(suite: Suite, version_id: VersionId) -> bytes:
    """Return the 18 header bytes of a ciphertext made by ``version_id``."""
    return _header(suite.code, version_id)


@lru_cache(_REMEMBERED_MAX)
def _header(suite_code: int, version_id: VersionId) -> bytes:
    return bytes((FORMAT, suite_code)) + uuid_bytes(version_id)


def parse(ciphertext: bytes) -> Envelope:
    """Take a ciphertext apart without decrypting anything.

    Args:
        ciphertext: 47..4142 bytes of suite 0x01, or 82..4178 bytes of suite 0x02.

    Raises:
        CiphertextMalformedError: impossible length, unknown format or suite.
    """
    if len(ciphertext) < HEADER_BYTES or ciphertext[0] != FORMAT:
        raise CiphertextMalformedError
    suite = SUITES.get(ciphertext[1])
    if suite is None or not suite.is_ciphertext_length(len(ciphertext)):
        raise CiphertextMalformedError
    return Envelope(suite, _version_id(ciphertext[2:HEADER_BYTES]), ciphertext[HEADER_BYTES:])


@lru_cache(_REMEMBERED_MAX)
def _version_id(raw: bytes) -> VersionId:
    return VersionId(str(uuid.UUID(bytes=raw)))


def tagged_data(aad: bytes, iv: bytes, ciphertext: bytes) -> bytes:
    """Return what the tag of suite 0x02 covers, injectively encoded.

    Args:
        aad: the additional authenticated data, of whatever length.
        iv: 16 bytes.
        ciphertext: the padded plaintext, encrypted.
    """
    return pre_auth_encode((TAG_LABEL, aad, iv, ciphertext))


def authenticated_data(face: Face, key: Key, header: bytes, aad: Sequence[bytes]) -> bytes:
    """Return what the tag protects beside the plaintext; see the module's text."""
    fixed = _fixed_pieces(face, header, key.instance_id, key.id)
    return count_bytes(_FIXED_PIECES + len(aad)) + fixed + frame(aad)


@lru_cache(_REMEMBERED_MAX)
def _fixed_pieces(face: Face, header: bytes, instance_id: InstanceId, key_id: KeyId) -> bytes:
    return frame((face.encode(), header, uuid_bytes(instance_id), uuid_bytes(key_id)))


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
