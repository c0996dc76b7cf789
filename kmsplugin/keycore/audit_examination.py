"""Reads the audit files of this host and has them verified; nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from keycore.adapters.audit_files import AuditFile, chained_files, read_lines, unchained_files
from keycore.bootstrap import Core
from keycore.errors import StoreSetupError
from keycore.ports import AuditHead
from keycore.service.audit_verification import (
    ChainReport,
    SlotFile,
    missing_chain,
    verify_slot,
)

_ANNOUNCED_LINES = 20_000


@dataclass(frozen=True, slots=True)
class AuditExamination:
    """What was found.

    Attributes:
        chains: every chain of this host.
        elsewhere: chains that other hosts write, as the store knows them.
        unchained: files of releases that did not chain their lines.
    """

    chains: Sequence[ChainReport]
    elsewhere: Sequence[AuditHead]
    unchained: Sequence[Path]

    @property
    def broken(self) -> bool:
        """Whether any line is not as it was written."""
        return any(report.finding for report in self.chains)


def examine_audit(
    core: Core,
    *,
    archives: Sequence[Path] = (),
    archived: bool = False,
    announce: Callable[[str], None] = lambda _: None,
) -> AuditExamination:
    """Verify every chain of this host.

    Args:
        core: its settings say where the files are; token and store vouch for them.
        archives: directories with further files of this host.
        archived: whether first files of a chain may be missing.
        announce: told which file is read, and how far.

    Raises:
        StoreSetupError: a file cannot be read.
        UnavailableError: token or store did not answer.
    """
    # Before the files: a checkpoint that is made meanwhile is then in them at least.
    heads = core.store.audit_heads()
    directories = [core.settings.audit_dir, *archives]
    try:
        reports = [
            report
            for files in _slots(directories).values()
            for report in verify_slot(
                [_slot_file(file, announce) for file in files],
                heads,
                core.token.is_signed,
                archived=archived,
            )
        ]
    except OSError as error:
        raise StoreSetupError(
            f"the audit file {error.filename} cannot be read: {error.strerror}",
            hint="give it back to the owner of the state directory",
        ) from None
    seen = {report.chain.id for report in reports}
    nodes = {core.settings.provider.node, *(report.chain.node for report in reports)}
    unseen = [head for head in heads if head.chain not in seen]
    gone = [missing_chain(head) for head in unseen if head.node in nodes]
    return AuditExamination(
        chains=sorted([*reports, *gone], key=lambda report: report.chain.name),
        elsewhere=[head for head in unseen if head.node not in nodes],
        unchained=[path for directory in directories for path in unchained_files(directory)],
    )


def _slots(directories: Iterable[Path]) -> dict[str, Sequence[AuditFile]]:
    """Return the files of each slot; of two with one number the first directory's counts."""
    slots: dict[str, dict[int, AuditFile]] = {}
    for directory in directories:
        for slot, files in chained_files(directory).items():
            for file in files:
                slots.setdefault(slot, {}).setdefault(file.number, file)
    return {slot: [slots[slot][number] for number in sorted(slots[slot])] for slot in sorted(slots)}


def _slot_file(file: AuditFile, announce: Callable[[str], None]) -> SlotFile:
    def lines() -> Iterator[bytes]:
        for place, line in enumerate(read_lines(file.path)):
            if place % _ANNOUNCED_LINES == 0:
                announce(f"{file.path.name}, line {place + 1:,}")
            yield line

    return SlotFile(file.path.name, file.number, lines)
