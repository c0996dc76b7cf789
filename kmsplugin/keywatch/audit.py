"""What is told of the audit log: how much it holds, what it has lost, and whether it can go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from keycore.ports import AuditCondition
from keycore.service.readiness import Finding, Outcome
from keywatch.families import Family, Kind
from keywatch.metrics import Metrics

LINES: Final = Family(
    "keyplane_audit_lines_total", Kind.COUNTER, "Audit lines that this process has written."
)
LOST: Final = Family(
    "keyplane_audit_lines_lost_total",
    Kind.COUNTER,
    "Audit lines that could not be written; only the log of the process has them.",
)
UNSEALED: Final = Family(
    "keyplane_audit_unsealed_lines",
    Kind.GAUGE,
    "Lines behind the newest checkpoint, which no HSM vouches for yet.",
)
AVAILABLE: Final = Family(
    "keyplane_audit_available", Kind.GAUGE, "1 while audit lines can be written."
)
BROKEN: Final = Family(
    "keyplane_audit_chain_broken",
    Kind.GAUGE,
    "1 when the chain does not go on where its newest checkpoint says, as this process has found.",
)

AUDIT: Final = (LINES, LOST, UNSEALED, AVAILABLE, BROKEN)
"""All families of the audit log."""


def follow_audit(metrics: Metrics, condition: Callable[[], AuditCondition]) -> None:
    """Show how the audit log is; ``condition`` answers from memory."""

    def look() -> Mapping[Family, float]:
        known = condition()
        return {
            LINES: known.lines,
            LOST: known.lost,
            UNSEALED: known.unsealed,
            AVAILABLE: not known.fault,
            BROKEN: bool(known.broken),
        }

    metrics.follow(AUDIT, look)


def audit_finding(condition: AuditCondition, *, strict: bool) -> Finding:
    """Return the finding of the check ``audit``.

    Args:
        condition: how the log is.
        strict: whether this face does nothing that it cannot record.
    """
    if condition.fault:
        return Finding(Outcome.FAILED if strict else Outcome.DEGRADED, condition.fault)
    return Finding(Outcome.DEGRADED, condition.broken) if condition.broken else Finding()
