"""Is anything missing from the audit, or changed in it? Rules without files and without HSM.

A slot's files are read once, in order. The first line that is not what the chain says it
should be ends the examination of its chain: behind it nothing can be told for certain.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from keycore.domain.audit_chain import CHECKPOINT, Chain, IsSigned, Line, chain_of, parse_line
from keycore.service.audit_findings import (
    ChainReport,
    Damage,
    Finding,
    HeadState,
    KnownHead,
    SlotFile,
)
from keycore.service.audit_walk import ChainWalk

Heads = Mapping[str, KnownHead]
"""What the store remembers, by the chain's id; read before the files are."""


def verify_slot(
    slot: str,
    files: Sequence[SlotFile],
    heads: Heads,
    is_signed: IsSigned,
    *,
    archived: bool = False,
) -> Iterator[ChainReport]:
    """Examine the chains in the files of one slot, one after the other.

    Args:
        slot: its name.
        files: in the order of their numbers.
        heads: what the store remembers.
        is_signed: asks the HSM.
        archived: whether a chain may begin later than with line 1, because its first
            files have been put elsewhere.

    Yields:
        A report for each chain, and one without an id for files between chains that are gone.

    Raises:
        TokenUnavailableError: the token did not answer.
    """
    due = 1
    for chain, parts in chains_of(slot, files, heads):
        if parts[0].number > due and not archived and _begins(parts[0]):
            yield _lost_files(slot, parts[0], due)
        walk = ChainWalk(chain, is_signed, first_file=due, archived=archived)
        walk.run(parts, heads.get(chain.id))
        due = parts[-1].number + 1
        yield walk.report()


def missing_chain(known: KnownHead) -> ChainReport:
    """Report a chain that the store remembers and of which there is no file here."""
    if known.state is HeadState.FORGED:
        damage = Damage.FORGED
        what = "the store holds a head that the HSM did not sign, and there is no file of its chain"
    else:
        damage = Damage.REMOVED
        what = (
            f"the HSM has sealed this chain up to line {known.head.line}, "
            "and all its files are gone"
        )
    return ChainReport(known.chain, finding=Finding(damage, 1, "", 0, what))


def chains_of(
    slot: str, files: Sequence[SlotFile], heads: Heads
) -> Iterator[tuple[Chain, Sequence[SlotFile]]]:
    """Group the files of a slot by chain.

    A chain ends where a file begins another one with its line 1, or names another one and
    the store knows both; whatever else a file says of its chain is for the walk to doubt.
    """
    unknown = Chain("", "", slot)
    groups: list[tuple[Chain, list[SlotFile]]] = []
    for file in files:
        if _is_empty(file):
            # A process is about to begin it; lines that it has lost are missed elsewhere.
            continue
        chain = _named_by(file) or _named_within(file, heads) or unknown
        before = groups[-1][0] if groups else None
        if before is None or _is_another(chain, before, heads, begins=_begins(file)):
            groups.append((chain, [file]))
            continue
        _, grouped = groups[-1]
        grouped.append(file)
        if before == unknown:
            groups[-1] = (chain, grouped)
    yield from groups


def _is_another(chain: Chain, before: Chain, heads: Heads, *, begins: bool) -> bool:
    if begins:
        return chain != before
    return chain.id != before.id and chain.id in heads and before.id in heads


def _is_empty(file: SlotFile) -> bool:
    return not file.instead and not next(iter(file.lines()), b"")


def _begins(file: SlotFile) -> bool:
    first = _first_line(file)
    return first is not None and first.number == 1 and chain_of(first) is not None


def _named_by(file: SlotFile) -> Chain | None:
    first = _first_line(file)
    return chain_of(first) if first else None


def _named_within(file: SlotFile, heads: Heads) -> Chain | None:
    """Return the chain that a checkpoint names in a file whose first line does not."""
    for raw in () if file.instead else file.lines():
        line = parse_line(raw.rstrip(b"\n"))
        known = heads.get(str(line.fields.get("chain"))) if line else None
        if line and line.operation == CHECKPOINT and known:
            return known.chain
    return None


def _first_line(file: SlotFile) -> Line | None:
    if file.instead:
        return None
    return parse_line(next(iter(file.lines()), b"").rstrip(b"\n"))


def _lost_files(slot: str, found: SlotFile, due: int) -> ChainReport:
    name = found.name.replace(f".{found.number:06d}.", f".{due:06d}.")
    finding = Finding(Damage.REMOVED, 1, name, 0, _LOST)
    return ChainReport(Chain("", "", slot), finding=finding)


_LOST = "the files before the next chain are gone, and the store knows nothing of them"


def is_of_lost_files(report: ChainReport) -> bool:
    """Tell whether a report is about files between chains, which a missing one may have had."""
    return report.finding is not None and report.finding.what == _LOST
