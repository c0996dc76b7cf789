"""``keyplane audit …``: is the record of what was done whole?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keycli.errors import ExitCode
from keycli.examining import progress
from keycli.invocation import Invocation, command, command_group
from keycli.output import Document, as_time, show_line, show_table

if TYPE_CHECKING:
    from keycore.audit_examination import AuditExamination
    from keycore.ports import AuditHead
    from keycore.service.audit_findings import ChainReport

app = command_group("Audit: is the record of what was done whole?")


@command(
    app,
    "verify",
    examples=(
        "keyplane audit verify",
        "keyplane audit verify --output json",
        "keyplane audit verify --archive /srv/keyplane-audit",
    ),
)
def verify(
    run: Invocation,
    *,
    archive: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="Directory with further files of this host; may be given again.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    archived: Annotated[
        bool, typer.Option("--archived", help="The first files of a chain may lie elsewhere.")
    ] = False,
) -> None:
    """Find what was removed, edited, moved or cut.

    The first such line of each chain is named. Token and store are asked, and nothing
    but a line about this is written. Nobody vouches for lines behind the newest
    checkpoint yet. Exit code 1: a chain is broken.
    """
    from keycore.audit_examination import examine_audit  # noqa: PLC0415

    with run.core() as core, progress() as announce:
        examination = examine_audit(
            core, archives=archive or (), archived=archived, announce=announce
        )
        core.auditor.record(
            run.caller,
            "audit.verify",
            "broken" if examination.broken else "ok",
            {"chains": len(examination.chains)},
        )
    run.show(_document(examination), _show)
    if examination.broken:
        raise typer.Exit(ExitCode.REFUSED)


@command(
    app,
    "forget",
    examples=(
        'keyplane audit forget 081fd755-ce42-46eb-8f7b-9dd3a1200434 --reason "cp-3 was scrapped"',
    ),
)
def forget(
    run: Invocation,
    chain: Annotated[str, typer.Argument(metavar="CHAIN", help="ID from: keyplane audit verify")],
    *,
    reason: Annotated[str, typer.Option(help="Why it is missing; for the audit.")],
) -> None:
    """Let a chain be missing, and say why.

    Only for a chain without any file on this host, such as those of a node that was
    scrapped. Nothing is deleted: verify goes on to list it as forgotten, and files of it
    that turn up are verified as before.
    """
    from keycore.audit_forgetting import forget_chain  # noqa: PLC0415

    with run.core() as core:
        head = forget_chain(core, run.caller, chain, reason=reason)
    run.show(_forgotten(head), lambda document: show_line(_forgotten_line(document)))


def _document(examination: AuditExamination) -> Document:
    return {
        "outcome": "broken" if examination.broken else "ok",
        "chains": [_chain(report) for report in examination.chains],
        "forgotten": [_forgotten(head) for head in examination.forgotten],
        "elsewhere": [_head(head) for head in examination.elsewhere],
        "unchained": [str(path) for path in examination.unchained],
    }


def _chain(report: ChainReport) -> Document:
    finding = report.finding
    return {
        "name": report.chain.name,
        "node": report.chain.node or None,
        "chain": report.chain.id or None,
        "firstLine": report.first,
        "lastLine": report.last,
        "sealedLine": report.sealed,
        "unsealed": report.unsealed,
        "takenOver": report.taken_over,
        "outcome": finding.damage.value if finding else "ok",
        "finding": finding
        and {
            "line": finding.line,
            "file": finding.file or None,
            "fileLine": finding.place or None,
            "what": finding.what,
        },
    }


def _head(head: AuditHead) -> Document:
    return {
        "name": head.name,
        "node": head.node,
        "chain": head.chain,
        "sealedLine": head.line,
        "sealedAt": as_time(head.at),
    }


def _forgotten(head: AuditHead) -> Document:
    return {
        "name": head.name,
        "node": head.node,
        "chain": head.chain,
        "sealedLine": head.line,
        "forgottenAt": as_time(head.at),
    }


def _show(document: Document) -> None:
    show_table(
        ("CHAIN", "NODE", "ID", "LINES", "SEALED TO", "UNSEALED", "OUTCOME"),
        [
            (
                each["name"],
                each["node"] or "",
                each["chain"] or "",
                f"{each['firstLine']}-{each['lastLine']}" if each["lastLine"] else "",
                str(each["sealedLine"] or ""),
                str(each["unsealed"]),
                each["outcome"],
            )
            for each in document["chains"]
        ],
    )
    for each in document["chains"]:
        if each["finding"]:
            _show_finding(each)
    for each in document["forgotten"]:
        show_line(_forgotten_line(each))
    for path in document["unchained"]:
        # Anybody may have given a file any name.
        show_line(f"not of this release: {path!a}")
    if document["elsewhere"]:
        nodes = ", ".join(sorted({each["node"] for each in document["elsewhere"]}))
        show_line(f"to be verified elsewhere: the chains of {nodes}")


def _forgotten_line(head: Document) -> str:
    return (
        f"forgotten: {head['name']} of {head['node']} ({head['chain']}), sealed up to line "
        f"{head['sealedLine']}, on {head['forgottenAt']}"
    )


def _show_finding(chain: Document) -> None:
    finding = chain["finding"]
    place = f", its line {finding['fileLine']}" if finding["fileLine"] else ""
    where = f" ({finding['file']}{place})" if finding["file"] else ""
    # The id is what forget wants.
    name = f"{chain['name']} ({chain['chain']})" if chain["chain"] else chain["name"]
    show_line(f"{name}: line {finding['line']}{where} was {chain['outcome']}: {finding['what']}")
