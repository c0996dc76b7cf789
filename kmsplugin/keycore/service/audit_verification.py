"""Is anything missing from the audit, or changed in it? Rules without files and without HSM.

A slot's files are read once, in order. The first line that is not what the chain says it
should be ends the examination of its chain: behind it nothing can be told for certain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from keycore.domain.audit_chain import (
    CHECKPOINT,
    FILE,
    NO_DIGEST,
    TAKEN_OVER,
    Chain,
    Line,
    Seal,
    chain_of,
    checkpoint_line,
    parse_line,
    seal_of,
    sealed_bytes,
)
from keycore.ports import AuditHead

_DIGEST_BYTES = 32


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
    first: int
    last: int
    sealed: int
    unsealed: int
    taken_over: int
    finding: Finding | None


@dataclass(frozen=True, slots=True)
class SlotFile:
    """A file of a slot.

    Attributes:
        name: for findings.
        number: the place in the slot that its name claims.
        lines: reads it: each line with its line break, a cut one at the end without.
    """

    name: str
    number: int
    lines: Callable[[], Iterable[bytes]]


IsSigned = Callable[[bytes, bytes], bool]
"""Tells whether a MAC is the HSM's over given bytes."""


def verify_slot(
    files: Sequence[SlotFile],
    heads: Iterable[AuditHead],
    is_signed: IsSigned,
    *,
    archived: bool = False,
) -> Iterator[ChainReport]:
    """Examine the chains in the files of one slot, one after the other.

    Args:
        files: in the order of their numbers.
        heads: what the store remembers; read before the files are.
        is_signed: asks the HSM.
        archived: whether a chain may begin later than with line 1, because its first
            files have been put elsewhere.

    Yields:
        A report for each chain.

    Raises:
        TokenUnavailableError: the token did not answer.
    """
    known = {head.chain: head for head in heads}
    for chain, parts in _chains(files):
        walk = _Walk(chain, is_signed, archived=archived)
        walk.run(parts, known.get(chain.id))
        yield walk.report()


def missing_chain(head: AuditHead) -> ChainReport:
    """Report a chain that the store remembers and of which there is no file."""
    chain = Chain(head.chain, head.node, head.name)
    what = f"the store knows {head.line} lines of this chain, and all its files are gone"
    finding = Finding(Damage.REMOVED, 1, "", 0, what)
    return ChainReport(chain, 1, 0, 0, 0, 0, finding)


def _chains(files: Sequence[SlotFile]) -> Iterator[tuple[Chain, Sequence[SlotFile]]]:
    """Group the files of a slot by chain.

    A chain ends where a file begins another one with its line 1; whatever else a file
    says of its chain is for the walk to doubt.
    """
    groups: list[tuple[Chain, list[SlotFile]]] = []
    for file in files:
        first = _first_line(file)
        chain = chain_of(first) if first else None
        begins = first is not None and chain is not None and first.number == 1
        if not groups or (begins and chain != groups[-1][0] and groups[-1][0] != _UNKNOWN):
            groups.append((chain or _UNKNOWN, [file]))
            continue
        known, grouped = groups[-1]
        grouped.append(file)
        if known == _UNKNOWN and chain is not None:
            groups[-1] = (chain, grouped)
    yield from groups


def _first_line(file: SlotFile) -> Line | None:
    return parse_line(next(iter(file.lines()), b"").rstrip(b"\n"))


@dataclass(frozen=True, slots=True)
class _Read:
    """A line as it was read."""

    file: SlotFile
    place: int
    raw: bytes

    @property
    def line(self) -> Line | None:
        return parse_line(self.raw[:-1]) if self.raw.endswith(b"\n") else None


