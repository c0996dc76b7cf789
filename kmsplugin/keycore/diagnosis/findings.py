"""What an examination finds, and how checks that need one another are run in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from keycore.errors import KeyplaneError

SubjectT = TypeVar("SubjectT")


class Outcome(StrEnum):
    """How a check ended."""

    OK = "ok"

    WARNING = "warning"
    """It works; somebody should look."""

    FAULT = "fault"
    """It stops this node from serving, now or at the next need."""

    SKIPPED = "skipped"
    """It could not be looked at, because of a fault that another check tells."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one check says.

    Attributes:
        what: one sentence of facts that may be shown to anybody.
        advice: what to do about it, or why it matters; empty when there is nothing to say.
    """

    outcome: Outcome
    what: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict with the name of its check."""

    check: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Check(Generic[SubjectT]):
    """One thing to look at.

    Attributes:
        name: a few words, by which other checks and people call it.
        run: looks, and says one or more verdicts. A ``KeyplaneError`` that it raises is a
            fault.
        needs: names of earlier checks; after a fault of one of them this one is skipped.
    """

    name: str
    run: Callable[[SubjectT], Iterable[Verdict]]
    needs: tuple[str, ...] = ()


def ok(what: str) -> Verdict:
    """Return the verdict that all is well."""
    return Verdict(Outcome.OK, what)


def warning(what: str, advice: str = "") -> Verdict:
    """Return the verdict that somebody should look."""
    return Verdict(Outcome.WARNING, what, advice)


def fault(what: str, advice: str = "") -> Verdict:
    """Return the verdict that this stops the node from serving."""
    return Verdict(Outcome.FAULT, what, advice)


def skipped(needed: str) -> Verdict:
    """Return the verdict that a check could not look, for want of what is named."""
    return Verdict(Outcome.SKIPPED, f"needs: {needed}")


def refusal(error: KeyplaneError) -> Verdict:
    """Return an error of the core as a fault."""
    return fault(error.message, error.hint)


class CannotLookError(Exception):
    """Raised by a check that could not look because of a fault that another check has told."""

    def __init__(self, reason: str) -> None:
        """Keep what was needed."""
        super().__init__(reason)
        self.reason = reason


def examine(
    checks: Sequence[Check[SubjectT]],
    subject: SubjectT,
    *,
    announce: Callable[[str], None] = lambda _: None,
) -> Iterator[Finding]:
    """Run checks in order, and go on after a fault wherever the next one does not need it.

    Args:
        checks: each after those that it needs.
        subject: what they look at; what one has found out it keeps there for others.
        announce: told the name of each check before it runs.
    """
    failed: set[str] = set()
    for check in checks:
        missing = [name for name in check.needs if name in failed]
        if missing:
            verdicts = [skipped(", ".join(missing))]
        else:
            announce(check.name)
            verdicts = _verdicts(check, subject)
        if any(verdict.outcome in (Outcome.FAULT, Outcome.SKIPPED) for verdict in verdicts):
            failed.add(check.name)
        for verdict in verdicts:
            yield Finding(check.name, verdict)


def _verdicts(check: Check[SubjectT], subject: SubjectT) -> list[Verdict]:
    try:
        return list(check.run(subject))
    except CannotLookError as error:
        return [skipped(error.reason)]
    except KeyplaneError as error:
        return [refusal(error)]
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        return [fault(f"{named}{error.strerror or type(error).__name__}")]
