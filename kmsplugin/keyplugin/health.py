"""What probes are told of the provider: whether Encrypt and Decrypt can succeed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from keycore.ports import AuditCondition, TokenCondition
from keycore.service.kms import HEALTHY
from keycore.service.kms_health import PROBE_MAX_AGE_SECONDS, KmsReport
from keycore.service.readiness import Finding
from keywatch.audit import audit_finding
from keywatch.health import Health, degraded_if, failed_if


def provider_health(
    report: Callable[[], KmsReport],
    condition: Callable[[], TokenCondition],
    audit: Callable[[], AuditCondition],
) -> Health:
    """Return what answers for a provider; all arguments answer from memory."""
    return Health(condition, lambda: _findings(report(), condition(), audit()))


def _findings(
    report: KmsReport, condition: TokenCondition, audit: AuditCondition
) -> Mapping[str, Finding]:
    return {
        "token": failed_if(condition.fault or report.token_fault),
        # The provider serves on without it; only a rotation has to wait.
        "store": degraded_if(report.store_fault),
        # Only the next start without a store would miss it.
        "keyring": degraded_if(report.keyring_fault),
        "key": failed_if(_key_fault(report)),
        "probe": failed_if(_probe_fault(report)),
        # What etcd holds must be readable, recorded or not.
        "audit": audit_finding(audit, strict=False),
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
