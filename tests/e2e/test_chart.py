"""The chart on a real API server: what it renders is taken, and its rights are just enough."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from testbed.binaries import Binaries
from testbed.cluster import Cluster
from testbed.errors import CommandFailedError
from testbed.helm import Helm, Manifest, find_or_build_helm
from testbed.waiting import wait_until
from tests.e2e.chart_pods import HOME, apply, rendered_account, rendered_rights, wait_for_crds
from tests.e2e.operator_world import NAMESPACE, WITHIN_SECONDS, World, key_manifest
from tests.integration.chart.values import CHART, SHAPES, of_kind

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180, func_only=True)]

RESTRICTED = "keyplane-restricted"

RELEASE = "released"
"""A release that helm itself has installed, and its namespace."""

GUIDE = CHART.parents[1] / "docs" / "install.md"

ACCOUNT = f"system:serviceaccount:{HOME}:keyplane-operator"

AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}

Right = tuple[str, str, str]
"""API group, resource with its subresource, and verb."""


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """The real helm."""
    return Helm(find_or_build_helm(), tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="module")
def audit_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the API server writes about every request."""
    return tmp_path_factory.mktemp("audit") / "audit.jsonl"


@pytest.fixture(scope="module")
def cluster(
    binaries: Binaries, audit_log: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """A cluster that knows Keys, because helm has installed a release there."""
    policy = audit_log.with_name("policy.json")
    policy.write_text(json.dumps(AUDIT_POLICY))
    flags = (f"--audit-policy-file={policy}", f"--audit-log-path={audit_log}")
    here = tmp_path_factory.mktemp("cluster")
    with Cluster(here, binaries, apiserver_flags=flags) as cluster:
        helm = Helm(find_or_build_helm(), here, kubeconfig=cluster.kubeconfig)
        own = ("--namespace", RELEASE, "--create-namespace")
        helm.run("install", RELEASE, CHART, *own, values=SHAPES["embedded with REST"])
        wait_for_crds(cluster)
        for name in (HOME, RESTRICTED, NAMESPACE, "team-a", "team-b"):
            cluster.kubectl("create", "namespace", name)
        label = "pod-security.kubernetes.io/enforce=restricted"
        cluster.kubectl("label", "namespace", RESTRICTED, label, label.replace("enforce", "warn"))
        yield cluster


# --- what helm does ---------------------------------------------------------------


@pytest.fixture
def releases(cluster: Cluster, tmp_path: Path) -> Helm:
    """A helm that talks to the cluster."""
    return Helm(find_or_build_helm(), tmp_path, kubeconfig=cluster.kubeconfig)


def objects_of(cluster: Cluster) -> set[str]:
    """Return every object that the release has in its namespace, as kind/name."""
    kinds = "deployments,statefulsets,services,configmaps,networkpolicies,poddisruptionbudgets"
    chosen = f"--selector=app.kubernetes.io/instance={RELEASE}"
    listed = cluster.kubectl("get", kinds, f"--namespace={RELEASE}", chosen, "--output=name")
    return {line.replace(".apps", "") for line in listed.split()}


def test_an_upgrade_may_change_the_shape_and_a_removal_leaves_crds_and_keys(
    cluster: Cluster, releases: Helm
) -> None:
    key = key_manifest("kept") | {"metadata": {"name": "kept", "namespace": RELEASE}}
    cluster.kubectl("create", "--filename=-", input=json.dumps(key))
    before = objects_of(cluster)
    values = {**SHAPES["postgresql with everything"], "extraVolumes": [], "extraVolumeMounts": []}
    releases.run("upgrade", RELEASE, CHART, "--namespace", RELEASE, values=values)
    after = objects_of(cluster)
    releases.run("uninstall", RELEASE, "--namespace", RELEASE)

    assert f"deployment/{RELEASE}-keyplane" in before - after
    assert f"statefulset/{RELEASE}-keyplane-rest" in after - before
    assert objects_of(cluster) == set()
    assert "deleted" in cluster.kubectl("delete", "key/kept", f"--namespace={RELEASE}")


def test_the_documented_line_renews_the_crds_that_helm_has_made(
    cluster: Cluster, releases: Helm
) -> None:
    line = re.compile(r"^helm (show crds) charts/keyplane \| kubectl (.*)$", re.MULTILINE)
    ((shown, applied),) = line.findall(GUIDE.read_text())
    crd = yaml.safe_load(releases.run(*shown.split(), CHART))
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema["description"] = "A field of the next release."

    renewed = cluster.kubectl(*applied.split(), input=json.dumps(crd))

    assert "serverside-applied" in renewed


# --- what the API server takes ----------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_the_api_server_takes_every_object_as_it_is(
    cluster: Cluster, helm: Helm, shape: str
) -> None:
    manifests = helm.template(CHART, SHAPES[shape], namespace=HOME)

    taken = apply(cluster, manifests, "--dry-run=server")

    assert taken.count("serverside-applied (server dry run)") == len(manifests)


def pods_of(manifests: Sequence[Manifest]) -> list[Manifest]:
    """Return every pod that controllers would make, and those that stand alone."""
    pods = []
    for owner in of_kind(manifests, "Pod", "Deployment", "StatefulSet"):
        if owner["kind"] == "Pod":
            pods.append(owner)
            continue
        spec = json.loads(json.dumps(owner["spec"]["template"]["spec"]))
        for claim in owner["spec"].get("volumeClaimTemplates", []):
            name = claim["metadata"]["name"]
            spec["volumes"].append({"name": name, "persistentVolumeClaim": {"claimName": name}})
        metadata = {"name": owner["metadata"]["name"], "namespace": owner["metadata"]["namespace"]}
        pods.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    return pods


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape.startswith("postgresql")])
def test_pods_on_postgresql_are_let_into_a_restricted_namespace(
    cluster: Cluster, helm: Helm, shape: str
) -> None:
    pods = pods_of(helm.template(CHART, SHAPES[shape], namespace=RESTRICTED))

    taken = apply(cluster, pods, "--dry-run=server")

    assert taken.count("serverside-applied (server dry run)") == len(pods) >= 2


