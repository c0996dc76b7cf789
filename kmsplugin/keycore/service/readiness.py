"""What a check of readiness finds, in the same words for every face."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """What a check found."""

    OK = "ok"

    DEGRADED = "degraded"
    """Whoever calls is answered, by what was right before; somebody should look."""

    FAILED = "failed"
    """Calls fail, or will."""


@dataclass(frozen=True, slots=True)
class Finding:
    """An outcome, and why, in words for a person; empty when all is well."""

    outcome: Outcome = Outcome.OK
    reason: str = ""
