"""The registry of one process: what is counted, what is remembered, and nothing else."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from prometheus_client import REGISTRY

from keycore.ports import AuditCondition, TokenCondition
from keycore.settings import StoreSettings
from keywatch.audit import AUDIT, follow_audit
from keywatch.families import BUILD, PROCESS, Family, Kind, by_name
from keywatch.metrics import Metrics
from keywatch.store import STORE, follow_store
from keywatch.token import TOKEN, TokenUses, follow_token
from tests.scraping import Scraped, declared


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("rest")


def scrape(metrics: Metrics) -> Scraped:
    return Scraped(metrics.render())


def test_a_process_tells_its_version_and_its_face(metrics: Metrics) -> None:
    assert (
        scrape(metrics).value("keyplane_build_info", version=version("keyplane"), face="rest") == 1
    )


def test_a_new_registry_tells_of_build_and_process_alone(metrics: Metrics) -> None:
    assert scrape(metrics).described() == declared((BUILD, *PROCESS))


def test_two_registries_in_one_process_do_not_meet(metrics: Metrics) -> None:
    """Neither each other nor in the library's global one."""
    TokenUses(metrics).add("sign", "ok", 0.001)
    other = Metrics("operator")
    TokenUses(other)

    assert scrape(other).of("keyplane_token_calls_total") == []
    assert all(not family.name.startswith("keyplane") for family in REGISTRY.collect())


def test_nothing_is_told_of_a_family_of_which_nothing_is_known(metrics: Metrics) -> None:
    silent = Family("keyplane_test_silent", Kind.GAUGE, "Nothing.")
    missing = Family("keyplane_test_missing", Kind.GAUGE, "Nothing.")
    metrics.follow((silent, missing), lambda: {silent: None})

    assert scrape(metrics).of(silent.name) == scrape(metrics).of(missing.name) == []


def test_one_look_tells_all_families_of_a_group(metrics: Metrics) -> None:
    """Two looks could tell what never was true together."""
    looks = []
    one, two = (Family(f"keyplane_test_{name}", Kind.GAUGE, "A test.") for name in ("one", "two"))
    metrics.follow((one, two), lambda: {one: len(looks), two: looks.append(1) or len(looks)})

    scrape(metrics)

    assert len(looks) == 1


def test_a_family_is_told_once(metrics: Metrics) -> None:
    follow_audit(metrics, AuditCondition)

    with pytest.raises(ValueError, match="Duplicated"):
        follow_audit(metrics, AuditCondition)


def test_two_families_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two metrics have one name"):
        by_name((BUILD, Family(BUILD.name, Kind.COUNTER, "Another.")))


# --- the token ------------------------------------------------------------------


def test_uses_of_the_token_are_counted_and_timed_by_operation(metrics: Metrics) -> None:
    uses = TokenUses(metrics)
    for outcome in ("ok", "ok", "token_unavailable"):
        uses.add("decrypt", outcome, 0.004)

    scraped = scrape(metrics)

    calls, seconds = "keyplane_token_calls_total", "keyplane_token_call_seconds"
    assert scraped.value(calls, operation="decrypt", outcome="ok") == 2
    assert scraped.value(calls, operation="decrypt", outcome="token_unavailable") == 1
    assert scraped.value(f"{seconds}_bucket", operation="decrypt", le="0.0025") == 0
    assert scraped.value(f"{seconds}_bucket", operation="decrypt", le="0.005") == 3


@pytest.mark.parametrize(
    ("condition", "values"),
    [
        (TokenCondition(), (1, 0, 0)),
        (TokenCondition("gone", stalled_seconds=2.5, lost=True), (0, 1, 2.5)),
    ],
)
def test_the_condition_of_the_token_is_told(
    metrics: Metrics, condition: TokenCondition, values: tuple[float, ...]
) -> None:
    follow_token(metrics, lambda: condition)

    scraped = scrape(metrics)

    names = ("available", "lost", "stalled_seconds")
    assert tuple(scraped.value(f"keyplane_token_{name}") for name in names) == values


def test_all_families_of_the_token_are_declared(metrics: Metrics) -> None:
    TokenUses(metrics).add("sign", "ok", 0.001)
    follow_token(metrics, TokenCondition)

    assert scrape(metrics).described() == declared((BUILD, *PROCESS, *TOKEN))


# --- the store ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "engine"),
    [(StoreSettings(), "sqlite"), (StoreSettings(postgresql="host=secret-db"), "postgresql")],
)
def test_the_store_tells_its_engine_and_not_where_it_is(
    metrics: Metrics, settings: StoreSettings, engine: str
) -> None:
    follow_store(metrics, settings, fault=lambda: "", age_seconds=lambda: 0.0)

    scraped = scrape(metrics)

    assert scraped.label_values("keyplane_store_engine_info", "engine") == {engine}
    assert "secret-db" not in scraped.text


def test_a_store_that_does_not_answer_is_told_with_its_age(metrics: Metrics) -> None:
    follow_store(metrics, StoreSettings(), fault=lambda: "away", age_seconds=lambda: 7.0)

    scraped = scrape(metrics)

    assert scraped.value("keyplane_store_available") == 0
    assert scraped.value("keyplane_store_refresh_age_seconds") == 7
    assert scraped.described() == declared((BUILD, *PROCESS, *STORE))
    assert "away" not in scraped.text


# --- the audit log ---------------------------------------------------------------


def test_the_audit_log_tells_what_it_holds_and_has_lost(metrics: Metrics) -> None:
    follow_audit(metrics, lambda: AuditCondition(lines=9, lost=2, unsealed=3))

    scraped = scrape(metrics)

    assert scraped.value("keyplane_audit_lines_total") == 9
    assert scraped.value("keyplane_audit_lines_lost_total") == 2
    assert scraped.value("keyplane_audit_unsealed_lines") == 3
    assert scraped.value("keyplane_audit_available") == 1
    assert scraped.value("keyplane_audit_chain_broken") == 0
    assert scraped.described() == declared((BUILD, *PROCESS, *AUDIT))


def test_faults_of_the_audit_log_are_numbers_and_no_texts(metrics: Metrics) -> None:
    follow_audit(metrics, lambda: AuditCondition(fault="disk is full", broken="line 7 is missing"))

    scraped = scrape(metrics)

    assert scraped.value("keyplane_audit_available") == 0
    assert scraped.value("keyplane_audit_chain_broken") == 1
    assert "disk is full" not in scraped.text
    assert "line 7" not in scraped.text
