"""What can be found out about an audit chain, and what it is found out from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from keycore.domain.audit_chain import Chain, IsSigned, is_forgotten, is_sealed
from keycore.ports import AuditHead


class Damage(StrEnum):
    """What has happened to a line."""

    REMOVED = "removed"
    EDITED = "edited"
    REORDERED = "reordered"
    CUT = "cut"
    FORGED = "forged"


@dataclass(frozen=True, slots=True)
class Finding:
    """The first line of a chain that is not as it was written.

    Attributes:
        line: its number in the chain.
        file: the file where it is, or where it is missed; empty when no file is left.
        place: which line of that file, from 1; 0 when it is in none.
        what: one sentence.
    """

    damage: Damage
    line: int
    file: str
    place: int
    what: str


@dataclass(frozen=True, slots=True)
class ChainReport:
    """What is known of one chain.

    Attributes:
        first: number of its first line that is here; above 1 only where the lines before
            may lie elsewhere.
        last: number of its last line that was examined.
        sealed: the newest line that the HSM vouches for; 0 for none.
        unsealed: lines behind that one, for which nobody vouches; checkpoints left out.
        taken_over: lines that a process found unsealed and sealed for its predecessor.
        finding: ``None`` when everything is as it was written.
    """

    chain: Chain
    first: int = 1
    last: int = 0
    sealed: int = 0
    unsealed: int = 0
    taken_over: int = 0
    finding: Finding | None = None


@dataclass(frozen=True, slots=True)
class SlotFile:
    """A file of a slot.

    Attributes:
        name: for findings.
        number: the place in the slot that its name claims.
        lines: reads it: each line with its line break, a cut one at the end without.
        instead: what stands in its place, such as a symbolic link; empty for a file.
    """

    name: str
    number: int
    lines: Callable[[], Iterable[bytes]]
    instead: str = ""


class HeadState(StrEnum):
    """What the HSM says of a head that the store holds."""

    KEPT = "kept"
    """It signed it with a checkpoint."""

    FORGOTTEN = "forgotten"
    """It signed that the chain may be missing; while it is there it is held to the head."""

    FORGED = "forged"
    """It signed nothing of that kind."""


@dataclass(frozen=True, slots=True)
class KnownHead:
    """A head of the store with the HSM's word on it."""

    head: AuditHead
    state: HeadState

    @property
    def chain(self) -> Chain:
        """The chain that it claims to be the head of."""
        return chain_of_head(self.head)


def chain_of_head(head: AuditHead) -> Chain:
    """Return the chain that a head claims to be of."""
    return Chain(head.chain, head.node, head.name)


def known_heads(heads: Iterable[AuditHead], is_signed: IsSigned) -> Mapping[str, KnownHead]:
    """Have the HSM judge every head; returned by the chain's id.

    Raises:
        TokenUnavailableError: the token did not answer.
    """
    return {head.chain: KnownHead(head, _state(head, is_signed)) for head in heads}


def _state(head: AuditHead, is_signed: IsSigned) -> HeadState:
    chain = chain_of_head(head)
    if is_sealed(chain, head.seal, is_signed):
        return HeadState.KEPT
    return HeadState.FORGOTTEN if is_forgotten(chain, head.seal, is_signed) else HeadState.FORGED
