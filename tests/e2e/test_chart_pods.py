"""A first install on PostgreSQL: the rendered pods as processes, on real parts."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from keycore.settings import Settings
from testbed.authority import Authority
from testbed.binaries import Binaries
from testbed.cluster import Cluster
from testbed.helm import Helm, find_or_build_helm
from testbed.loopback import HOST
from testbed.postgresql import PostgreSql
from testbed.waiting import wait_until
from tests.e2e.chart_pods import (
    HOME,
    Host,
    install_crds,
    ports_of,
    rendered_account,
)
from tests.e2e.operator_world import NAMESPACE, key_manifest
from tests.integration.chart.values import CHART, REST, of_kind

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180, func_only=True)]

PIN = "123456"

WITHIN_SECONDS = 30.0


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
    credential = tmp_path / "credential"
    credential.write_text(cluster.kubectl("create", "token", "default", f"--namespace={HOME}"))
    issuer = {
        "name": "corp",
        "url": cluster.server,
        "audience": "keyplane",
        "ca_file": str(cluster.apiservers[0].ca),
        "credential_file": str(credential),
    }
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
        "rest": {**REST, "issuers": [issuer]},
    }
    manifests = helm.template(CHART, values, namespace=HOME)
    tls = Authority(tmp_path / "authority").server("rest")
    secrets = {
        "hsm": {"pin": PIN},
        "database": {
            "connection": postgresql.create_database("chart_install"),
            "password": postgresql.password_file.read_text(),
        },
        "tls": {"tls.crt": tls.certificate.read_text(), "tls.key": tls.key.read_text()},
    }
    yield Host(manifests, secrets, tmp_path / "pods", ports_of(manifests))
    postgresql.drop_database("chart_install")


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


def test_a_pod_that_starts_again_joins_what_is_there(host: Host) -> None:
    operator = host.pod("keyplane-operator")
    operator.prepare()
    marker = operator.directory / "state" / "state" / "installation"
    made = marker.read_text()

    operator.prepare()

    assert marker.read_text() == made


def test_copied_secrets_are_for_keyplanes_user_alone(host: Host) -> None:
    operator = host.pod("keyplane-operator")
    operator.prepare(until="secrets")
    copies = {path.name: path for path in (operator.directory / "secrets").iterdir()}

    assert copies.keys() == {"pin", "postgresql-password"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in copies.values()} == {0o600}
    assert copies["pin"].read_text() == PIN
