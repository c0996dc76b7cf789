"""Reads the audit files of this host and has them verified; nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from keycore.adapters.audit_files import AuditFile, chained_files, read_lines, unchained_files
from keycore.bootstrap import Core
from keycore.errors import StoreSetupError
from keycore.ports import AuditHead
from keycore.service.audit_findings import (
    ChainReport,
    HeadState,
    KnownHead,
    SlotFile,
    known_heads,
)
from keycore.service.audit_verification import (
    chains_of,
    is_of_lost_files,
    missing_chain,
    verify_slot,
)

_ANNOUNCED_LINES = 20_000


@dataclass(frozen=True, slots=True)
class AuditExamination:
    """What was found.

    Attributes:
        chains: every chain of this host.
        forgotten: chains that are missing, and about which somebody has said why.
        elsewhere: chains that other hosts write, as the store knows them.
        unchained: files that no process of this release writes or reads.
    """

    chains: Sequence[ChainReport]
    forgotten: Sequence[AuditHead]
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
    heads = known_heads(core.store.audit_heads(), core.token.is_signed)
    directories = [core.settings.audit_dir, *archives]
    try:
        reports = [
            report
            for slot, files in _slots(directories, announce).items()
            for report in verify_slot(slot, files, heads, core.token.is_signed, archived=archived)
        ]
    except OSError as error:
        raise _unreadable(error) from None
    missing = _Missing.of(core, heads, reports)
    return AuditExamination(
        chains=sorted(
            [*missing.explained(reports), *map(missing_chain, missing.gone)],
            key=lambda report: report.chain.name,
        ),
        forgotten=[known.head for known in missing.forgotten],
        elsewhere=[known.head for known in missing.elsewhere],
        unchained=[path for directory in directories for path in unchained_files(directory)],
    )


def present_chains(core: Core, heads: Mapping[str, KnownHead]) -> frozenset[str]:
    """Return the ids of the chains of which this host still has a file.

    Raises:
        StoreSetupError: a file cannot be read.
    """
    try:
        return frozenset(
            chain.id
            for slot, files in _slots([core.settings.audit_dir], lambda _: None).items()
            for chain, _ in chains_of(slot, files, heads)
        )
    except OSError as error:
        raise _unreadable(error) from None


@dataclass(frozen=True, slots=True)
class _Missing:
    """Heads of the store for which no file was read."""

    gone: Sequence[KnownHead]
    forgotten: Sequence[KnownHead]
    elsewhere: Sequence[KnownHead]

    @classmethod
    def of(
        cls, core: Core, heads: Mapping[str, KnownHead], reports: Sequence[ChainReport]
    ) -> _Missing:
        seen = {report.chain.id for report in reports}
        nodes = {core.settings.provider.node, *(report.chain.node for report in reports)}
        gone, forgotten, elsewhere = [], [], []
        for known in (known for chain, known in heads.items() if chain not in seen):
            if known.state is HeadState.FORGOTTEN:
                forgotten.append(known)
            elif (
                # An embedded store has one host, whatever that is called today.
                known.state is HeadState.FORGED
                or core.settings.store.embedded
                or known.head.node in nodes
            ):
                gone.append(known)
            else:
                elsewhere.append(known)
        return cls(gone, forgotten, elsewhere)

    def explained(self, reports: Iterable[ChainReport]) -> Iterator[ChainReport]:
        """Leave out reports of lost files that the chains here may have had."""
        names = {known.head.name for known in (*self.gone, *self.forgotten)}
        for report in reports:
            if report.chain.name not in names or not is_of_lost_files(report):
                yield report


def _slots(
    directories: Iterable[Path], announce: Callable[[str], None]
) -> dict[str, Sequence[SlotFile]]:
    """Return the files of each slot; of two with one number the first directory's counts."""
    slots: dict[str, dict[int, AuditFile]] = {}
    for directory in directories:
        for slot, files in chained_files(directory).items():
            for file in files:
                slots.setdefault(slot, {}).setdefault(file.number, file)
    return {
        slot: [_slot_file(slots[slot][number], announce) for number in sorted(slots[slot])]
        for slot in sorted(slots)
    }


def _slot_file(file: AuditFile, announce: Callable[[str], None]) -> SlotFile:
    def lines() -> Iterator[bytes]:
        for place, line in enumerate(read_lines(file)):
            if place % _ANNOUNCED_LINES == 0:
                announce(f"{file.path.name}, line {place + 1:,}")
            yield line

    return SlotFile(file.path.name, file.number, lines, file.in_place_of())


def _unreadable(error: OSError) -> StoreSetupError:
    return StoreSetupError(
        f"the audit file {error.filename} cannot be read: {error.strerror}",
        hint="give it back to the owner of the state directory",
    )
