"""The values schema refuses what cannot work, before anything is applied."""

from __future__ import annotations

from typing import Any

import pytest

from testbed.errors import CommandFailedError
from testbed.helm import Helm
from tests.integration.chart.values import CHART, POSTGRESQL, REST

pytestmark = pytest.mark.timeout(180, func_only=True)

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a misspelt value": ({"imgae": {}}, "'imgae' not allowed"),
    "a misspelt value further down": ({"rest": {"replica": 2}}, "'replica' not allowed"),
    "another store": ({"store": "mysql"}, "/store"),
    "a user that is root": ({"user": 0}, "/user"),
    "a log level that is none": ({"log": {"level": "loud"}}, "/log/level"),
    "PostgreSQL with a token of one host": (
        {**POSTGRESQL, "token": {"pinSecret": {"name": "hsm"}}},
        "/token/module",
    ),
    "PostgreSQL without a PIN": (
        {**POSTGRESQL, "token": {"module": "/opt/hsm.so"}},
        "/token/pinSecret/name",
    ),
    "PostgreSQL without a database": ({**POSTGRESQL, "postgresql": {}}, "/postgresql/secretName"),
    "REST without a certificate": ({"rest": {**REST, "tls": {}}}, "/rest/tls/secretName"),
    "REST without an issuer": ({"rest": {**REST, "issuers": []}}, "/rest/issuers"),
    "REST without a policy": ({"rest": {**REST, "policy": ""}}, "/rest/policy"),
    "an issuer without TLS": (
        {"rest": {**REST, "issuers": [{"name": "a", "url": "http://a", "audience": "b"}]}},
        "/rest/issuers/0/url",
    ),
    "an issuer with an unknown field": (
        {"rest": {**REST, "issuers": [{**REST["issuers"][0], "secret": "x"}]}},  # type: ignore[index]
        "'secret' not allowed",
    ),
    "no replica": ({**POSTGRESQL, "rest": {**REST, "replicas": 0}}, "/rest/replicas"),
    "an embedded installation that the chart shall make": (
        {"initialise": {"enabled": True}},
        "/initialise/enabled",
    ),
    "a state directory that is relative": ({"embedded": {"stateDir": "state"}}, "/embedded"),
    "a state directory that TOML or SoftHSM2 would split": (
        {"embedded": {"stateDir": "/a #b"}},
        "/embedded/stateDir",
    ),
    "a size without a unit": ({"persistence": {"size": "5"}}, "/persistence/size"),
    "a digest that is none": ({"image": {"digest": "sha256:1"}}, "/image/digest"),
    "a budget that lets nobody be disrupted": (
        {"podDisruptionBudget": {"maxUnavailable": 0}},
        "/podDisruptionBudget/maxUnavailable",
    ),
    "a runbook that no browser opens": (
        {"prometheusRule": {"runbookBase": "docs"}},
        "/prometheusRule/runbookBase",
    ),
    "imports from a namespace that cannot be": (
        {"imports": {"enabled": True, "namespaces": ["*"]}},
        "/imports/namespaces/0",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_value_that_cannot_work_is_refused_by_its_name(helm: Helm, what: str) -> None:
    values, name = REFUSED[what]

    with pytest.raises(CommandFailedError, match="don't meet the specifications") as refusal:
        helm.template(CHART, values)

    assert name in str(refusal.value)
