"""Probes of any face: one document, by the rule that a restart must help when one fails."""

from __future__ import annotations

import json
from typing import Any

import pytest

from keycore.ports import AuditCondition, TokenCondition
from keycore.service.readiness import Finding, Outcome
from keywatch.audit import audit_finding
from keywatch.health import STALLED_SECONDS_MAX, Health, degraded_if, failed_if
from keywatch.outside import address_of_worker

WELL = TokenCondition()


def ready(findings: dict[str, Finding], query: str = "") -> tuple[int, dict[str, Any]]:
    """Return status and document of one probe."""
    answer = Health(lambda: WELL, lambda: findings).ready(query)
    return answer.status, json.loads(answer.body)


def live(condition: TokenCondition) -> tuple[int, dict[str, Any]]:
    answer = Health(lambda: condition, lambda: {"all": failed_if("everything is down")}).live("")
    return answer.status, json.loads(answer.body)


def test_a_failed_check_makes_it_unready_and_a_degraded_one_does_not() -> None:
    assert ready({"a": Finding(), "b": degraded_if("slow")}) == (
        200,
        {"status": "ok", "checks": {"a": "ok", "b": "degraded"}},
    )
    assert ready({"a": Finding(), "b": failed_if("gone")}) == (
        503,
        {"status": "failed", "checks": {"a": "ok", "b": "failed"}},
    )


def test_reasons_are_told_to_those_who_ask_for_them() -> None:
    findings = {"a": Finding(), "b": failed_if("gone")}

    assert "reasons" not in ready(findings)[1]
    assert ready(findings, "verbose")[1]["reasons"] == {"b": "gone"}
    assert ready(findings, "verbose=1")[1]["reasons"] == {"b": "gone"}


def test_without_a_fault_nothing_is_found() -> None:
    assert failed_if("") == degraded_if("") == Finding()


def test_only_a_call_that_never_comes_back_ends_the_life_of_the_process() -> None:
    hanging = TokenCondition("the token hangs", stalled_seconds=STALLED_SECONDS_MAX + 1)

    assert live(TokenCondition("gone", stalled_seconds=STALLED_SECONDS_MAX)) == (
        200,
        {"status": "ok"},
    )
    status, document = live(hanging)
    assert (status, document["status"]) == (503, "failed")
    assert "only a restart of this process heals it" in document["reason"]


@pytest.mark.parametrize(("strict", "outcome"), [(True, Outcome.FAILED), (False, Outcome.DEGRADED)])
def test_a_face_that_must_record_fails_without_its_log(strict: bool, outcome: Outcome) -> None:
    full = AuditCondition(fault="the disk is full")

    assert audit_finding(full, strict=strict) == Finding(outcome, "the disk is full")


def test_a_broken_chain_is_shown_and_stops_nobody() -> None:
    assert audit_finding(AuditCondition(broken="cut"), strict=True) == degraded_if("cut")
    assert audit_finding(AuditCondition(), strict=True) == Finding()


@pytest.mark.parametrize(
    ("address", "worker", "expected"),
    [
        ("127.0.0.1:28677", 0, "127.0.0.1:28677"),
        ("127.0.0.1:28677", 3, "127.0.0.1:28680"),
        ("[::1]:28677", 1, "[::1]:28678"),
        # Each takes a free one of its own.
        ("127.0.0.1:0", 2, "127.0.0.1:0"),
    ],
)
def test_each_worker_has_a_port_of_its_own(address: str, worker: int, expected: str) -> None:
    assert address_of_worker(address, worker) == expected
