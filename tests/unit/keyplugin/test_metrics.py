"""What Prometheus is told about the provider."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from prometheus_client import REGISTRY

from keycore.domain.ids import ActivationId
from keycore.domain.providers import ActivationState
from keycore.ports import AuditCondition, TokenCondition
from keycore.service.kms_health import KmsReport, KmsStatus, SeedsReadable
from keycore.service.use_budget import RESERVED_MAX
from keycore.settings import StoreSettings
from keyplugin.metrics import FAMILIES, ProviderMetrics
from tests.fakes.installation import FakeInstallation
from tests.scraping import Scraped, declared
from tests.unit.keyplugin.conftest import BindKey

GONE = TokenCondition("the token is gone", stalled_seconds=2.5, lost=True)


@pytest.fixture
def report(here: FakeInstallation, bind_key: BindKey) -> KmsReport:
    """The report of a provider that is well."""
    bind_key()
    here.core.kms.refresh()
    return here.core.kms.report()


def scrape(report: KmsReport, condition: TokenCondition = TokenCondition()) -> Scraped:  # noqa: B008
    metrics = ProviderMetrics()
    follow(metrics, lambda: report, lambda: condition)
    return Scraped(metrics.render())


def follow(
    metrics: ProviderMetrics,
    report: Callable[[], KmsReport],
    condition: Callable[[], TokenCondition],
) -> None:
    """Show the provider ``keyplane`` on SQLite, with an audit log that is well."""
    metrics.follow("keyplane", report, condition, store=StoreSettings(), audit=AuditCondition)


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


def test_the_uses_of_the_write_version_are_told_as_a_share_when_they_are_known(
    report: KmsReport,
) -> None:
    name = "keyplane_kms_uses_ratio"

    assert scrape(replace(report, uses_ratio=0.25)).value(name) == 0.25
    assert scrape(replace(report, uses_ratio=None)).of(name) == []


def test_the_share_of_uses_is_what_the_store_has_granted(
    here: FakeInstallation, report: KmsReport
) -> None:
    active, keeper = here.core.kms.outlook().key_id, here.core.kms._keeper
    version_id = keeper.ledger.generations[ActivationId(active)].version.id
    here.store._tables.uses[version_id] = RESERVED_MAX // 4
    keeper._budget._reserve(version_id)
    granted = here.store.uses([version_id])[version_id]

    assert granted > RESERVED_MAX // 4
    assert here.core.kms.report().uses_ratio == granted / RESERVED_MAX


def test_uses_of_the_token_are_counted_by_operation_and_outcome() -> None:
    metrics = ProviderMetrics()
    for outcome in ("ok", "ok", "token_unavailable"):
        metrics.observe_token("decrypt", outcome, 0.004)

    scraped = Scraped(metrics.render())

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
    follow(metrics, here.core.kms.report, here.core.token.condition)

    assert Scraped(metrics.render()).value("keyplane_kms_healthy") == 1


def test_two_providers_in_one_process_do_not_meet() -> None:
    """Neither in a registry of their own nor in the library's global one."""
    first, second = ProviderMetrics(), ProviderMetrics()

    first.observe_token("sign", "ok", 0.001)

    assert Scraped(second.render()).of("keyplane_token_calls_total") == []
    assert all(not family.name.startswith("keyplane") for family in REGISTRY.collect())


def test_everything_that_is_shown_is_declared_and_everything_declared_is_shown(
    report: KmsReport,
) -> None:
    assert everything_there_is(report).described() == declared(FAMILIES)


def everything_there_is(report: KmsReport) -> Scraped:
    """Scrape a provider to which everything has happened."""
    eventful = replace(
        report,
        seeds_readable=SeedsReadable(1.0, 2.0),
        expires_at=datetime(2030, 1, 1, tzinfo=UTC),
    )
    metrics = ProviderMetrics()
    follow(metrics, lambda: eventful, lambda: GONE)
    metrics.observe_token("sign", "ok", 0.001)
    counter = metrics.call_counter(lambda: 0)
    counter._meter("/v2.KeyManagementService/Status")
    return Scraped(metrics.render())
