"""First installs of both shapes: the rendered pods as processes, on real parts."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from keycore.settings import Settings
from testbed.authority import Authority
from testbed.binaries import Binaries
from testbed.cluster import Cluster
from testbed.helm import Helm, Values, find_or_build_helm
from testbed.keyplane import KeyplaneInstallation
from testbed.loopback import HOST
from testbed.postgresql import PostgreSql
from testbed.waiting import wait_until
from tests.e2e.chart_pods import (
    HOME,
    NODE,
    Files,
    Host,
    HostedPod,
    install_crds,
    ports_of,
    rendered_account,
)
from tests.e2e.operator_world import NAMESPACE, key_manifest
from tests.integration.chart.values import CHART, REST, of_kind

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180, func_only=True)]

PIN = "123456"

WITHIN_SECONDS = 60.0

PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """The real helm."""
    return Helm(find_or_build_helm(), tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="module")
def cluster(binaries: Binaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster that knows Keys."""
    with Cluster(tmp_path_factory.mktemp("cluster"), binaries) as cluster:
        install_crds(cluster)
        for name in (HOME, NAMESPACE):
            cluster.kubectl("create", "namespace", name)
        yield cluster


@pytest.fixture(scope="module")
def hsm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a SoftHSM2 token that all pods reach."""
    here = tmp_path_factory.mktemp("hsm")
    (here / "tokens").mkdir()
    config = here / "softhsm2.conf"
    config.write_text(f"directories.tokendir = {here / 'tokens'}\n")
    init = ("softhsm2-util", "--init-token", "--free", "--label", "keyplane")
    subprocess.run(
        (*init, "--pin", PIN, "--so-pin", "654321"),
        env={**os.environ, "SOFTHSM2_CONF": str(config)},
        check=True,
        capture_output=True,
    )
    return config


@pytest.fixture
def host(
    cluster: Cluster, helm: Helm, hsm: Path, postgresql: PostgreSql, tmp_path: Path
) -> Iterator[Host]:
    """What the pods of a first install find: objects, Secrets, database and HSM."""
    kubeconfig = rendered_account(cluster, helm, tmp_path / "kubeconfig")
    values = {
        "store": "postgresql",
        "listenAddress": HOST,
        "initialise": {"enabled": True, "namespace": NAMESPACE},
        "token": {"module": str(Settings().module), "pinSecret": {"name": "hsm"}},
        "postgresql": {"secretName": "database"},
        "extraEnv": [
            {"name": "SOFTHSM2_CONF", "value": str(hsm)},
            {"name": "KEYPLANE_OPERATOR__KUBECONFIG", "value": str(kubeconfig)},
        ],
        "rest": {**rest_values(cluster, tmp_path), "workers": 2},
    }
    manifests = helm.template(CHART, values, namespace=HOME)
    secrets = {
        "hsm": {"pin": PIN},
        "database": {
            "connection": postgresql.create_database("chart_install"),
            "password": postgresql.password_file.read_text(),
        },
        "tls": certificate(tmp_path),
    }
    yield Host(manifests, secrets, tmp_path / "pods", ports_of(manifests))
    postgresql.drop_database("chart_install")


def rest_values(cluster: Cluster, directory: Path) -> Values:
    """Return the values of a REST face whose callers this cluster proves."""
    credential = directory / "credential"
    credential.write_text(cluster.kubectl("create", "token", "default", f"--namespace={HOME}"))
    issuer = {
        "name": "corp",
        "url": cluster.server,
        "audience": "keyplane",
        "ca_file": str(cluster.apiservers[0].ca),
        "credential_file": str(credential),
    }
    return {**REST, "issuers": [issuer]}


def certificate(directory: Path) -> Files:
    """Return the entries of a Secret with a certificate for REST."""
    tls = Authority(directory / "authority").server("rest")
    return {"tls.crt": tls.certificate.read_text(), "tls.key": tls.key.read_text()}


def helm_test(host: Host) -> subprocess.CompletedProcess[str]:
    """Run what ``helm test`` runs, against this host's ports."""
    (pod,) = of_kind(host.manifests, "Pod")
    (container,) = pod["spec"]["containers"]
    names = {f"keyplane-{part}-metrics": HOST for part in ("operator", "rest")}
    words = [host.translated(w, names) for w in [*container["command"], *container["args"]]]
    environment = {"PATH": os.environ["PATH"]}
    return subprocess.run(
        words, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_first_install_on_postgresql_serves_keys_and_rest(host: Host, cluster: Cluster) -> None:
    operator, rest = host.pod("keyplane-operator"), host.pod("keyplane-rest")
    with pytest.raises(subprocess.CalledProcessError):
        # Nobody but the operator's pod makes the installation; the others wait for it.
        rest.prepare()
    operator.prepare()
    rest.prepare()
    assert helm_test(host).returncode != 0

    with operator.running() as processes, rest.running() as more:
        wait_until(
            lambda: helm_test(host).returncode == 0,
            what="helm test succeeds",
            within_seconds=WITHIN_SECONDS,
            watch=[*processes, *more],
        )
        manifest = json.dumps(key_manifest("first"))
        cluster.kubectl("apply", "--filename=-", input=manifest)
        ready = ("--for=condition=Ready", "key/first", f"--timeout={WITHIN_SECONDS:.0f}s")
        cluster.kubectl("wait", f"--namespace={NAMESPACE}", *ready)
        cluster.kubectl("delete", "key", "first", f"--namespace={NAMESPACE}")
        assert probed(rest, "rest") == dict.fromkeys(PROBES, 0)
    assert probed(rest, "rest") == dict.fromkeys(PROBES, 1)
    assert audit_nodes(operator, "operator") == {"keyplane-operator-0.keyplane-system"}
    assert audit_nodes(rest, "rest") == {"keyplane-rest-0.keyplane-system"}


def probed(pod: HostedPod, container: str) -> dict[str, int]:
    """Run the probes of a container that are commands; return how each ended."""
    probes = pod.container(container)
    return {
        name: pod.run(container, *probes[name]["exec"]["command"]).returncode for name in PROBES
    }


def audit_nodes(pod: HostedPod, container: str) -> set[str]:
    """Verify the audit in a pod, and return whose chains it has."""
    verified = pod.run(container, "keyplane", "audit", "verify", "--output", "json")
    found = json.loads(verified.stdout)
    assert found["outcome"] == "ok", verified.stdout
    # The other pod's are known, and not missed here.
    assert found["elsewhere"]
    return {chain["node"] for chain in found["chains"]}


@pytest.fixture
def node(cluster: Cluster, helm: Helm, tmp_path: Path) -> KeyplaneInstallation:
    """A control-plane node on which an administrator has made the installation."""
    kubeconfig = rendered_account(cluster, helm, tmp_path / "kubeconfig")
    node = KeyplaneInstallation(tmp_path, kubeconfig, node=NODE)
    node.run("init", "--namespace", NAMESPACE)
    return node


def test_an_embedded_pod_serves_the_installation_of_its_node(
    node: KeyplaneInstallation, cluster: Cluster, helm: Helm, tmp_path: Path
) -> None:
    made = node.run_json("keys", "create", "etcd-root")["id"]
    kubeconfig = str(tmp_path / "kubeconfig")
    values = {
        "listenAddress": HOST,
        "embedded": {"stateDir": str(node.state), "socketDir": str(node.socket.parent)},
        "extraEnv": [{"name": "KEYPLANE_OPERATOR__KUBECONFIG", "value": kubeconfig}],
        "rest": rest_values(cluster, tmp_path),
    }
    manifests = helm.template(CHART, values, namespace=HOME)
    secrets = {"tls": certificate(tmp_path)}
    host = Host(manifests, secrets, tmp_path / "pods", ports_of(manifests))
    pod = host.pod("keyplane")
    pod.prepare()

    with pod.running() as processes:
        wait_until(
            lambda: helm_test(host).returncode == 0,
            what="helm test succeeds",
            within_seconds=WITHIN_SECONDS,
            watch=processes,
        )
        adopted = json.dumps(key_manifest("etcd-root", adopt=made, deletionPolicy="Retain"))
        cluster.kubectl("apply", "--filename=-", input=adopted)
        ready = ("--for=condition=Ready", "key/etcd-root", f"--timeout={WITHIN_SECONDS:.0f}s")
        cluster.kubectl("wait", f"--namespace={NAMESPACE}", *ready)
        cluster.kubectl("delete", "key", "etcd-root", f"--namespace={NAMESPACE}")
    verified = node.run_json("audit", "verify")

    assert verified["outcome"] == "ok"
    assert {chain["name"] for chain in verified["chains"]} == {"cli.0", "operator.0", "rest.0"}
    assert {chain["node"] for chain in verified["chains"]} == {NODE}


def test_a_pod_that_starts_again_joins_what_is_there(host: Host) -> None:
    operator = host.pod("keyplane-operator")
    operator.prepare()
    marker = operator.directory / "state" / "state" / "installation"
    made = marker.read_text()

    operator.prepare()

    assert marker.read_text() == made


def test_a_pod_whose_volume_is_gone_joins_again_under_its_name(host: Host) -> None:
    host.pod("keyplane-operator").prepare()
    rest = host.pod("keyplane-rest")
    rest.prepare()
    state = rest.directory / "state" / "state"
    shutil.rmtree(state)

    rest.prepare()

    assert (state / "installation").is_file()


def test_copied_secrets_are_for_keyplanes_user_alone(host: Host) -> None:
    operator = host.pod("keyplane-operator")
    operator.prepare(until="secrets")
    copies = {path.name: path for path in (operator.directory / "secrets").iterdir()}

    assert copies.keys() == {"pin", "postgresql-password"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in copies.values()} == {0o600}
    assert copies["pin"].read_text() == PIN
