"""How audit lines hang together, and what the HSM signs of them.

Every line carries its number ``n`` and in ``prev`` the SHA-256 of the line before it, so
nobody can change, remove or move a line without changing all that follow. A *seal* is a
MAC by the HSM over the number and digest of one line, and with them over every line up to
it: whoever cannot ask the HSM cannot make the changed lines look whole again. The field
tables are in ``docs/audit.md``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from keycore.domain.framing import encode_fields

IsSigned = Callable[[bytes, bytes], bool]
"""Tells whether a MAC is the HSM's over given bytes."""

NO_DIGEST = "0" * 64
"""``prev`` of the first line of a chain."""

FILE = "audit.file"
"""Operation of the first line of each file: it names chain, node, slot and file."""

CHECKPOINT = "audit.checkpoint"
"""Operation of a line that holds a seal."""

TAKEN_OVER = "audit.taken_over"
"""Operation of the line in which a process tells how many lines it found unsealed."""

LOST = "audit.lost"
"""Operation of the line that counts lines for which there was no room."""

TORN = "audit.torn"
"""Operation of the line that keeps what a crash has left of a line."""

NUMBER_MAX = 2**53
"""No chain gets as long; what claims to be is no line of one."""

_SEAL_LABEL = "keyplane/audit/seal/1"

_FORGOTTEN_LABEL = "keyplane/audit/forgotten/1"

_ID_CHARACTERS_MAX = 36

_NODE_CHARACTERS_MAX = 253

_NAME_CHARACTERS_MAX = 63


@dataclass(frozen=True, slots=True)
class Chain:
    """Which chain a line belongs to.

    Attributes:
        id: UUID.
        node: the host that began it.
        name: face and slot, such as ``rest.0``.
    """

    id: str
    node: str
    name: str

    @property
    def face(self) -> str:
        """The face whose processes write it."""
        return self.name.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Seal:
    """What the HSM signed of a chain.

    Attributes:
        line: number of the newest line that it covers.
        digest: SHA-256 of that line, 32 bytes.
        mac: by the record MAC key over :func:`sealed_bytes`, 32 bytes.
    """

    line: int
    digest: bytes
    at: datetime
    mac: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file, as far as the chain concerns it.

    Attributes:
        text: the whole line without its line break.
        number: its ``n``.
        previous: its ``prev``, hexadecimal.
        fields: everything in it.
    """

    text: bytes
    number: int
    previous: str
    operation: str
    fields: Mapping[str, object]

    @property
    def digest(self) -> str:
        """SHA-256 of the line, hexadecimal, as the next one carries it."""
        return digest_of(self.text)


def digest_of(text: bytes) -> str:
    """Return the SHA-256 of a line without its line break, hexadecimal."""
    return hashlib.sha256(text).hexdigest()


def sealed_bytes(chain: Chain, *, line: int, digest: bytes, at: datetime) -> bytes:
    """Return the bytes that a seal's MAC covers: an injective encoding behind a label."""
    return encode_fields((_SEAL_LABEL, chain.id, chain.node, chain.name, line, digest, at))


def forgotten_bytes(chain: Chain, *, line: int, digest: bytes, at: datetime) -> bytes:
    """Return the bytes that the MAC of a forgotten chain's head covers.

    Whoever cannot ask the HSM can have no chain forgotten, and the head stays in the
    store: files of the chain that turn up must still reach the line that it names.
    """
    return encode_fields((_FORGOTTEN_LABEL, chain.id, chain.node, chain.name, line, digest, at))


def is_sealed(chain: Chain, seal: Seal, is_signed: IsSigned) -> bool:
    """Tell whether the HSM has made a seal for a chain."""
    covered = sealed_bytes(chain, line=seal.line, digest=seal.digest, at=seal.at)
    return is_signed(covered, seal.mac)


def is_forgotten(chain: Chain, seal: Seal, is_signed: IsSigned) -> bool:
    """Tell whether the HSM has signed with what looks like a seal that a chain may be missing."""
    covered = forgotten_bytes(chain, line=seal.line, digest=seal.digest, at=seal.at)
    return is_signed(covered, seal.mac)


def checkpoint_line(chain: Chain, seal: Seal, *, number: int, previous: str) -> bytes:
    """Return the one form of the line that holds ``seal`` at this place of the chain.

    Everything in it follows from chain, place and seal, so that no byte of a checkpoint
    can be changed unseen, although no later seal covers the last one.
    """
    return encode_plain(
        {
            "n": number,
            "prev": previous,
            "time": _moment(seal.at),
            "operation": CHECKPOINT,
            "outcome": "ok",
            "face": chain.face,
            "actor": "keyplane",
            "correlation_id": "",
            "chain": chain.id,
            "line": seal.line,
            "digest": seal.digest.hex(),
            "mac": seal.mac.hex(),
        }
    )


def own_line(
    chain: Chain,
    operation: str,
    at: datetime,
    *,
    number: int,
    previous: str,
    facts: Mapping[str, str | int],
) -> bytes:
    """Return a line about the log itself, such as the one that begins a file."""
    return encode_plain(
        {
            "n": number,
            "prev": previous,
            "time": _moment(at),
            "operation": operation,
            "outcome": "ok",
            "face": chain.face,
            "actor": "keyplane",
            "correlation_id": "",
            **facts,
        }
    )


def encode_plain(fields: Mapping[str, str | int]) -> bytes:
    """Return a JSON object on one line, without a line break."""
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def parse_line(text: bytes) -> Line | None:
    """Return a line's place in its chain, or ``None`` for what is no chained line.

    Args:
        text: without the line break.
    """
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    number, previous, operation = fields.get("n"), fields.get("prev"), fields.get("operation")
    if type(number) is not int or not isinstance(previous, str) or not isinstance(operation, str):
        return None
    if not 0 < number < NUMBER_MAX:
        return None
    return Line(text, number, previous, operation, fields)


def chain_of(line: Line) -> Chain | None:
    """Return what the first line of a file says of its chain, or ``None`` for another line."""
    if line.operation != FILE:
        return None
    fields = line.fields
    chain = _word(fields.get("chain"), _ID_CHARACTERS_MAX)
    node = _word(fields.get("node"), _NODE_CHARACTERS_MAX)
    name = _word(fields.get("name"), _NAME_CHARACTERS_MAX)
    return Chain(chain, node, name) if chain and node and name else None


def seal_of(line: Line) -> Seal | None:
    """Return the seal that a checkpoint holds, or ``None`` for any other line."""
    if line.operation != CHECKPOINT:
        return None
    fields = line.fields
    try:
        sealed, at = fields["line"], datetime.fromisoformat(str(fields["time"]))
        digest, mac = bytes.fromhex(str(fields["digest"])), bytes.fromhex(str(fields["mac"]))
        if type(sealed) is not int or not 0 < sealed < line.number or at.tzinfo is None:
            return None
        return Seal(sealed, digest, at.astimezone(UTC), mac)
    except (KeyError, ValueError, OverflowError):
        return None


def _word(value: object, characters_max: int) -> str:
    """Return a text that may be shown on a terminal, or nothing: anybody may have written it."""
    if isinstance(value, str) and len(value) <= characters_max and value.isprintable():
        return value
    return ""


def _moment(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
