"""Walks along one audit chain, up to the first line that is not what it should be."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from keycore.domain.audit_chain import (
    CHECKPOINT,
    FILE,
    NO_DIGEST,
    TAKEN_OVER,
    Chain,
    IsSigned,
    Line,
    Seal,
    chain_of,
    checkpoint_line,
    is_sealed,
    parse_line,
    seal_of,
)
from keycore.ports import AuditHead
from keycore.service.audit_findings import (
    ChainReport,
    Damage,
    Finding,
    HeadState,
    KnownHead,
    SlotFile,
)

_DIGEST_BYTES = 32


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


class ChainWalk:
    """Walks along one chain."""

    def __init__(
        self, chain: Chain, is_signed: IsSigned, *, first_file: int, archived: bool
    ) -> None:
        """Walk along ``chain``.

        Args:
            chain: what its first file names.
            is_signed: asks the HSM.
            first_file: number of the file that it should begin with.
            archived: whether it may begin later than with line 1.
        """
        self._chain = chain
        self._is_signed = is_signed
        self._first_file = first_file
        self._archived = archived
        self._first = 1
        self._number = 0
        self._previous = NO_DIGEST
        self._last: _Read | None = None
        self._sealed = 0
        # The first line of each file, and the first line that no seal covers.
        self._starts: list[tuple[int, SlotFile]] = []
        self._doubtful = 1
        self._newest: Seal | None = None
        self._unsealed = 0
        self._taken_over = 0
        # Digests of the lines behind the newest seal, which the next one may be about.
        self._digests = bytearray()
        self._head_met = False
        self._head_contradicted = False
        self._finding: Finding | None = None

    def run(self, files: Sequence[SlotFile], known: KnownHead | None) -> None:
        """Read the files in order; a chain that was forgotten is held to its head as well.

        Raises:
            TokenUnavailableError: the token did not answer.
        """
        head = known.head if known and known.state is not HeadState.FORGED else None
        try:
            self._walk(_reads(files), head)
            self._refuse_contradiction()
            if known is not None:
                self._reach(known, files[-1])
        except _DamagedError as damaged:
            self._finding = damaged.finding

    def report(self) -> ChainReport:
        """Return what was found."""
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
            self._refuse_contradiction()
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
        later = itertools.chain([coming], rest) if coming else ()
        raise _DamagedError(self._gap(read, line, later))

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

    def _gap(self, read: _Read, line: Line, later: Iterable[_Read]) -> Finding:
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
            before = self._last.file.number if self._last else self._first_file - 1
            missing = _missing_file(before, read)
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
        if read.place == 1:
            self._starts.append((line.number, read.file))
        self._number, self._previous, self._last = line.number, digest, read
        self._digests += bytes.fromhex(digest)

    def _check_seal(self, read: _Read, line: Line, seal: Seal) -> None:
        form = checkpoint_line(self._chain, seal, number=self._number + 1, previous=self._previous)
        if form != line.text:
            raise _damaged(Damage.EDITED, line.number, read, _CHANGED)
        if not is_sealed(self._chain, seal, self._is_signed):
            raise _damaged(Damage.FORGED, line.number, read, "the HSM did not make this seal")
        known = self._digest_of(seal.line)
        if known is not None and known != seal.digest:
            raise self._recomputed(seal.line)
        if seal.line <= self._sealed:
            # Somebody has put an old seal here once more; it vouches for nothing new.
            return
        self._sealed, self._newest = seal.line, seal
        # A checkpoint that was made at once is all that it can be, and in no doubt itself.
        self._doubtful = line.number + 1 if line.number == seal.line + 1 else seal.line + 1
        behind = self._number - seal.line
        self._unsealed = min(behind, self._unsealed)
        del self._digests[: max(len(self._digests) - behind * _DIGEST_BYTES, 0)]

    def _digest_of(self, number: int) -> bytes | None:
        behind = self._number - number
        start = len(self._digests) - (behind + 1) * _DIGEST_BYTES
        return bytes(self._digests[start : start + _DIGEST_BYTES]) if start >= 0 else None

    def _no_line(self, read: _Read, coming: _Read | None) -> Finding:
        if read.file.instead:
            what = f"{read.file.instead} stands in the place of its file"
            return Finding(Damage.REMOVED, self._number + 1, read.file.name, 0, what)
        damage, what = Damage.EDITED, "it is no line of a chain any more"
        if not read.raw.endswith(b"\n") and (coming is None or coming.file is not read.file):
            damage, what = Damage.CUT, "the file ends in the middle of it"
        elif read.place == 1:
            what = "it is no line of a chain; it was changed, or its file is a foreign one"
        return Finding(damage, self._number + 1, read.file.name, read.place, what)

    # --- the store's word ------------------------------------------------------

    def _check_head(self, head: AuditHead | None) -> None:
        if head is None or self._number < head.line:
            return
        if self._number == head.line and bytes.fromhex(self._previous) != head.digest:
            # If it alone was changed, the line behind it tells so exactly.
            self._head_contradicted = True
        if self._newest is not None and self._newest.line == head.line:
            self._head_met |= self._newest.digest == head.digest

    def _refuse_contradiction(self) -> None:
        if self._head_contradicted:
            raise self._recomputed(self._number)

    def _recomputed(self, last: int) -> _DamagedError:
        """Return what is known when lines hang together and are not the sealed ones."""
        first = max(self._doubtful, self._first)
        start, file = [begun for begun in self._starts if begun[0] <= first][-1]
        what = f"this line, or another one up to {last}, and all digests behind it"
        return _DamagedError(Finding(Damage.EDITED, first, file.name, first - start + 1, what))

    def _reach(self, known: KnownHead, file: SlotFile) -> None:
        """Check that the chain ends no earlier than the store remembers."""
        head = known.head
        if known.state is HeadState.FORGED:
            raise _DamagedError(_forged_head(head, file.name))
        if self._number >= head.line:
            self._sealed = max(self._sealed, head.line)
        if self._sealed < head.line or not (self._head_met or self._sealed_beyond(head)):
            raise _DamagedError(self._checkpoint_missing(head, file))

    def _checkpoint_missing(self, kept: AuditHead, file: SlotFile) -> Finding:
        last, line = self._last, self._last.line if self._last else None
        if last and line and "mac" in line.fields and line.operation != CHECKPOINT:
            return Finding(Damage.EDITED, self._number, last.file.name, last.place, _CHANGED)
        what = f"the store remembers a checkpoint of line {kept.line}, and the chain ends here"
        place = last.place + 1 if last else 1
        return Finding(Damage.CUT, self._number + 1, file.name, place, what)

    def _sealed_beyond(self, kept: AuditHead) -> bool:
        return self._newest is not None and self._newest.line > kept.line


_CHANGED = "it is not what was written"


def _span(first: int, last: int) -> str:
    return f"line {first}" if first == last else f"lines {first} to {last}"


def _missing_file(before: int, read: _Read) -> str:
    """Return the name of the first file behind ``before`` that is missing, or empty."""
    if read.file.number <= before + 1:
        return ""
    return read.file.name.replace(f".{read.file.number:06d}.", f".{before + 1:06d}.")


def _reads(files: Sequence[SlotFile]) -> Iterator[_Read]:
    for file in files:
        if file.instead:
            yield _Read(file, 0, b"")
            continue
        for place, raw in enumerate(file.lines(), 1):
            yield _Read(file, place, raw)


def _forged_head(head: AuditHead, file: str) -> Finding:
    what = "the head of the chain in the store is not one that the HSM signed"
    return Finding(Damage.FORGED, head.line, file, 0, what)
