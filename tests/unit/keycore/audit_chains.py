"""Audit chains as a real writer makes them, for tests to damage."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from pathlib import Path

from keycore.adapters.audit_chain import ChainWriter
from keycore.adapters.audit_files import chained_files, read_lines
from keycore.adapters.audit_sealing import Sealing
from keycore.domain.audit_chain import encode_plain
from keycore.ports import AuditHead
from keycore.service.audit_findings import ChainReport, SlotFile, known_heads
from keycore.service.audit_verification import verify_slot
from tests.fakes.fixed_clock import FixedClock
from tests.fakes.memory_token import InsecureMemoryToken

Contents = dict[str, list[bytes]]
"""Lines of each file, by its name; a damaged chain is a changed copy."""


class MemoryHeads:
    """Keeps heads as a store does."""

    def __init__(self) -> None:
        self.heads: dict[str, AuditHead] = {}

    def save_audit_head(self, head: AuditHead) -> None:
        self.heads[head.chain] = head

    def audit_heads(self) -> list[AuditHead]:
        return [self.heads[chain] for chain in sorted(self.heads)]


@dataclass(frozen=True)
class Written:
    """A chain that was closed in order, and what vouches for it."""

    contents: Contents
    heads: list[AuditHead]
    token: InsecureMemoryToken

    def numbered(self) -> list[tuple[str, int]]:
        """Return file and index of every line; its place in the list, plus one, is its number."""
        return [(name, at) for name, lines in self.contents.items() for at in range(len(lines))]

    def with_line(self, number: int, text: bytes) -> Written:
        """Return this chain with another text for one line."""
        changed = {name: list(lines) for name, lines in self.contents.items()}
        name, at = self.numbered()[number - 1]
        changed[name][at] = text
        return replace(self, contents=changed)

    def verify(self, *, archived: bool = False) -> list[ChainReport]:
        """Verify it."""
        files = [
            SlotFile(name, int(name.split(".")[2]), lines.__iter__)
            for name, lines in self.contents.items()
        ]
        heads = known_heads(self.heads, self.token.is_signed)
        return list(verify_slot("rest.0", files, heads, self.token.is_signed, archived=archived))


def write_chain(
    directory: Path, bursts: list[int], *, lines_per_file: int = 1000, sealed: bool = True
) -> Written:
    """Write bursts of lines with a checkpoint behind each, as one process after another does.

    Args:
        directory: for the files.
        bursts: how many lines come before each checkpoint.
        lines_per_file: about how many lines a file gets.
        sealed: whether the last burst is sealed too.
    """
    token, heads, clock = InsecureMemoryToken(), MemoryHeads(), FixedClock()
    for at, burst in enumerate(bursts):
        writer = ChainWriter(
            directory,
            "rest",
            node="node-a",
            file_bytes=lines_per_file * 180,
            clock=clock,
        )
        writer.go_on()
        writer.tell_what_was_found()
        for number in range(burst):
            fields = {"operation": "key.get", "outcome": "ok", "key": f"{at}-{number}"}
            writer.append(encode_plain({"n": writer.number + 1, "prev": writer.previous, **fields}))
        sealing = Sealing(
            writer, threading.Lock(), look=writer.look, signer=token, heads=heads, clock=clock
        )
        if sealed or at + 1 < len(bursts):
            sealing.run_once(now=True)
            assert sealing.fault == ""
        clock.advance(seconds=1)
        writer.close()
    return Written(read_chain(directory), heads.audit_heads(), token)


def read_chain(directory: Path) -> Contents:
    """Return every line of the one slot that is in a directory."""
    files = chained_files(directory)["rest.0"]
    return {file.path.name: list(read_lines(file)) for file in files}