def test_an_embedded_pod_breaks_the_restricted_profile_by_its_directories_alone(
    cluster: Cluster, helm: Helm
) -> None:
    manifests = helm.template(CHART, SHAPES["embedded with REST"], namespace=RESTRICTED)
    (pod,) = [pod for pod in pods_of(manifests) if pod["metadata"]["name"] == "keyplane"]

    with pytest.raises(CommandFailedError, match="violates PodSecurity") as refusal:
        apply(cluster, [pod], "--dry-run=server")
    for volume in pod["spec"]["volumes"]:
        if volume.pop("hostPath", None):
            volume["emptyDir"] = {}

    assert "hostPath" in str(refusal.value)
    assert "serverside-applied" in apply(cluster, [pod], "--dry-run=server")


# --- what the operator may do -----------------------------------------------------


@pytest.fixture(scope="module")
def world(
    cluster: Cluster, helm: Helm, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """The operator under the rendered account with the rendered roles, and nothing more."""
    here = tmp_path_factory.mktemp("operator")
    kubeconfig = rendered_account(cluster, helm, here / "kubeconfig")
    world = World(cluster, here, kubeconfig=kubeconfig)
    try:
        world.start()
        yield world
    finally:
        world.close()


def granted(manifests: Sequence[Manifest]) -> set[Right]:
    """Return every right that roles give."""
    return {
        (group, resource, verb)
        for role in of_kind(manifests, "ClusterRole", "Role")
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def requests_of(audit_log: Path, account: str) -> list[dict[str, Any]]:
    """Return the API server's audit events about objects that an account asked for."""
    events = [json.loads(line) for line in audit_log.read_text().splitlines() if line.endswith("}")]
    return [e for e in events if e["user"]["username"] == account and "objectRef" in e]


def right_of(event: dict[str, Any]) -> Right:
    """Return the right that a request needed."""
    about = event["objectRef"]
    resource = "/".join(filter(None, (about["resource"], about.get("subresource"))))
    return about.get("apiGroup", ""), resource, event["verb"]


def test_the_operator_uses_every_right_of_the_chart_and_needs_no_other(
    world: World, helm: Helm, audit_log: Path
) -> None:
    made = world.make("made")
    made.patch(rotation={"trigger": "now"})
    made.wait_until(lambda: made.status["currentVersion"] == 2, "is rotated")
    world.cluster.kubectl(
        "create",
        "secret",
        "generic",
        "material",
        f"--namespace={NAMESPACE}",
        f"--from-literal=key={'k' * 32}",
    )
    imported = world.make(
        "imported", **{"import": {"secretRef": {"name": "material", "key": "key"}}}
    )
    for key in (made, imported):
        key.delete()

    wanted = granted(rendered_rights(helm))
    wait_until(
        lambda: {right_of(event) for event in requests_of(audit_log, ACCOUNT)} >= wanted,
        what="the operator has used every right",
        within_seconds=WITHIN_SECONDS,
    )
    asked = requests_of(audit_log, ACCOUNT)

    assert {right_of(event) for event in asked} == wanted
    assert [event for event in asked if event["responseStatus"]["code"] == 403] == []


def test_a_right_that_is_taken_away_is_missed_by_its_name(world: World, helm: Helm) -> None:
    (role,) = of_kind(rendered_rights(helm), "ClusterRole")
    less = {**role, "rules": [r for r in role["rules"] if r["resources"] != ["namespaces"]]}
    apply(world.cluster, [less], "--force-conflicts")
    try:
        world.apply("unlucky").wait_for(Ready="ClusterForbidden")
    finally:
        apply(world.cluster, [role], "--force-conflicts")
    # It heals by itself as soon as the right is back.
    key = world.apply("unlucky")
    key.wait_for(Ready="True")
    key.delete()


def test_secrets_of_other_namespaces_are_closed_to_the_operator(world: World) -> None:
    def may_read(namespace: str) -> bool:
        try:
            answer = world.cluster.kubectl(
                "auth", "can-i", "get", "secrets", f"--namespace={namespace}", f"--as={ACCOUNT}"
            )
        except CommandFailedError:
            return False
        return answer.strip() == "yes"

    assert (may_read(NAMESPACE), may_read("team-a"), may_read(HOME)) == (True, False, False)


# --- the provider's static pod ----------------------------------------------------


@pytest.mark.parametrize("module", ["", 'module = "/opt/hsm.so"\npin_file = "/etc/hsm/pin"\n'])
def test_the_static_pod_of_node_files_is_one_that_the_api_server_takes(
    cluster: Cluster, tmp_path: Path, module: str
) -> None:
    config = tmp_path / "keyplane.toml"
    config.write_text(f'state_dir = "/var/lib/keyplane"\n[token]\n{module}')
    keyplane = (sys.executable, "-m", "keycli.main", "--config", str(config))
    command = (*keyplane, "node-files", "--kind", "static-pod", str(tmp_path / "node"))
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    file = tmp_path / "node" / "etc" / "kubernetes" / "manifests" / "keyplane-provider.yaml"
    pod = yaml.safe_load(file.read_text())

    taken = apply(cluster, [pod], "--dry-run=server")

    assert taken.count("serverside-applied (server dry run)") == 1
