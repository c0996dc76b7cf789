"""The end of a slot's files, where its next process goes on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from keycore.adapters.audit_files import AuditFile
from keycore.domain.audit_chain import Chain, Line, Seal, chain_of, parse_line, seal_of

_TAIL_BYTES = 64 * 1024
"""How much of a file's end is read first; an orderly end leaves a checkpoint there."""


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of a slot's newest file.

    Attributes:
        chain: ``None`` when the file does not say.
        line: the last whole line; ``None`` when there is none that hangs together.
        size: bytes up to the end of that line.
        seal: the newest one, if this file holds any.
        unsealed: lines behind it, checkpoints left out.
        fragment: what stands behind the last whole line.
        fault: why the lines do not hang together; empty when they do.
    """

    chain: Chain | None = None
    line: Line | None = None
    size: int = 0
    seal: Seal | None = None
    unsealed: int = 0
    fragment: bytes = b""
    fault: str = ""


def read_end(files: Sequence[AuditFile]) -> Tail:
    """Read the end of a slot's newest file, and find its newest seal in whichever file it is.

    Raises:
        OSError: a file cannot be read.
    """
    tail = read_tail(files[-1])
    for file in reversed(files[:-1]):
        if tail.seal is not None or tail.chain is None:
            break
        older = read_tail(file)
        if older.chain is None or older.chain.id != tail.chain.id:
            break
        tail = replace(tail, seal=older.seal, unsealed=tail.unsealed + older.unsealed)
    return tail


def read_tail(file: AuditFile) -> Tail:
    """Read the end of a file, back to the line that its newest seal covers.

    Raises:
        OSError: it cannot be read.
    """
    if instead := file.in_place_of():
        return Tail(fault=f"{instead} stands in its place")
    with file.open() as opened:
        first = parse_line(opened.readline(_TAIL_BYTES).rstrip(b"\n"))
        chain = chain_of(first) if first else None
        size, wanted = opened.seek(0, os.SEEK_END), _TAIL_BYTES
        if chain is None:
            return Tail(size=size, fault="it does not begin with the name of a chain")
        while True:
            start = max(size - wanted, 0)
            opened.seek(start)
            tail = _tail_of(chain, opened.read(size - start), size=size, whole=start == 0)
            if tail is not None:
                return tail
            wanted *= 4


def torn_begin(file: AuditFile) -> bytes | None:
    """Return what a crash has left of a file's first line, or ``None`` where a line is whole.

    Raises:
        OSError: it cannot be read.
    """
    if file.in_place_of():
        return None
    with file.open() as opened:
        begin = opened.read(_TAIL_BYTES)
    return begin if b"\n" not in begin and len(begin) < _TAIL_BYTES else None


def _tail_of(chain: Chain, content: bytes, *, size: int, whole: bool) -> Tail | None:
    """Return the tail, or ``None`` when more of the file must be read."""
    *texts, fragment = content.split(b"\n")
    lines = [parse_line(text) for text in (texts if whole else texts[1:])]
    if not lines:
        return None if not whole else Tail(chain, fragment=fragment, fault="it holds no line")
    seal, seal_at = _newest_seal(lines)
    first = lines[0]
    covers = seal is not None and first is not None and first.number <= seal.line
    if not whole and not covers:
        return None
    start = _place_of(seal.line, lines) if seal and covers else 0
    sealed = lines[start] if seal and covers else None
    counted = lines[start + 1 :] if covers else lines[seal_at + 1 :]
    return Tail(
        chain,
        lines[-1],
        size - len(fragment),
        seal,
        sum(1 for line in counted if line is not None and seal_of(line) is None),
        fragment,
        _fault_in(lines[start:]) or _contradiction(sealed, seal),
    )


def _place_of(number: int, lines: Sequence[Line | None]) -> int:
    return next((at for at, line in enumerate(lines) if line and line.number == number), 0)


def _newest_seal(lines: Sequence[Line | None]) -> tuple[Seal | None, int]:
    for at in range(len(lines) - 1, -1, -1):
        line = lines[at]
        seal = seal_of(line) if line else None
        if seal is not None:
            return seal, at
    return None, -1


def _fault_in(lines: Sequence[Line | None]) -> str:
    before: Line | None = None
    for line in lines:
        if line is None:
            return "a line is no line of a chain" + (f", behind {before.number}" if before else "")
        if before and (line.number != before.number + 1 or line.previous != before.digest):
            return f"line {line.number} does not follow line {before.number}"
        before = line
    return ""


def _contradiction(line: Line | None, seal: Seal | None) -> str:
    if line is None or seal is None:
        return ""
    if line.number != seal.line or line.digest != seal.digest.hex():
        return f"line {seal.line} is not the one that was sealed"
    return ""
