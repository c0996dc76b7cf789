"""What every pod of the chart may not do, whatever the values are."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.e2e.operator_world import REFERENCE, documents
from tests.integration.chart.conftest import Render
from tests.integration.chart.values import (
    SHAPES,
    containers,
    of_kind,
    pod_specs,
)

PROBES = {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}

pytestmark = [
    pytest.mark.timeout(180, func_only=True),
    pytest.mark.parametrize("shape", SHAPES),
]


def test_no_container_can_be_root_or_become_it(render: Render, shape: str) -> None:
    for spec in pod_specs(render(SHAPES[shape])):
        context = spec["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] == context["runAsGroup"] == 28674
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(render(SHAPES[shape])):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_no_pod_shares_anything_of_its_node_but_keyplanes_directories(
    render: Render, shape: str
) -> None:
    embedded = SHAPES[shape].get("store", "embedded") == "embedded"
    for spec in pod_specs(render(SHAPES[shape])):
        assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"}
        shared = [v["name"] for v in spec.get("volumes", []) if "hostPath" in v]
        assert set(shared) <= ({"state", "socket"} if embedded else set())


def test_every_container_says_what_it_needs(render: Render, shape: str) -> None:
    for container in containers(render(SHAPES[shape])):
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]


def test_every_face_is_probed(render: Render, shape: str) -> None:
    faces = [c for c in containers(render(SHAPES[shape])) if c.get("args", [""])[0] == "serve"]
    for face in faces:
        ports = {p["containerPort"] for p in face["ports"] if "metrics" in p["name"]}
        for probe, path in PROBES.items():
            assert asked_by(face, probe) == (path, ports)


def asked_by(face: dict[str, Any], probe: str) -> tuple[str, set[int]]:
    """Return the path that a probe asks for, and the ports."""
    asks = face[probe]
    if "exec" in asks:
        path, *ports = asks["exec"]["command"][4:]
        return path, {int(port) for port in ports}
    names = {port["name"]: port["containerPort"] for port in face["ports"]}
    return asks["httpGet"]["path"], {names[asks["httpGet"]["port"]]}


def test_the_operators_token_is_mounted_by_those_alone_that_need_it(
    render: Render, shape: str
) -> None:
    manifests = render(SHAPES[shape])
    holders = Counter(
        container["name"]
        for container in containers(manifests)
        for mount in container.get("volumeMounts", [])
        if mount["name"] == "account"
    )
    asked = SHAPES[shape].get("rest", {}).get("serviceAccountToken", False)

    assert holders == Counter(["operator", "rest"] if asked else ["operator"])
    assert all(spec["automountServiceAccountToken"] is False for spec in pod_specs(manifests))
    assert all(not a["automountServiceAccountToken"] for a in of_kind(manifests, "ServiceAccount"))


def test_no_right_is_a_wildcard(render: Render, shape: str) -> None:
    for role in of_kind(render(SHAPES[shape]), "ClusterRole", "Role"):
        for rule in role["rules"]:
            assert "*" not in {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}


def test_the_operator_has_the_documented_rights_and_no_others(render: Render, shape: str) -> None:
    (documented,) = [found for found in documents(REFERENCE) if found["kind"] == "ClusterRole"]
    imports = SHAPES[shape].get("imports", {})
    everywhere = imports.get("enabled", False) and not imports.get("namespaces")
    wanted = [
        rule for rule in documented["rules"] if everywhere or rule["resources"] != ["secrets"]
    ]
    (role,) = of_kind(render(SHAPES[shape]), "ClusterRole")

    assert role["rules"] == wanted


def test_secrets_are_read_in_the_namespaces_that_are_named(render: Render, shape: str) -> None:
    roles = of_kind(render(SHAPES[shape]), "Role")
    named = SHAPES[shape].get("imports", {}).get("namespaces", [])

    assert [role["metadata"]["namespace"] for role in roles] == named
    assert all(role["rules"][0]["resources"] == ["secrets"] for role in roles)


def test_rest_on_postgresql_has_an_account_without_rights(render: Render, shape: str) -> None:
    manifests = render(SHAPES[shape])
    subjects = {
        subject["name"]
        for binding in of_kind(manifests, "ClusterRoleBinding", "RoleBinding")
        for subject in binding["subjects"]
    }

    assert {name for name in subjects if not name.endswith("-operator")} == set()
    for owner in of_kind(manifests, "StatefulSet"):
        account = owner["spec"]["template"]["spec"]["serviceAccountName"]
        assert account == owner["metadata"]["name"]


def test_pin_and_password_are_files_of_our_own_in_memory(render: Render, shape: str) -> None:
    for spec in pod_specs(render(SHAPES[shape])):
        copied = [v for v in spec.get("volumes", []) if v["name"] == "secrets"]
        assert all(volume["emptyDir"]["medium"] == "Memory" for volume in copied)
        # The Secrets themselves are seen by the one container alone that copies them.
        for container in spec["containers"]:
            seen = {mount["name"] for mount in container.get("volumeMounts", [])}
            assert not seen & {"pin", "postgresql-password"}


def test_no_value_of_a_secret_stands_in_a_manifest(render: Render, shape: str) -> None:
    assert of_kind(render(SHAPES[shape]), "Secret") == []


def test_traffic_is_closed_unless_it_is_named(render: Render, shape: str) -> None:
    asked = SHAPES[shape].get("networkPolicy", {}).get("enabled", True)
    policies = of_kind(render(SHAPES[shape]), "NetworkPolicy")

    assert bool(policies) is asked
    for policy in policies:
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
        assert all(rule["ports"] for rule in policy["spec"]["egress"])
        assert all(rule["ports"] for rule in policy["spec"]["ingress"])
