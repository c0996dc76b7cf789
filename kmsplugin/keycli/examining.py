"""What ``doctor`` and ``probe`` have in common: progress, the answer, and the exit code."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from keycli.errors import ExitCode
from keycli.output import Document

if TYPE_CHECKING:
    from keycore.diagnosis.findings import Finding

StrictOption = Annotated[bool, typer.Option("--strict", help="Let warnings fail too.")]

_SEVERITY = ("ok", "skipped", "warning", "fault")
"""Outcomes from the best to the worst."""


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Yield a function that shows what is being looked at, on a terminal only."""
    shown = sys.stderr.isatty()

    def announce(check: str) -> None:
        if shown:
            sys.stderr.write(f"\r\x1b[K{check} …")
            sys.stderr.flush()

    try:
        yield announce
    finally:
        if shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def findings_document(findings: Iterable[Finding], advice: str) -> Document:
    """Describe an examination.

    Args:
        findings: what it found, in order.
        advice: what the JSON calls the last part of a finding.
    """
    listed = [
        {
            "check": finding.check,
            "outcome": finding.verdict.outcome.value,
            "what": finding.verdict.what,
            advice: finding.verdict.advice or None,
        }
        for finding in findings
    ]
    outcomes = [each["outcome"] for each in listed]
    return {
        "outcome": max(outcomes, key=_SEVERITY.index, default="ok"),
        "findings": listed,
    }


def summary_of(document: Document) -> str:
    """Return the counts in words, such as ``1 fault, 2 warnings, 20 ok``."""
    counts = Counter(each["outcome"] for each in document["findings"])
    words = {"fault": ("fault", "faults"), "warning": ("warning", "warnings")}
    parts: Sequence[str] = [
        f"{counts[name]} {words.get(name, (name, name))[counts[name] != 1]}"
        for name in reversed(_SEVERITY)
        if counts[name]
    ]
    return ", ".join(parts)


def end_with(document: Document, *, strict: bool) -> None:
    """End the command by what was found.

    Raises:
        typer.Exit: there is a fault, or a warning and ``strict``.
    """
    outcomes = {each["outcome"] for each in document["findings"]}
    if "fault" in outcomes or (strict and "warning" in outcomes):
        raise typer.Exit(ExitCode.SETUP)
