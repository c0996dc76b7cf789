"""Checks on the audit: whether it can be written, and whether its chains end as they were left."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from keycore.adapters.audit_files import AuditFile, chained_files
from keycore.adapters.audit_tail import Tail, read_end
from keycore.diagnosis.examination import Examination
from keycore.diagnosis.findings import Verdict, fault, ok, warning
from keycore.domain.audit_chain import IsSigned, is_sealed
from keycore.service.audit_findings import HeadState, KnownHead, known_heads

_MIB: Final = 1024 * 1024

_ADVICE: Final = "keep a copy of the directory, and run: keyplane audit verify"


def check_audit_files(examination: Examination) -> Iterator[Verdict]:
    """Can every face go on with its chains? None may decide anything without."""
    directory = examination.settings.audit_dir
    if not directory.exists():
        yield ok(f"{directory} is made by the first process")
        return
    if not _is_ours(directory, os.W_OK | os.X_OK):
        yield _not_writable(directory, "0700")
        return
    slots = chained_files(directory)
    closed = [path for path in _written(directory, slots) if not _is_ours(path, os.W_OK)]
    for path in closed:
        yield _not_writable(path, "0600")
    if not closed:
        files = [file for each in slots.values() for file in each]
        size = sum(file.path.lstat().st_size for file in files)
        yield ok(f"{directory} can be written; {len(files)} files, {size / _MIB:,.1f} MiB")


def check_audit_chains(examination: Examination) -> Iterator[Verdict]:
    """Does each chain end as its newest checkpoint and the store say? Only ends are read."""
    heads = known_heads(examination.store.audit_heads(), examination.token.is_signed)
    slots = chained_files(examination.settings.audit_dir)
    tails = {slot: read_end(files) for slot, files in slots.items()}
    is_signed = examination.token.is_signed
    broken = [
        f"{slot}: {what}"
        for slot, tail in tails.items()
        if (what := tail.fault or _forgery(tail, is_signed) or _contradiction(tail, heads))
    ]
    for what in broken:
        yield warning(what, _ADVICE)
    if not broken:
        yield ok(f"{len(tails)} chains end as they were sealed; their other lines were not read")


def _written(directory: Path, slots: Mapping[str, Sequence[AuditFile]]) -> Iterator[Path]:
    """Return what a process opens for writing: the locks, and the newest file of each slot."""
    yield from sorted(directory.glob("*.lock"))
    yield from (files[-1].path for files in slots.values())


def _forgery(tail: Tail, is_signed: IsSigned) -> str:
    chain, seal = tail.chain, tail.seal
    if chain is None or seal is None:
        return ""
    forged = not is_sealed(chain, seal, is_signed)
    return f"the checkpoint of line {seal.line} is forged" if forged else ""


def _contradiction(tail: Tail, heads: Mapping[str, KnownHead]) -> str:
    known = heads.get(tail.chain.id) if tail.chain else None
    if known is None:
        return ""
    head = known.head
    if known.state is HeadState.FORGED:
        return "the store holds a head that the token did not sign"
    if tail.seal is None or tail.seal.line < head.line:
        return f"the checkpoint of line {head.line}, which the store remembers, is missing"
    return ""


def _is_ours(path: Path, access: int) -> bool:
    return path.lstat().st_uid == os.geteuid() and os.access(path, access)


def _not_writable(path: Path, mode: str) -> Verdict:
    uid = os.geteuid()
    return fault(
        f"{path} cannot be written by uid {uid}", f"chown {uid} {path} and chmod {mode} {path}"
    )
