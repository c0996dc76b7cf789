"""What the provider knows of itself, as Prometheus reads it: one look at its memory each time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from keycore.domain.providers import ActivationState, key_id_hash
from keycore.service.kms import HEALTHY
from keycore.service.kms_health import KmsReport
from keywatch.families import Family, Kind
from keywatch.metrics import Metrics, Values

HEALTHY_NOW: Final = Family("keyplane_kms_healthy", Kind.GAUGE, "1 while Status says ok.")
PROBE_AGE: Final = Family(
    "keyplane_kms_probe_age_seconds",
    Kind.GAUGE,
    "Since the write key was last proved by a real encryption and decryption; +Inf before the "
    "first time.",
)
FROM_KEYRING: Final = Family(
    "keyplane_kms_serving_from_keyring",
    Kind.GAUGE,
    "1 while this process serves from its node's keyring, because it has not read the store.",
)
KEYRING: Final = Family(
    "keyplane_kms_keyring_available",
    Kind.GAUGE,
    "1 while the node's keyring can be read and written; without it this node could not start "
    "without the store.",
)
LOAD_FAULTS: Final = Family(
    "keyplane_kms_load_faults",
    Kind.GAUGE,
    "Live generations that this node cannot load; objects under them cannot be read here.",
)
KEY_ID: Final = Family(
    "keyplane_kms_key_id_info",
    Kind.GAUGE,
    "1 for the key_id that Status reports, named as in the API server's own metrics; absent "
    "while there is none.",
    ("provider_name", "key_id_hash"),
)
GENERATIONS: Final = Family(
    "keyplane_kms_generations",
    Kind.GAUGE,
    "Activations in the ledger, by state: pending, active, retired, released.",
    ("state",),
)
OUTAGE_POLICY: Final = Family(
    "keyplane_kms_outage_policy_info",
    Kind.GAUGE,
    "1 for the policy that is set, Coast or FailClosed.",
    ("policy",),
)
SEEDS_READABLE: Final = Family(
    "keyplane_kms_seeds_readable_seconds",
    Kind.GAUGE,
    "Only during an outage of the token: how long until the first, and the last, seed that this "
    "node has handed out leaves the API servers' caches of 24 hours, after which objects under "
    "it cannot be read.",
    ("which",),
)
KEY_EXPIRES: Final = Family(
    "keyplane_kms_key_expires_timestamp_seconds",
    Kind.GAUGE,
    "When the provider's key expires, in Unix time; absent for never.",
)
USES_RATIO: Final = Family(
    "keyplane_kms_uses_ratio",
    Kind.GAUGE,
    "Share of its uses that the key version which Encrypt uses has used up on all nodes, as of "
    "this node's last reservation; at 1 Encrypt is refused, so that no version ever makes 2^32 "
    "ciphertexts. 0 for less than a thousandth; absent without a version.",
)

REPORT: Final = (
    HEALTHY_NOW,
    PROBE_AGE,
    FROM_KEYRING,
    KEYRING,
    LOAD_FAULTS,
    KEY_ID,
    GENERATIONS,
    OUTAGE_POLICY,
    SEEDS_READABLE,
    KEY_EXPIRES,
    USES_RATIO,
)
"""All that a report tells of the provider itself."""


def follow_provider(metrics: Metrics, provider: str, report: Callable[[], KmsReport]) -> None:
    """Show what ``report``, which answers from memory, tells of the provider of this name."""
    metrics.follow(REPORT, lambda: _told(provider, report()))


def _told(provider: str, report: KmsReport) -> Mapping[Family, float | Values | None]:
    return {
        HEALTHY_NOW: report.status.healthz == HEALTHY,
        PROBE_AGE: report.probe_age_seconds,
        FROM_KEYRING: report.from_keyring,
        KEYRING: not report.keyring_fault,
        LOAD_FAULTS: len(report.faults),
        KEY_ID: _key_id(provider, report.status.key_id),
        GENERATIONS: {
            (state.value,): report.generations.get(state, 0) for state in ActivationState
        },
        OUTAGE_POLICY: {(report.outage.value,): 1},
        SEEDS_READABLE: _seeds_readable(report),
        KEY_EXPIRES: report.expires_at.timestamp() if report.expires_at else None,
        USES_RATIO: report.uses_ratio,
    }


def _key_id(provider: str, key_id: str) -> Values:
    """Show the key_id with the labels that kube-apiserver's own metrics give it."""
    return {(provider, key_id_hash(key_id)): 1} if key_id else {}


def _seeds_readable(report: KmsReport) -> Values:
    readable = report.seeds_readable
    if readable is None:
        return {}
    return {("first",): readable.first_seconds, ("last",): readable.last_seconds}
