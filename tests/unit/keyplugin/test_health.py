"""Probes are answered from memory, by the rule that a restart must help when they fail."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from keycore.domain.ids import ActivationId
from keycore.ports import AuditCondition, TokenCondition
from keycore.service.kms import HEALTHY
from keycore.service.kms_health import PROBE_MAX_AGE_SECONDS, KmsReport, KmsStatus
from keyplugin.health import provider_health
from keywatch.health import STALLED_SECONDS_MAX
from tests.fakes.installation import FakeInstallation
from tests.unit.keyplugin.conftest import BindKey

WELL = TokenCondition()
GONE = TokenCondition(fault="the token is gone", lost=True)


@pytest.fixture
def report(here: FakeInstallation, bind_key: BindKey) -> KmsReport:
    """The report of a provider that is well."""
    bind_key()
    here.core.kms.refresh()
    return here.core.kms.report()


def ready(
    report: KmsReport, condition: TokenCondition = WELL, query: str = ""
) -> tuple[int, dict[str, Any]]:
    """Return status and document of one probe."""
    answer = provider_health(lambda: report, lambda: condition, AuditCondition).ready(query)
    assert answer.content_type == "application/json"
    return answer.status, json.loads(answer.body)


def live(condition: TokenCondition, report: KmsReport) -> tuple[int, dict[str, Any]]:
    answer = provider_health(lambda: report, lambda: condition, AuditCondition).live("")
    return answer.status, json.loads(answer.body)


def test_a_well_provider_is_ready_and_names_every_check(report: KmsReport) -> None:
    status, document = ready(report)

    assert status == 200
    assert document == {
        "status": "ok",
        "checks": dict.fromkeys(["token", "store", "keyring", "key", "probe", "audit"], "ok"),
    }


def test_a_token_with_a_fault_makes_it_unready(report: KmsReport) -> None:
    status, document = ready(report, GONE)

    assert status == 503
    assert (document["status"], document["checks"]["token"]) == ("failed", "failed")


def test_a_store_that_is_away_is_shown_and_leaves_it_ready(report: KmsReport) -> None:
    """It serves on, and a restart would only take away what it still knows."""
    status, document = ready(replace(report, store_fault="the store is away"))

    assert status == 200
    assert (document["status"], document["checks"]["store"]) == ("ok", "degraded")


def test_a_keyring_that_cannot_be_used_is_shown_and_leaves_it_ready(report: KmsReport) -> None:
    status, document = ready(replace(report, keyring_fault="cannot be written"))

    assert (status, document["checks"]["keyring"]) == (200, "degraded")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"status": KmsStatus("no key", "")}, id="no key"),
        pytest.param({"status": KmsStatus("the record was changed", "a")}, id="record"),
        pytest.param({"faults": {ActivationId("a"): "cannot be loaded"}}, id="not loaded"),
    ],
)
def test_a_key_that_cannot_be_served_makes_it_unready(
    report: KmsReport, change: dict[str, Any]
) -> None:
    status, document = ready(replace(report, **change))

    assert (status, document["checks"]["key"]) == (503, "failed")


def test_a_proof_may_be_as_old_as_status_allows_and_no_older(report: KmsReport) -> None:
    fresh = replace(report, probe_age_seconds=PROBE_MAX_AGE_SECONDS)
    old = replace(report, probe_age_seconds=PROBE_MAX_AGE_SECONDS + 0.1)

    assert ready(fresh)[0] == 200
    assert (ready(old)[0], ready(old)[1]["checks"]["probe"]) == (503, "failed")


@pytest.mark.parametrize("condition", [AuditCondition(fault="full"), AuditCondition(broken="cut")])
def test_an_audit_log_with_a_fault_is_shown_and_leaves_it_ready(
    report: KmsReport, condition: AuditCondition
) -> None:
    """Secrets must be readable on a full disk."""
    answer = provider_health(lambda: report, lambda: WELL, lambda: condition).ready("verbose")
    document = json.loads(answer.body)

    assert (answer.status, document["checks"]["audit"]) == (200, "degraded")
    assert document["reasons"] == {"audit": condition.fault or condition.broken}


def test_reasons_are_told_to_those_who_ask_for_them(report: KmsReport) -> None:
    away = replace(report, store_fault="the store is away")

    assert "reasons" not in ready(away, GONE)[1]
    assert ready(away, GONE, "verbose")[1]["reasons"] == {
        "token": "the token is gone",
        "store": "the store is away",
    }


def test_a_provider_that_has_not_read_anything_is_not_ready(here: FakeInstallation) -> None:
    assert ready(here.core.kms.report())[0] == 503


@pytest.mark.parametrize("fault", ["none", "token", "key", "store"])
def test_it_is_ready_exactly_while_status_says_ok(
    here: FakeInstallation, bind_key: BindKey, fault: str
) -> None:
    if fault != "key":
        bind_key()
    here.core.kms.refresh()
    here.token.lost = fault == "token"
    here.store.lost = fault == "store"
    here.clock.advance(seconds=PROBE_MAX_AGE_SECONDS / 2)
    here.core.kms.refresh()

    health = provider_health(here.core.kms.report, here.core.token.condition, AuditCondition)
    is_ready = health.ready("").status == 200

    assert is_ready == (here.core.kms.outlook().healthz == HEALTHY)


def test_only_a_call_that_never_comes_back_ends_the_life_of_the_process(
    report: KmsReport,
) -> None:
    slow = TokenCondition("the token hangs", stalled_seconds=STALLED_SECONDS_MAX)
    hanging = replace(slow, stalled_seconds=STALLED_SECONDS_MAX + 1)

    assert live(slow, report) == (200, {"status": "ok"})
    assert live(GONE, replace(report, store_fault="away"))[0] == 200
    status, document = live(hanging, report)
    assert (status, document["status"]) == (503, "failed")
    assert "only a restart of this process heals it" in document["reason"]


def test_no_probe_calls_token_or_store(here: FakeInstallation, bind_key: BindKey) -> None:
    bind_key()
    here.core.kms.refresh()
    here.token.lost = here.store.lost = True

    health = provider_health(here.core.kms.report, here.core.token.condition, AuditCondition)

    assert (health.live("").status, health.ready("verbose").status) == (200, 200)
