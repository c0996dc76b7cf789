"""Names, slots and content of audit files.

A process takes the first free slot of its face, and with it the chain of that slot. Its
files are ``<face>.<slot>.<number>.jsonl``. The slot is held by a lock that the kernel frees
when the process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from keycore.domain.audit_chain import Chain, Line, Seal, chain_of, parse_line, seal_of

_NAME = re.compile(r"(?P<slot>[a-z]+\.[0-9]+)\.(?P<number>[0-9]{6,9})\.jsonl")

_SLOTS_MAX = 1000

_TAIL_BYTES = 64 * 1024
"""How much of a file's end is read first; an orderly end leaves a checkpoint there."""

_LOOKS = 4
_LOOK_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class AuditFile:
    """One file of a slot's chain."""

    path: Path
    slot: str
    number: int

    @classmethod
    def of(cls, directory: Path, slot: str, number: int) -> AuditFile:
        """Return the file of that number, whether it is there or not."""
        return cls(directory / f"{slot}.{number:06d}.jsonl", slot, number)


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot that this process holds until :meth:`release`."""

    name: str
    lock: int

    def release(self) -> None:
        """Let the next process have it."""
        os.close(self.lock)


def claim_slot(directory: Path, face: str) -> Slot:
    """Take the first slot of the face that no process holds.

    Raises:
        OSError: its lock file cannot be made, or all are taken.
    """
    for number in range(_SLOTS_MAX):
        name = f"{face}.{number}"
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        lock = os.open(directory / f"{name}.lock", flags, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        except BaseException:
            os.close(lock)
            raise
        return Slot(name, lock)
    raise BlockingIOError(f"all {_SLOTS_MAX} slots are taken")


def chained_files(directory: Path) -> Mapping[str, Sequence[AuditFile]]:
    """Return the files of every slot in the order of their numbers."""
    slots: dict[str, list[AuditFile]] = defaultdict(list)
    for path in directory.glob("*.jsonl"):
        if found := _NAME.fullmatch(path.name):
            slots[found["slot"]].append(AuditFile(path, found["slot"], int(found["number"])))
    return {slot: sorted(slots[slot], key=lambda file: file.number) for slot in sorted(slots)}


def unchained_files(directory: Path) -> Sequence[Path]:
    """Return the files that earlier releases have written, whose lines are not chained."""
    return sorted(path for path in directory.glob("*.jsonl") if not _NAME.fullmatch(path.name))


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file with their line breaks; a cut one at the end has none.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        for line in file:
            yield line if line.endswith(b"\n") else _finished(line, file.readline)


def _finished(line: bytes, read_on: Callable[[], bytes]) -> bytes:
    """Return the last line once its process has written the rest, if there is one that does."""
    for _ in range(_LOOKS):
        line += read_on()
        if line.endswith(b"\n"):
            break
        time.sleep(_LOOK_SECONDS)
    return line


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of a slot's newest file: where its next process goes on.

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
    with file.path.open("rb") as opened:
        first = parse_line(opened.readline().rstrip(b"\n"))
        chain = chain_of(first) if first else None
        size, wanted = opened.seek(0, os.SEEK_END), _TAIL_BYTES
        if chain is None:
            return Tail(
                size=size, fault=f"{file.path.name} does not begin with the name of a chain"
            )
        while True:
            start = max(size - wanted, 0)
            opened.seek(start)
            tail = _tail_of(chain, opened.read(size - start), size=size, whole=start == 0)
            if tail is not None:
                return tail
            wanted *= 4


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