class _DamagedError(Exception):
    """Carries a finding out of the walk."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.what)
        self.finding = finding


def _damaged(damage: Damage, number: int, read: _Read, what: str) -> _DamagedError:
    return _DamagedError(Finding(damage, number, read.file.name, read.place, what))


class _Walk:
    """Walks along one chain."""

    def __init__(self, chain: Chain, is_signed: IsSigned, *, archived: bool) -> None:
        self._chain = chain
        self._is_signed = is_signed
        self._archived = archived
        self._first = 1
        self._number = 0
        self._previous = NO_DIGEST
        self._last: _Read | None = None
        self._sealed = 0
        self._newest: Seal | None = None
        self._unsealed = 0
        self._taken_over = 0
        # Digests of the lines behind the newest seal, which the next one may be about.
        self._digests = bytearray()
        self._head_met = False
        self._head_contradicted = False
        self._finding: Finding | None = None

    def run(self, files: Sequence[SlotFile], head: AuditHead | None) -> None:
        reads = _reads(files)
        try:
            self._walk(reads, head)
            self._end(files, head)
        except _DamagedError as damaged:
            self._finding = damaged.finding

    def report(self) -> ChainReport:
        return ChainReport(
            chain=self._chain,
            first=self._first,
            last=self._number,
            sealed=self._sealed,
            unsealed=self._unsealed,
            taken_over=self._taken_over,
            finding=self._finding,
        )

    def _walk(self, reads: Iterator[_Read], head: AuditHead | None) -> None:
        coming = next(reads, None)
        while coming is not None:
            read, coming = coming, next(reads, None)
            line = read.line
            if line is None:
                raise _DamagedError(self._no_line(read, coming))
            if not self._number:
                self._begin(line)
            self._check_place(read, line, coming=coming, rest=reads)
            self._refuse_contradiction(read.file)
            self._check_file(read, line)
            self._take(read, line)
            self._check_head(head)

    # --- one line --------------------------------------------------------------

    def _begin(self, line: Line) -> None:
        if self._archived and line.number > 1 and line.operation == FILE:
            self._first, self._number = line.number, line.number - 1
            self._previous = line.previous

    def _check_place(
        self, read: _Read, line: Line, *, coming: _Read | None, rest: Iterator[_Read]
    ) -> None:
        expected = self._number + 1
        follows, numbered = line.previous == self._previous, line.number == expected
        if follows and numbered:
            return
        if follows:
            raise _damaged(Damage.EDITED, expected, read, "its number was changed")
        if numbered:
            if self._last is not None and self._stands_by(line, coming):
                raise _damaged(Damage.EDITED, self._number, self._last, _CHANGED)
            raise _damaged(Damage.EDITED, expected, read, _CHANGED)
        raise _DamagedError(self._gap(read, line, [coming, *rest] if coming else []))

    def _stands_by(self, line: Line, coming: _Read | None) -> bool:
        """Tell whether a line that does not follow is as it was, so that the one before is not.

        The line behind it knows; behind the last one its seal, if it has one.
        """
        after = coming.line if coming else None
        if after is not None:
            return after.previous == line.digest
        seal = seal_of(line)
        before = (self._number, self._previous)
        return seal is None or (seal.line, seal.digest.hex()) != before

    def _gap(self, read: _Read, line: Line, later: Sequence[_Read]) -> Finding:
        """Tell what was removed from what stands elsewhere."""
        expected = self._number + 1
        if line.number < expected:
            what = f"line {line.number} stands behind line {self._number}"
            return Finding(Damage.REORDERED, line.number, read.file.name, read.place, what)
        for other in later:
            found = other.line
            if found is not None and found.number == expected:
                what = f"line {expected} stands behind line {line.number}"
                return Finding(Damage.REORDERED, expected, other.file.name, other.place, what)
        lines = _span(expected, line.number - 1)
        if read.place == 1:
            missing = _missing_file(self._last, read)
            if missing:
                what = f"{lines} stood in a file that is gone"
                return Finding(Damage.REMOVED, expected, missing, 0, what)
        what = f"{lines} would stand here"
        return Finding(Damage.REMOVED, expected, read.file.name, read.place, what)

    def _check_file(self, read: _Read, line: Line) -> None:
        """Check that files begin as files do, and that none was renamed."""
        if (read.place == 1) != (line.operation == FILE):
            raise _damaged(Damage.REORDERED, line.number, read, "it belongs into another file")
        if line.operation == FILE and (
            chain_of(line) != self._chain
            or line.fields.get("file") != read.file.number
            or not read.file.name.startswith(f"{self._chain.name}.")
        ):
            raise _damaged(Damage.REORDERED, line.number, read, "its file was renamed")

    def _take(self, read: _Read, line: Line) -> None:
        digest, seal = line.digest, seal_of(line)
        if seal is not None:
            self._check_seal(read, line, seal)
        elif line.operation == CHECKPOINT:
            raise _damaged(Damage.EDITED, line.number, read, _CHANGED)
        else:
            self._unsealed += 1
        if line.operation == TAKEN_OVER:
            unsealed = line.fields.get("unsealed")
            self._taken_over += unsealed if type(unsealed) is int else 0
        self._number, self._previous, self._last = line.number, digest, read
        self._digests += bytes.fromhex(digest)

    def _check_seal(self, read: _Read, line: Line, seal: Seal) -> None:
        form = checkpoint_line(self._chain, seal, number=self._number + 1, previous=self._previous)
        if form != line.text:
            raise _damaged(Damage.EDITED, line.number, read, _CHANGED)
        covered = sealed_bytes(self._chain, line=seal.line, digest=seal.digest, at=seal.at)
        if not self._is_signed(covered, seal.mac):
            raise _damaged(Damage.FORGED, line.number, read, "the HSM did not make this seal")
        known = self._digest_of(seal.line)
        if known is not None and known != seal.digest:
            raise self._recomputed(seal.line, read.file)
        if seal.line <= self._sealed:
            # Somebody has put an old seal here once more; it vouches for nothing new.
            return
        self._sealed, self._newest = seal.line, seal
        behind = self._number - seal.line
        self._unsealed = min(behind, self._unsealed)
        del self._digests[: max(len(self._digests) - behind * _DIGEST_BYTES, 0)]

    def _digest_of(self, number: int) -> bytes | None:
        behind = self._number - number
        start = len(self._digests) - (behind + 1) * _DIGEST_BYTES
        return bytes(self._digests[start : start + _DIGEST_BYTES]) if start >= 0 else None

    def _no_line(self, read: _Read, coming: _Read | None) -> Finding:
        if not read.raw.endswith(b"\n") and coming is None:
            damage, what = Damage.CUT, "the file ends in the middle of it"
        else:
            damage, what = Damage.EDITED, "it is no line of a chain any more"
        return Finding(damage, self._number + 1, read.file.name, read.place, what)

    # --- the store's word ------------------------------------------------------

    def _check_head(self, head: AuditHead | None) -> None:
        if head is None or self._number < head.line:
            return
        if self._number == head.line and bytes.fromhex(self._previous) != head.digest:
            # If it alone was changed, the line behind it tells so exactly.
            self._head_contradicted = True
        if self._newest is not None and self._newest.line == head.line:
            self._head_met |= self._newest.mac == head.mac

    def _refuse_contradiction(self, file: SlotFile) -> None:
        if self._head_contradicted:
            raise self._recomputed(self._number, file)

    def _recomputed(self, last: int, file: SlotFile) -> _DamagedError:
        """Return what is known when lines hang together and are not the sealed ones."""
        first = max(self._sealed, self._first - 1) + 1
        what = f"this line, or another one up to {last}, and all digests behind it"
        return _DamagedError(Finding(Damage.EDITED, first, file.name, 0, what))

    def _end(self, files: Sequence[SlotFile], head: AuditHead | None) -> None:
        """Check that the chain ends no earlier than the store remembers."""
        self._refuse_contradiction(files[-1])
        if head is None:
            return
        kept = Seal(head.line, head.digest, head.at, head.mac)
        covered = sealed_bytes(self._chain, line=kept.line, digest=kept.digest, at=kept.at)
        if not self._is_signed(covered, kept.mac):
            what = "the head of the chain in the store is not one that the HSM signed"
            raise _DamagedError(Finding(Damage.FORGED, kept.line, files[-1].name, 0, what))
        self._sealed = max(self._sealed, min(kept.line, self._number))
        if self._sealed < kept.line or not (self._head_met or self._sealed_beyond(kept)):
            raise _DamagedError(self._checkpoint_missing(kept, files[-1]))

    def _checkpoint_missing(self, kept: Seal, file: SlotFile) -> Finding:
        last, line = self._last, self._last.line if self._last else None
        if last and line and "mac" in line.fields and line.operation != CHECKPOINT:
            return Finding(Damage.EDITED, self._number, last.file.name, last.place, _CHANGED)
        what = f"the store remembers a checkpoint of line {kept.line}, and the chain ends here"
        place = last.place + 1 if last else 1
        return Finding(Damage.CUT, self._number + 1, file.name, place, what)

    def _sealed_beyond(self, kept: Seal) -> bool:
        return self._newest is not None and self._newest.line > kept.line


_UNKNOWN = Chain("", "", "?")
"""The chain of files none of which names one."""

_CHANGED = "it is not what was written"


def _span(first: int, last: int) -> str:
    return f"line {first}" if first == last else f"lines {first} to {last}"


def _missing_file(last: _Read | None, read: _Read) -> str:
    """Return the name of the first file that is missing before the one of ``read``, or empty."""
    before = last.file.number if last else 0
    if read.file.number <= before + 1:
        return ""
    return read.file.name.replace(f".{read.file.number:06d}.", f".{before + 1:06d}.")


def _reads(files: Sequence[SlotFile]) -> Iterator[_Read]:
    for file in files:
        for place, raw in enumerate(file.lines(), 1):
            yield _Read(file, place, raw)
