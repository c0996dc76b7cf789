"""What probes are told: whether the process can go on, and whether it can do its work.

Every answer comes from memory: a probe may come as often as anybody likes, and one that
asked the token itself would hang together with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final

from keycore.ports import TokenCondition
from keycore.service.readiness import Finding, Outcome
from keywatch.listener import Answer

STALLED_SECONDS_MAX: Final = 60.0
"""A call that has been inside the module for so long does not come back. Nothing can end
it but the end of the process, and every caller has given up long before."""


class Health:
    """Answers ``/livez`` and ``/readyz``."""

    def __init__(
        self,
        condition: Callable[[], TokenCondition],
        findings: Callable[[], Mapping[str, Finding]],
    ) -> None:
        """Look at ``condition`` of the token and at ``findings``; both answer from memory."""
        self._condition = condition
        self._findings = findings

    def live(self, _query: str) -> Answer:
        """Answer 503 only when nothing but a restart of this process can help."""
        stalled = self._condition().stalled_seconds
        if stalled <= STALLED_SECONDS_MAX:
            return _answer(HTTPStatus.OK, {"status": Outcome.OK})
        reason = (
            f"a call has been inside the HSM's module for {stalled:.0f} seconds and cannot be "
            "ended; check the HSM; only a restart of this process heals it"
        )
        return _answer(HTTPStatus.SERVICE_UNAVAILABLE, {"status": Outcome.FAILED, "reason": reason})

    def ready(self, query: str) -> Answer:
        """Answer 200 while the process can do its work, else 503; each check by name.

        Args:
            query: ``verbose`` adds the reasons.
        """
        findings = self._findings()
        failed = any(finding.outcome is Outcome.FAILED for finding in findings.values())
        document: dict[str, object] = {
            "status": Outcome.FAILED if failed else Outcome.OK,
            "checks": {name: finding.outcome for name, finding in findings.items()},
        }
        if query.partition("=")[0] == "verbose":
            reasons = {name: finding.reason for name, finding in findings.items()}
            document["reasons"] = {name: reason for name, reason in reasons.items() if reason}
        return _answer(HTTPStatus.SERVICE_UNAVAILABLE if failed else HTTPStatus.OK, document)


def failed_if(fault: str) -> Finding:
    """Return the finding of a fault without which nothing works; empty for none."""
    return Finding(Outcome.FAILED, fault) if fault else Finding()


def degraded_if(fault: str) -> Finding:
    """Return the finding of a fault that stops nobody yet; empty for none."""
    return Finding(Outcome.DEGRADED, fault) if fault else Finding()


def _answer(status: HTTPStatus, document: Mapping[str, object]) -> Answer:
    return Answer(status, f"{json.dumps(document)}\n".encode())
