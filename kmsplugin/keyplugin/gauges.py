"""What the provider knows of itself, as Prometheus reads it: one look at its memory each time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from keycore.domain.providers import ActivationState, OutagePolicy, key_id_hash
from keycore.ports import TokenCondition
from keycore.service.kms import HEALTHY
from keycore.service.kms_health import KmsReport

_TEXTS: Final[Mapping[str, str]] = {
    "keyplane_kms_healthy": "1 while Status says ok.",
    "keyplane_kms_probe_age_seconds": "Since the write key was last proved; +Inf before that.",
    "keyplane_kms_serving_from_keyring": "1 while the store has not been read since the start.",
    "keyplane_kms_keyring_available": "1 while the node's keyring can be read and written.",
    "keyplane_kms_load_faults": "Live generations that cannot be loaded now.",
    "keyplane_store_refresh_age_seconds": "Since the store was last looked at.",
    "keyplane_store_available": "1 when the store answered last time.",
    "keyplane_token_available": "1 while the token has no fault.",
    "keyplane_token_lost": "1 while the token is gone and only working copies serve.",
    "keyplane_token_stalled_seconds": "How long the longest running call has been in the module.",
}
"""The gauges that always have one value and no label."""


class ReportCollector(Collector):
    """Turns a report into gauges whenever somebody asks."""

    def __init__(
        self,
        provider: str,
        report: Callable[[], KmsReport],
        condition: Callable[[], TokenCondition],
    ) -> None:
        """Look at ``report`` and ``condition``, which answer from memory, for ``provider``."""
        self._provider = provider
        self._report = report
        self._condition = condition

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Return all gauges; what there is nothing to say about has no sample."""
        report, condition = self._report(), self._condition()
        for name, value in _plain(report, condition).items():
            yield GaugeMetricFamily(name, _TEXTS[name], value=value)
        yield _key_id(self._provider, report.status.key_id)
        yield _generations(report.generations)
        yield _outage_policy(report.outage)
        yield _seeds_readable(report)
        yield _expiry(report)


def _plain(report: KmsReport, condition: TokenCondition) -> Mapping[str, float]:
    return {
        "keyplane_kms_healthy": report.status.healthz == HEALTHY,
        "keyplane_kms_probe_age_seconds": report.probe_age_seconds,
        "keyplane_kms_serving_from_keyring": report.from_keyring,
        "keyplane_kms_keyring_available": not report.keyring_fault,
        "keyplane_kms_load_faults": len(report.faults),
        "keyplane_store_refresh_age_seconds": report.refreshed_seconds_ago,
        "keyplane_store_available": not report.store_fault,
        "keyplane_token_available": not condition.fault,
        "keyplane_token_lost": condition.lost,
        "keyplane_token_stalled_seconds": condition.stalled_seconds,
    }


def _key_id(provider: str, key_id: str) -> GaugeMetricFamily:
    """Show the key_id with the labels that kube-apiserver's own metrics give it."""
    family = GaugeMetricFamily(
        "keyplane_kms_key_id_info",
        "1 for the key_id that Status reports.",
        labels=["provider_name", "key_id_hash"],
    )
    if key_id:
        family.add_metric([provider, key_id_hash(key_id)], 1)
    return family


def _generations(counts: Mapping[ActivationState, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(
        "keyplane_kms_generations", "Activations in the ledger, by state.", labels=["state"]
    )
    for state in ActivationState:
        family.add_metric([state.value], counts.get(state, 0))
    return family


def _outage_policy(policy: OutagePolicy) -> GaugeMetricFamily:
    family = GaugeMetricFamily(
        "keyplane_kms_outage_policy_info", "1 for the policy that is set.", labels=["policy"]
    )
    family.add_metric([policy.value], 1)
    return family


def _seeds_readable(report: KmsReport) -> GaugeMetricFamily:
    family = GaugeMetricFamily(
        "keyplane_kms_seeds_readable_seconds",
        "During an outage: until the first, and the last, seed leaves the API servers' caches.",
        labels=["which"],
    )
    if report.seeds_readable is not None:
        family.add_metric(["first"], report.seeds_readable.first_seconds)
        family.add_metric(["last"], report.seeds_readable.last_seconds)
    return family


def _expiry(report: KmsReport) -> GaugeMetricFamily:
    family = GaugeMetricFamily(
        "keyplane_kms_key_expires_timestamp_seconds",
        "When the provider's key expires, in Unix time; absent for never.",
    )
    if report.expires_at is not None:
        family.add_metric([], report.expires_at.timestamp())
    return family
