"""What the chart makes of its values, in both shapes and with every option."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from keycore.settings import Settings, load_settings
from keyrest.policy import read_policy_document
from testbed.helm import Helm
from tests.integration.chart.conftest import Render
from tests.integration.chart.values import (
    CHART,
    POLICY,
    POSTGRESQL,
    REST,
    SHAPES,
    containers,
    of_kind,
    pod_specs,
    settings_text,
)

pytestmark = pytest.mark.timeout(180, func_only=True)

every_shape = pytest.mark.parametrize("shape", SHAPES)


@pytest.fixture(autouse=True)
def _no_settings_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("KEYPLANE_")]:
        monkeypatch.delenv(name)


def read_settings(text: str, directory: Path) -> Settings:
    """Read settings as the processes in the pods do."""
    file = directory / "keyplane.toml"
    file.write_text(text)
    return load_settings(file)


@pytest.mark.parametrize("shape", ["embedded", "postgresql with everything"])
def test_helm_finds_nothing_to_complain_about(helm: Helm, shape: str) -> None:
    assert "0 chart(s) failed" in helm.run("lint", "--strict", CHART, values=SHAPES[shape])


@every_shape
def test_the_settings_are_those_that_keyplane_takes(
    render: Render, shape: str, tmp_path: Path
) -> None:
    settings = read_settings(settings_text(render(SHAPES[shape])), tmp_path)

    asked = SHAPES[shape].get("rest", {})
    assert [issuer.name for issuer in settings.rest.issuers] == [
        issuer["name"] for issuer in asked.get("issuers", [])
    ]
    assert settings.rest.workers == asked.get("workers", 1)


def test_every_value_of_the_settings_reaches_them(render: Render, tmp_path: Path) -> None:
    values = {
        **POSTGRESQL,
        "log": {"level": "debug", "format": "console"},
        "providerName": "other",
        "operator": {"resync": "PT5S"},
        "token": {
            **POSTGRESQL["token"],
            "label": 'a "label"',
            "serial": "0123",
            "profile": "cbc-hmac",
            "parallelism": 8,
        },
        "rest": {**REST, "connectionsMax": 77, "requestsPerSecond": 1.5, "cluster": "c1"},
    }

    settings = read_settings(settings_text(render(values)), tmp_path)

    assert settings.model_dump(
        include={
            "log": True,
            "operator": {"resync"},
            "token": {"label", "serial", "profile", "parallelism", "pin_file"},
            "provider": {"name"},
            "rest": {"connections_max", "requests_per_second", "cluster"},
        },
        mode="json",
    ) == {
        "log": {"level": "debug", "format": "console"},
        "operator": {"resync": "PT5S"},
        "token": {
            "label": 'a "label"',
            "serial": "0123",
            "profile": "cbc-hmac",
            "parallelism": 8,
            "pin_file": "/run/keyplane-secrets/pin",
        },
        "provider": {"name": "other"},
        "rest": {"connections_max": 77, "requests_per_second": 1.5, "cluster": "c1"},
    }


def test_the_policy_is_one_that_rest_takes(render: Render, tmp_path: Path) -> None:
    (config,) = [c for c in render({"rest": REST}) if c["metadata"]["name"] == "keyplane-policy"]
    file = tmp_path / "policy.toml"
    file.write_text(config["data"]["policy.toml"])

    assert len(read_policy_document(file, ["corp"]).bindings) == POLICY.count("[[bindings]]")


@every_shape
def test_every_file_of_the_settings_is_mounted(render: Render, shape: str, tmp_path: Path) -> None:
    manifests = render(SHAPES[shape])
    paths = re.findall(
        r'"(/(?:run|etc)/keyplane[^"]*|/etc/keyplane/[^"]*)"', settings_text(manifests)
    )
    faces = [c for c in containers(manifests) if c.get("args", [""])[0] == "serve"]
    mounts = [m["mountPath"] for face in faces for m in face["volumeMounts"]]

    assert [path for path in paths if not any(path.startswith(f"{m}/") for m in mounts)] == []


@every_shape
def test_every_mounted_volume_is_there_and_none_besides(render: Render, shape: str) -> None:
    manifests = render(SHAPES[shape])
    for owner in of_kind(manifests, "Deployment", "StatefulSet"):
        spec = owner["spec"]["template"]["spec"]
        claims = owner["spec"].get("volumeClaimTemplates", [])
        there = {v["name"] for v in spec["volumes"]} | {c["metadata"]["name"] for c in claims}
        every = [*spec.get("initContainers", []), *spec["containers"]]
        mounted = {m["name"] for c in every for m in c["volumeMounts"]}

        assert mounted == there


@every_shape
def test_services_and_policies_select_pods_and_ports_that_exist(render: Render, shape: str) -> None:
    manifests = render(SHAPES[shape])
    templates = [m["spec"]["template"] for m in of_kind(manifests, "Deployment", "StatefulSet")]

    def ports_of(selector: dict[str, str]) -> set[str]:
        chosen = [t for t in templates if selector.items() <= t["metadata"]["labels"].items()]
        assert len(chosen) == 1
        return {p["name"] for c in chosen[0]["spec"]["containers"] for p in c["ports"]}

    for service in of_kind(manifests, "Service"):
        wanted = {port["targetPort"] for port in service["spec"]["ports"]}
        assert wanted <= ports_of(service["spec"]["selector"])
    for policy in of_kind(manifests, "NetworkPolicy"):
        let_in = {p["port"] for rule in policy["spec"]["ingress"] for p in rule["ports"]}
        assert let_in == ports_of(policy["spec"]["podSelector"]["matchLabels"])


def test_an_embedded_installation_is_one_pod_on_a_control_plane_node(render: Render) -> None:
    (owner,) = of_kind(render(SHAPES["embedded"]), "Deployment", "StatefulSet")
    spec = owner["spec"]["template"]["spec"]

    assert (owner["spec"]["replicas"], owner["spec"]["strategy"]) == (1, {"type": "Recreate"})
    assert spec["nodeSelector"] == {"node-role.kubernetes.io/control-plane": ""}
    assert spec["tolerations"][0]["key"] == "node-role.kubernetes.io/control-plane"


def test_the_state_of_a_node_has_its_own_path_in_the_pod(render: Render) -> None:
    values = {"embedded": {"stateDir": "/srv/keyplane", "node": "cp-1"}}
    manifests = render(values)
    (spec, _test) = pod_specs(manifests)

    assert 'state_dir = "/srv/keyplane"' in settings_text(manifests)
    assert {"name": "state", "mountPath": "/srv/keyplane"} in spec["containers"][0]["volumeMounts"]
    assert spec["nodeSelector"]["kubernetes.io/hostname"] == "cp-1"


def test_on_postgresql_there_is_one_operator_and_as_many_rest_pods_as_asked(
    render: Render,
) -> None:
    values = {**POSTGRESQL, "rest": {**REST, "replicas": 5}}
    owners = of_kind(render(values), "Deployment", "StatefulSet")

    assert {owner["metadata"]["name"]: owner["spec"]["replicas"] for owner in owners} == {
        "keyplane-operator": 1,
        "keyplane-rest": 5,
    }
    assert all(o["spec"]["volumeClaimTemplates"][0]["metadata"]["name"] == "state" for o in owners)


def test_only_the_operator_makes_an_installation_and_only_when_asked(render: Render) -> None:
    def joins(*, asked: bool) -> dict[str, str]:
        values = {**POSTGRESQL, "rest": REST, "initialise": {"enabled": asked}}
        return {
            owner["metadata"]["name"]: json.dumps(container["args"])
            for owner in of_kind(render(values), "StatefulSet")
            for container in owner["spec"]["template"]["spec"]["initContainers"]
            if container["name"] == "join"
        }

    assert [name for name, line in joins(asked=True).items() if "keyplane init" in line] == [
        "keyplane-operator"
    ]
    assert set(joins(asked=False).values()) == {'["join", "--again"]'}


def test_what_is_not_said_is_two_rest_pods_with_two_gibibytes_each(render: Render) -> None:
    (_operator, rest) = of_kind(render({**POSTGRESQL, "rest": REST}), "StatefulSet")
    (claim,) = rest["spec"]["volumeClaimTemplates"]

    assert rest["spec"]["replicas"] == 2
    assert claim["spec"]["resources"] == {"requests": {"storage": "2Gi"}}


def test_a_disruption_budget_is_for_several_replicas_only(render: Render) -> None:
    def budgets(replicas: int) -> int:
        values = {**POSTGRESQL, "rest": {**REST, "replicas": replicas}}
        return len(of_kind(render(values), "PodDisruptionBudget"))

    assert (budgets(1), budgets(2)) == (0, 1)


def test_pods_start_anew_when_their_settings_change(render: Render) -> None:
    def mark(level: str) -> Any:
        (owner,) = of_kind(render({"log": {"level": level}}), "Deployment")
        return owner["spec"]["template"]["metadata"]["annotations"]["keyplane.dev/settings"]

    assert mark("info") != mark("debug")


def test_helm_test_asks_every_process_whether_it_is_ready(render: Render) -> None:
    (pod,) = of_kind(render(SHAPES["postgresql with everything"]), "Pod")
    _script, *asked = pod["spec"]["containers"][0]["args"]
    services = of_kind(render(SHAPES["postgresql with everything"]), "Service")
    every_pod = {s["metadata"]["name"] for s in services if s["spec"].get("clusterIP") == "None"}

    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert asked == [
        "keyplane-operator-metrics:28676",
        "keyplane-rest-metrics:28677",
        "keyplane-rest-metrics:28678",
    ]
    assert {word.partition(":")[0] for word in asked} == every_pod


@every_shape
def test_the_test_runs_where_the_operator_may_run(render: Render, shape: str) -> None:
    def place(spec: dict[str, Any]) -> tuple[Any, Any]:
        return spec.get("nodeSelector"), spec.get("tolerations")

    *owners, test = pod_specs(render(SHAPES[shape]))

    # A cluster of one node has no other place than the control plane.
    assert {json.dumps(place(spec)) for spec in owners} == {json.dumps(place(test))}


def test_pods_on_postgresql_have_names_of_their_own_in_the_audit(render: Render) -> None:
    values = {**POSTGRESQL, "rest": REST}
    ours = [c for c in containers(render(values)) if c["name"] in {"join", "operator", "rest"}]

    assert len(ours) == 4
    for container in ours:
        environment = {entry["name"]: entry for entry in container["env"]}
        pod = environment["POD_NAME"]["valueFrom"]["fieldRef"]["fieldPath"]
        assert pod == "metadata.name"
        # Names of pods are given twice where there are two namespaces.
        assert environment["KEYPLANE_PROVIDER__NODE"]["value"] == "$(POD_NAME).keyplane-system"


def test_an_embedded_pod_is_its_node_in_the_audit(render: Render) -> None:
    (operator,) = [c for c in containers(render({})) if c["name"] == "operator"]

    assert operator["env"] == [
        {
            "name": "KEYPLANE_PROVIDER__NODE",
            "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}},
        }
    ]
