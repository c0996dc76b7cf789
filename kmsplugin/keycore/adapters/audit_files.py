"""Names and slots of audit files, and how they are opened and read.

A process takes the first free slot of its face, and with it the chain of that slot. Its
files are ``<face>.<slot>.<number>.jsonl``. The slot is held by a lock that the kernel frees
when the process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_NAME = re.compile(r"(?P<slot>[a-z]+\.(?:0|[1-9][0-9]*))\.(?P<number>[0-9]{6,9})\.jsonl")

_SLOTS_MAX = 1000

_LINE_BYTES_MAX = 1024 * 1024
"""What is longer is no line: a file without line breaks must not fill the memory."""

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

    def in_place_of(self) -> str:
        """Tell what stands where the file should be; empty when it is a file.

        Raises:
            OSError: there is nothing, or it cannot be looked at.
        """
        mode = self.path.lstat().st_mode
        return "" if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "something else")

    def open(self) -> BinaryIO:
        """Open the file for reading, and nothing that only has its name.

        Raises:
            OSError: it cannot be read.
        """
        # A named pipe would let whoever opens it wait for ever.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        return os.fdopen(os.open(self.path, flags), "rb")


_KINDS: Mapping[int, str] = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot that this process holds until :meth:`release`."""

    name: str
    path: Path
    lock: int

    def release(self) -> None:
        """Let the next process have it."""
        os.close(self.lock)

    def is_kept(self) -> bool:
        """Tell whether the lock is still the one that other processes find."""
        try:
            there = self.path.lstat()
        except OSError:
            return False
        ours = os.fstat(self.lock)
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def claim_slot(directory: Path, face: str) -> Slot:
    """Take the first slot of the face that no process holds.

    Raises:
        OSError: its lock file cannot be made, or all are taken.
    """
    for number in range(_SLOTS_MAX):
        slot = take_slot(directory, f"{face}.{number}")
        if slot is not None:
            return slot
    raise BlockingIOError(f"all {_SLOTS_MAX} slots are taken")


def take_slot(directory: Path, name: str) -> Slot | None:
    """Take the slot of that name, or return ``None`` while another process holds it.

    Raises:
        OSError: its lock file cannot be made.
    """
    path = directory / f"{name}.lock"
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        slot = Slot(name, path, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        except BaseException:
            os.close(lock)
            raise
        if slot.is_kept():
            return slot
        # It was removed between opening and locking, and the next process makes another.
        os.close(lock)


def chained_files(directory: Path) -> Mapping[str, Sequence[AuditFile]]:
    """Return the files of every slot in the order of their numbers."""
    slots: dict[str, list[AuditFile]] = defaultdict(list)
    for path in directory.glob("*.jsonl"):
        if file := _chained(path):
            slots[file.slot].append(file)
    return {slot: sorted(slots[slot], key=lambda file: file.number) for slot in sorted(slots)}


def unchained_files(directory: Path) -> Sequence[Path]:
    """Return the files that no process of this release writes or reads.

    Earlier releases have written such, whose lines are not chained.
    """
    return sorted(path for path in directory.glob("*.jsonl") if not _chained(path))


def _chained(path: Path) -> AuditFile | None:
    found = _NAME.fullmatch(path.name)
    if not found:
        return None
    file = AuditFile.of(path.parent, found["slot"], int(found["number"]))
    # Otherwise a second file could have the same number, with a further zero before it.
    return file if file.path.name == path.name else None


def read_lines(file: AuditFile) -> Iterator[bytes]:
    """Yield the lines of a file with their line breaks; a cut one at the end has none.

    Raises:
        OSError: it cannot be read.
    """
    with file.open() as opened:

        def read() -> bytes:
            return opened.readline(_LINE_BYTES_MAX)

        while line := read():
            yield line if line.endswith(b"\n") else _finished(line, read)


def _finished(line: bytes, read_on: Callable[[], bytes]) -> bytes:
    """Return the last line once its process has written the rest, if there is one that does."""
    for _ in range(_LOOKS):
        if line.endswith(b"\n") or len(line) >= _LINE_BYTES_MAX:
            break
        if more := read_on():
            line += more
        else:
            time.sleep(_LOOK_SECONDS)
    return line
