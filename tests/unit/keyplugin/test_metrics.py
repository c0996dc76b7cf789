"""What Prometheus is told, and that the documentation tells the same."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from keycore.domain.ids import ActivationId
from keycore.domain.providers import ActivationState
from keycore.ports import TokenCondition
from keycore.service.kms_health import KmsReport, KmsStatus, SeedsReadable
from keyplugin.metrics import ProviderMetrics
from tests.fakes.installation import FakeInstallation
from tests.unit.keyplugin.conftest import BindKey

DOCUMENT = Path(__file__).parents[3] / "docs" / "metrics.md"

ROW = r"^\| `([a-z_]+)` \| (counter|gauge|histogram) \|([^|]*)\|"

GONE = TokenCondition("the token is gone", stalled_seconds=2.5, lost=True)


@pytest.fixture
def report(here: FakeInstallation, bind_key: BindKey) -> KmsReport:
    """The report of a provider that is well."""
    bind_key()
    here.core.kms.refresh()
    return here.core.kms.report()


class Scraped:
    """All samples of one scrape."""

    def __init__(self, metrics: ProviderMetrics) -> None:
        self.text = metrics.render().decode()
        self.families = list(text_string_to_metric_families(self.text))
        self._samples = [sample for family in self.families for sample in family.samples]

    def of(self, name: str) -> list[Sample]:
        return [sample for sample in self._samples if sample.name == name]

    def value(self, name: str, **labels: str) -> float:
        """Return the value of the one sample of this name and these labels."""
        (found,) = [sample for sample in self.of(name) if sample.labels == labels]
        return found.value


def scrape(report: KmsReport, condition: TokenCondition = TokenCondition()) -> Scraped:  # noqa: B008
    metrics = ProviderMetrics()
    metrics.follow("keyplane", lambda: report, lambda: condition)
    return Scraped(metrics)


def test_a_well_provider_looks_well(report: KmsReport) -> None:
    scraped = scrape(report)

    assert scraped.value("keyplane_kms_healthy") == 1
    assert scraped.value("keyplane_kms_probe_age_seconds") == 0
    assert scraped.value("keyplane_kms_load_faults") == 0
    assert scraped.value("keyplane_kms_serving_from_keyring") == 0
    assert scraped.value("keyplane_kms_keyring_available") == 1
    assert scraped.value("keyplane_store_available") == 1
    assert scraped.value("keyplane_token_available") == 1
    assert scraped.value("keyplane_token_lost") == 0
    assert scraped.value("keyplane_token_stalled_seconds") == 0


def test_every_fault_can_be_seen(report: KmsReport) -> None:
    faulty = replace(
        report,
        status=KmsStatus("the token is gone", report.status.key_id),
        store_fault="away",
        keyring_fault="cannot be written",
        probe_age_seconds=float("inf"),
        refreshed_seconds_ago=7.0,
        faults={ActivationId("a"): "away"},
        from_keyring=True,
    )

    scraped = scrape(faulty, GONE)

    assert scraped.value("keyplane_kms_healthy") == 0
    assert scraped.value("keyplane_kms_probe_age_seconds") == float("inf")
    assert scraped.value("keyplane_kms_load_faults") == 1
    assert scraped.value("keyplane_kms_serving_from_keyring") == 1
    assert scraped.value("keyplane_kms_keyring_available") == 0
    assert scraped.value("keyplane_store_available") == 0
    assert scraped.value("keyplane_store_refresh_age_seconds") == 7
    assert scraped.value("keyplane_token_available") == 0
    assert scraped.value("keyplane_token_lost") == 1
    assert scraped.value("keyplane_token_stalled_seconds") == 2.5


def test_the_key_id_has_the_hash_that_the_apiserver_shows(report: KmsReport) -> None:
    expected = "sha256:" + hashlib.sha256(report.status.key_id.encode()).hexdigest()

    (sample,) = scrape(report).of("keyplane_kms_key_id_info")

    assert sample.labels == {"provider_name": "keyplane", "key_id_hash": expected}
    assert report.status.key_id not in scrape(report).text


def test_a_provider_without_a_key_has_no_key_id(report: KmsReport) -> None:
    assert (
        scrape(replace(report, status=KmsStatus("no key", ""))).of("keyplane_kms_key_id_info") == []
    )


def test_generations_are_counted_by_state_and_no_state_is_missing(report: KmsReport) -> None:
    counts = {ActivationState.ACTIVE: 1, ActivationState.RETIRED: 3}

    samples = scrape(replace(report, generations=counts)).of("keyplane_kms_generations")

    assert {sample.labels["state"]: sample.value for sample in samples} == {
        "pending": 0,
        "active": 1,
        "retired": 3,
        "released": 0,
    }


def test_during_an_outage_it_is_told_how_long_seeds_stay_readable(report: KmsReport) -> None:
    outage = replace(report, seeds_readable=SeedsReadable(60.0, 86_000.0))
    name = "keyplane_kms_seeds_readable_seconds"

    assert scrape(outage).value(name, which="first") == 60
    assert scrape(outage).value(name, which="last") == 86_000
    assert scrape(replace(report, seeds_readable=None)).of(name) == []


def test_the_expiry_of_the_key_is_told_when_there_is_one(report: KmsReport) -> None:
    name = "keyplane_kms_key_expires_timestamp_seconds"
    expires_at = datetime(2030, 1, 1, tzinfo=UTC)

    assert scrape(replace(report, expires_at=expires_at)).value(name) == expires_at.timestamp()
    assert scrape(report).of(name) == []


def test_uses_of_the_token_are_counted_by_operation_and_outcome() -> None:
    metrics = ProviderMetrics()
    for outcome in ("ok", "ok", "token_unavailable"):
        metrics.observe_token("decrypt", outcome, 0.004)

    scraped = Scraped(metrics)

    name = "keyplane_token_calls_total"
    assert scraped.value(name, operation="decrypt", outcome="ok") == 2
    assert scraped.value(name, operation="decrypt", outcome="token_unavailable") == 1
    seconds = "keyplane_token_call_seconds"
    assert scraped.value(f"{seconds}_bucket", operation="decrypt", le="0.0025") == 0
    assert scraped.value(f"{seconds}_bucket", operation="decrypt", le="0.005") == 3
    assert scraped.value(f"{seconds}_sum", operation="decrypt") == pytest.approx(0.012)


def test_a_scrape_calls_neither_token_nor_store(here: FakeInstallation, report: KmsReport) -> None:
    here.token.lost = here.store.lost = True
    metrics = ProviderMetrics()
    metrics.follow("keyplane", here.core.kms.report, here.core.token.condition)

    assert Scraped(metrics).value("keyplane_kms_healthy") == 1


def test_two_providers_in_one_process_do_not_meet() -> None:
    """Neither in a registry of their own nor in the library's global one."""
    first, second = ProviderMetrics(), ProviderMetrics()

    first.observe_token("sign", "ok", 0.001)

    assert Scraped(second).of("keyplane_token_calls_total") == []
    assert all(not family.name.startswith("keyplane") for family in REGISTRY.collect())


def test_the_document_and_the_registry_name_the_same_metrics_types_and_labels(
    report: KmsReport,
) -> None:
    rows = re.findall(ROW, DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    documented = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}

    assert documented == everything_there_is(report)


def everything_there_is(report: KmsReport) -> dict[str, tuple[str, set[str]]]:
    """Return type and labels of each metric of a provider to which everything has happened."""
    eventful = replace(
        report,
        seeds_readable=SeedsReadable(1.0, 2.0),
        expires_at=datetime(2030, 1, 1, tzinfo=UTC),
    )
    metrics = ProviderMetrics()
    metrics.follow("keyplane", lambda: eventful, lambda: GONE)
    metrics.observe_token("sign", "ok", 0.001)
    counter = metrics.call_counter(lambda: 0)
    counter._meter("/v2.KeyManagementService/Status")
    families = Scraped(metrics).families
    return {
        family.name + ("_total" if family.type == "counter" else ""): (
            family.type,
            {label for sample in family.samples for label in sample.labels} - {"le"},
        )
        for family in families
    }
