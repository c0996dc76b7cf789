"""The test bed itself: what other end-to-end tests rely on must be true."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from kubernetes import client

from testbed.binaries import Binaries
from testbed.cluster import Cluster
from testbed.errors import CommandFailedError, NotLoopbackError, ProcessDiedError
from testbed.loopback import require_loopback
from testbed.processes import ChildProcess
from testbed.waiting import wait_until

pytestmark = pytest.mark.e2e

_PROVIDER_THAT_IS_DOWN = """\
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - kms: {{apiVersion: v2, name: absent, endpoint: "unix://{socket}", timeout: 1s}}
"""


def _create_secret(cluster: Cluster, name: str, value: str) -> None:
    cluster.kubectl("create", "secret", "generic", name, f"--from-literal=value={value}")


def test_a_secret_lies_plain_in_etcd_without_an_encryption_configuration(
    plain_cluster: Cluster,
) -> None:
    _create_secret(plain_cluster, "plain", "readable-by-every-thief")

    stored = plain_cluster.etcd_get("/registry/secrets/default/plain")

    assert list(stored) == ["/registry/secrets/default/plain"]
    (value,) = stored.values()
    assert value.startswith(b"k8s\0")
    assert b"readable-by-every-thief" in value


def test_a_restarted_api_server_still_has_the_data(plain_cluster: Cluster) -> None:
    _create_secret(plain_cluster, "kept", "still-there")

    plain_cluster.restart_apiserver()

    assert plain_cluster.kubectl("get", "secret", "kept", "--output=name") == "secret/kept\n"


def test_a_stopped_cluster_starts_again_with_its_data(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(controller_manager=False)
    _create_secret(cluster, "kept", "still-there")

    cluster.stop()
    cluster.start()

    assert cluster.kubectl("get", "secret", "kept", "--output=name") == "secret/kept\n"


def test_two_clusters_side_by_side_share_nothing(
    plain_cluster: Cluster, make_cluster: Callable[..., Cluster]
) -> None:
    other = make_cluster(controller_manager=False)
    _create_secret(other, "only-in-the-other", "value")

    assert other.server != plain_cluster.server
    assert plain_cluster.etcd_get("/registry/secrets/default/only-in-the-other") == {}
    with pytest.raises(CommandFailedError, match="not found"):
        plain_cluster.kubectl("get", "secret", "only-in-the-other")


def test_an_added_api_server_serves_the_same_objects(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(controller_manager=False)
    _create_secret(cluster, "shared", "value")

    second = cluster.add_apiserver()

    assert second.get("/api/v1/namespaces/default/secrets/shared")[0] == 200


def test_the_controllers_finish_the_deletion_of_a_namespace(plain_cluster: Cluster) -> None:
    plain_cluster.kubectl("create", "namespace", "short-lived")

    plain_cluster.kubectl("delete", "namespace", "short-lived", "--timeout=60s")

    assert plain_cluster.etcd_get("/registry/namespaces/short-lived") == {}


def test_the_python_client_ignores_proxies_and_authorities_of_the_environment(
    plain_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "no-authority.pem"
    empty.touch()
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.setenv(name, str(empty))
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://192.0.2.1:9")

    with plain_cluster.client() as api:
        namespaces = client.CoreV1Api(api).list_namespace()

    names = [item.metadata.name for item in namespaces.items if item.metadata]
    assert "default" in names


def test_the_kubeconfig_is_for_its_owner_only(plain_cluster: Cluster) -> None:
    assert stat.S_IMODE(plain_cluster.kubeconfig.stat().st_mode) == 0o600


def test_an_encryption_provider_that_is_down_leaves_readyz_red_and_livez_green(
    binaries: Binaries, tmp_path: Path
) -> None:
    config = tmp_path / "encryption.yaml"
    config.write_text(_PROVIDER_THAT_IS_DOWN.format(socket=tmp_path / "absent.sock"))
    cluster = Cluster(
        tmp_path / "cluster", binaries, encryption_config=config, controller_manager=False
    )

    cluster.start(until="/livez")
    try:
        status, body = cluster.apiservers[0].get("/readyz?verbose")
    finally:
        cluster.stop()

    assert status == 500
    assert "[-]kms-providers failed" in body


def test_a_cluster_that_cannot_start_says_why_and_leaves_nothing_running(
    binaries: Binaries, tmp_path: Path
) -> None:
    config = tmp_path / "encryption.yaml"
    config.write_text("kind: Nonsense\n")
    cluster = Cluster(tmp_path / "cluster", binaries, encryption_config=config)

    with pytest.raises(ProcessDiedError, match="kube-apiserver ended with exit code 1"):
        cluster.start()

    assert not cluster.apiservers[0].process.is_running
    with pytest.raises(OSError, match="refused"):
        cluster.etcd_get("/registry/")


def test_a_process_that_dies_is_reported_with_its_last_words(tmp_path: Path) -> None:
    command = ("sh", "-c", "echo the disk is on fire; exit 3")
    process = ChildProcess("unlucky", command, directory=tmp_path)
    process.start()

    with pytest.raises(ProcessDiedError) as raised:
        process.wait_until(lambda: False, what="never", within_seconds=30)

    assert "unlucky ended with exit code 3" in str(raised.value)
    assert "the disk is on fire" in str(raised.value)
    assert str(process.log) in str(raised.value)


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    # The shell waits for its sleep, and both are in the way of an orderly end.
    command = ("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done")
    process = ChildProcess("stubborn", command, directory=tmp_path)
    process.start()
    process.wait_until(lambda: "ready" in process.log_tail(), what="it runs", within_seconds=30)

    assert process.stop(grace_seconds=0.2) == -signal.SIGKILL


def test_children_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib\n"
        "from testbed.processes import ChildProcess\n"
        "child = ChildProcess('child', ('sleep', '600'), directory=pathlib.Path(sys.argv[1]))\n"
        "child.start()\n"
        "print(child.process_id, flush=True)\n"
        "sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        (sys.executable, "-c", program, str(tmp_path)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    with parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        # Before it has become the program it has not asked to die with its parent yet.
        name = Path("/proc", str(child), "comm")
        wait_until(
            lambda: name.read_text() == "sleep\n", what="the child to run", within_seconds=10
        )

        parent.kill()

        wait_until(lambda: not _is_alive(child), what="the child is gone", within_seconds=10)


def _is_alive(process_id: int) -> bool:
    try:
        state = (
            Path("/proc", str(process_id), "stat").read_text().rsplit(")", maxsplit=1)[1].split()[0]
        )
    except FileNotFoundError:
        return False
    # A zombie has ended; nobody may be there to reap it in a container.
    return state != "Z"


@pytest.mark.parametrize(
    "url",
    ["https://192.0.2.1:6443", "https://localhost:6443", "https://127.0.0.1.example:1", "nonsense"],
)
def test_an_address_that_is_not_literally_loopback_is_refused(url: str) -> None:
    with pytest.raises(NotLoopbackError):
        require_loopback(url)
