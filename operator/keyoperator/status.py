"""Conditions: what was found, and how it is merged with what stood there before.

Everything here is pure. The time of a condition's last transition changes only
when its status does, as in every Kubernetes controller; so people can tell how
long something has been the case.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class ConditionType(StrEnum):
    """The conditions of a Key."""

    READY = "Ready"
    ROTATING = "Rotating"
    DELETION_BLOCKED = "DeletionBlocked"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look at a key has found about one condition.

    Attributes:
        reason: one CamelCase word for programs.
        message: for people; says what to do when something is wrong.
    """

    type: ConditionType
    reason: str
    message: str
    holds: bool = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class Condition:
    """A finding as it stands in the status.

    Attributes:
        generation: the ``metadata.generation`` that was looked at.
        since: when ``finding.holds`` last changed.
    """

    finding: Finding
    generation: int
    since: datetime


def merge_conditions(
    previous: Iterable[Condition],
    findings: Iterable[Finding],
    generation: int,
    now: datetime,
) -> tuple[Condition, ...]:
    """Return the new conditions; one that nothing was found about stays as it was."""
    merged = {condition.finding.type: condition for condition in previous}
    for finding in findings:
        before = merged.get(finding.type)
        unchanged = before is not None and before.finding.holds is finding.holds
        since = before.since if before is not None and unchanged else now
        merged[finding.type] = Condition(finding, generation, since)
    return tuple(merged.values())


def find_condition(conditions: Iterable[Condition], wanted: ConditionType) -> Finding | None:
    """Return the finding of one type, or ``None``."""
    found = (c.finding for c in conditions if c.finding.type is wanted)
    return next(found, None)
