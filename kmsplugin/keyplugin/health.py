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
from keycore.service.kms import HEALTHY
from keycore.service.kms_health import PROBE_MAX_AGE_SECONDS, KmsReport
from keycore.service.readiness import Finding, Outcome
from keyplugin.listener import Answer

STALLED_SECONDS_MAX: Final = 60.0
"""A call that has been inside the module for so long does not come back. Nothing can end
it but the end of the process, and the API server has given up long before."""


class Health:
    """Answers ``/livez`` and ``/readyz``."""

    def __init__(
        self, report: Callable[[], KmsReport], condition: Callable[[], TokenCondition]
    ) -> None:
        """Look at ``report`` and ``condition``, which answer from memory."""
        self._report = report
        self._condition = condition

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
        """Answer 200 while Encrypt and Decrypt can succeed, else 503; each check by name.

        Args:
            query: ``verbose`` adds the reasons.
        """
        findings = _findings(self._report(), self._condition())
        failed = any(finding.outcome is Outcome.FAILED for finding in findings.values())
        document: dict[str, object] = {
            "status": Outcome.FAILED if failed else Outcome.OK,
            "checks": {name: finding.outcome for name, finding in findings.items()},
        }
        if query.partition("=")[0] == "verbose":
            reasons = {name: finding.reason for name, finding in findings.items()}
            document["reasons"] = {name: reason for name, reason in reasons.items() if reason}
        return _answer(HTTPStatus.SERVICE_UNAVAILABLE if failed else HTTPStatus.OK, document)


def _findings(report: KmsReport, condition: TokenCondition) -> Mapping[str, Finding]:
    return {
        "token": _failed_if(condition.fault or report.token_fault),
        # The provider serves on without it; only a rotation has to wait.
        "store": _degraded_if(report.store_fault),
        # Only the next start without a store would miss it.
        "keyring": _degraded_if(report.keyring_fault),
        "key": _failed_if(_key_fault(report)),
        "probe": _failed_if(_probe_fault(report)),
    }


def _key_fault(report: KmsReport) -> str:
    status = report.status
    if status.key_id and status.healthz in (HEALTHY, report.token_fault):
        return next(iter(report.faults.values()), "")
    return status.healthz


def _probe_fault(report: KmsReport) -> str:
    if report.probe_age_seconds <= PROBE_MAX_AGE_SECONDS:
        return ""
    return f"the key has not been proved for more than {PROBE_MAX_AGE_SECONDS:.0f} seconds"


def _degraded_if(fault: str) -> Finding:
    return Finding(Outcome.DEGRADED, fault) if fault else Finding()


def _failed_if(fault: str) -> Finding:
    return Finding(Outcome.FAILED, fault) if fault else Finding()


def _answer(status: HTTPStatus, document: Mapping[str, object]) -> Answer:
    return Answer(status, f"{json.dumps(document)}\n".encode())
