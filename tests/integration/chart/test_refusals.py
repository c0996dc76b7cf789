"""The chart refuses what cannot work, before anything is applied: its schema and its templates."""

from __future__ import annotations

import re
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
    "as many workers as the setting would take": ({"rest": {"workers": 17}}, "/rest/workers"),
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


UNFIT: dict[str, tuple[dict[str, Any], str]] = {
    "a database of an embedded installation": (
        {"postgresql": {"secretName": "database"}},
        "set store to postgresql, or leave postgresql out",
    ),
    "a volume of an embedded installation": (
        {"persistence": {"size": "2Gi"}},
        "set store to postgresql, or leave persistence out",
    ),
    "a class of volumes of an embedded installation": (
        {"persistence": {"storageClassName": "fast"}},
        "set store to postgresql, or leave persistence out",
    ),
    "replicas of an embedded installation": (
        {"rest": {**REST, "replicas": 2}},
        "rest.replicas is of the postgresql shape",
    ),
    "a node of an installation on PostgreSQL": (
        {**POSTGRESQL, "embedded": {"node": "cp-1"}},
        "nodeSelector chooses nodes",
    ),
    "namespaces without imports": (
        {"imports": {"namespaces": ["team-a"]}},
        "imports.enabled is false: set it to true",
    ),
    "a name that no object can have": ({"nameOverride": "UPPER"}, "set fullnameOverride"),
    "a name that no label can have": (
        {"nameOverride": "a b", "fullnameOverride": "keys"},
        "nameOverride cannot be a label",
    ),
    "a policy that is no TOML": (
        {"rest": {**REST, "policy": "garbage [["}},
        "try it with keyplane policy check",
    ),
}


@pytest.mark.parametrize("what", UNFIT)
def test_values_that_do_not_go_together_are_refused_with_what_to_do(helm: Helm, what: str) -> None:
    values, remedy = UNFIT[what]

    with pytest.raises(CommandFailedError, match="values that do not work") as refusal:
        helm.template(CHART, values)

    assert remedy in str(refusal.value)


def test_every_fault_is_named_at_once(helm: Helm) -> None:
    values = {"persistence": {"size": "2Gi"}, "imports": {"namespaces": ["team-a"]}}

    with pytest.raises(CommandFailedError) as refusal:
        helm.template(CHART, values)

    assert "persistence is of" in str(refusal.value)
    assert "imports.namespaces lets" in str(refusal.value)


def test_a_release_whose_name_no_object_can_have_is_refused(helm: Helm) -> None:
    with pytest.raises(CommandFailedError, match="set fullnameOverride"):
        helm.template(CHART, name="2.keys")


OWN_VARIABLES = (
    "KEYPLANE_PROVIDER__NODE",
    # The settings take small letters too, and a section as one text.
    "keyplane_provider__node",
    "KEYPLANE_PROVIDER",
    "KEYPLANE_CONFIG",
    "KEYPLANE_STATE_DIR",
    "KEYPLANE_STORE__POSTGRESQL",
    "KEYPLANE_REST__WORKERS",
    "KEYPLANE_REST__TLS__KEY",
    "POD_NAME",
)


def test_no_further_variable_takes_the_place_of_one_of_the_charts(helm: Helm) -> None:
    extra = [{"name": name, "value": "x"} for name in OWN_VARIABLES]

    with pytest.raises(CommandFailedError) as refusal:
        helm.template(CHART, {**POSTGRESQL, "rest": REST, "extraEnv": extra})

    named = re.findall(r"extraEnv may not have (\S+),", str(refusal.value))
    assert named == [name.upper() for name in OWN_VARIABLES]


def test_settings_that_have_no_value_are_free(helm: Helm) -> None:
    names = ("KEYPLANE_STORE__DEADLINE", "KEYPLANE_OPERATOR__KUBECONFIG", "SOFTHSM2_CONF")
    extra = [{"name": name, "value": "x"} for name in names]

    assert helm.template(CHART, {**POSTGRESQL, "extraEnv": extra})
