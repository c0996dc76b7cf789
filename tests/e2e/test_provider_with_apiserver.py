"""The provider under a real kube-apiserver: what lies in etcd, and what a crash does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from prometheus_client.parser import text_string_to_metric_families

from testbed.apiserver import ApiServer
from testbed.binaries import Binaries
from testbed.cluster import Cluster
from testbed.errors import CommandFailedError
from testbed.keyplane import KeyplaneInstallation
from testbed.processes import ChildProcess
from testbed.waiting import wait_until
from tests.e2e.secret_traffic import SecretTraffic, between, failed, unreadable

pytestmark = pytest.mark.e2e

PREFIX = b"k8s:enc:kms:v2:keyplane:"


class Site:
    """One node: keyplane, and an API server that encrypts with it."""

    def __init__(self, directory: Path, binaries: Binaries) -> None:
        config = directory / "encryption-config.yaml"
        self.cluster = Cluster(
            directory / "cluster", binaries, encryption_config=config, controller_manager=False
        )
        self.keyplane = KeyplaneInstallation(directory, self.cluster.kubeconfig)
        self.keyplane.run("init")
        config.write_text(self.keyplane.run("encryption-config"))
        self.provider: ChildProcess = self.keyplane.face("provider")

    def bind_a_new_key(self) -> str:
        key_id: str = self.keyplane.run_json("keys", "create", "etcd-root")["id"]
        self.keyplane.run("provider", "set", "keyplane", "--key", key_id)
        return key_id

    def create_secret(self, name: str) -> None:
        self.cluster.kubectl("create", "secret", "generic", name, "--from-literal=text=planted")

    def can_create(self, name: str) -> bool:
        try:
            self.create_secret(name)
        except CommandFailedError:
            return False
        return True

    def raw(self, name: str) -> bytes:
        key = f"/registry/secrets/default/{name}"
        return self.cluster.etcd_get(key)[key]

    def read(self, name: str) -> str:
        template = "--template={{.data.text | base64decode}}"
        # An API server that cannot decrypt tries for a minute before it answers.
        return self.cluster.kubectl("get", "secret", name, template, "--request-timeout=20s")


@pytest.fixture
def site(binaries: Binaries) -> Iterator[Site]:
    # A short path: a unix socket lies in it.
    with TemporaryDirectory(prefix="keyplane-") as directory:
        made = Site(Path(directory), binaries)
        with made.provider:
            wait_until(
                made.keyplane.socket.exists,
                what="the socket",
                within_seconds=30,
                watch=(made.provider,),
            )
            yield made
            made.cluster.stop()


def test_secrets_survive_a_killed_provider_and_a_restarted_apiserver(site: Site) -> None:
    site.bind_a_new_key()
    site.cluster.start()
    site.create_secret("first")
    assert site.raw("first").startswith(PREFIX)
    assert b"planted" not in site.raw("first")

    site.provider.kill()
    # Writing goes on from the seed in the API server's memory.
    site.create_secret("while-away")
    site.provider.start()
    wait_until(site.keyplane.socket.is_socket, what="the socket", within_seconds=30)
    site.cluster.restart_apiserver()

    assert site.read("first") == "planted"
    assert site.read("while-away") == "planted"
    assert site.raw("while-away").startswith(PREFIX)


def test_upgrades_cost_the_apiserver_not_one_call(site: Site) -> None:
    """Two takeovers while Secrets are written and read, and the API server counts its calls."""
    site.bind_a_new_key()
    site.cluster.start()
    apiserver = site.cluster.apiservers[0]
    known: list[str] = []
    provider = site.provider

    with SecretTraffic(apiserver, "before", known=known) as traffic, ExitStack() as stack:
        for number in range(2):
            successor = site.keyplane.face("provider", "--takeover", process=f"successor-{number}")
            stack.enter_context(successor)
            provider.wait_for_exit(within_seconds=60)
            assert provider.exit_code == 0
            provider = successor
            # Its health is looked at, and so is a new connection tried, every few seconds.
            assert apiserver.get("/readyz")[0] == 200
            traffic.await_write(after=time.monotonic())
        failures, upgraded = kms_failures(apiserver), time.monotonic()
        # Everything is decrypted anew by the one that came last.
        site.cluster.restart_apiserver()
        traffic.await_write(after=time.monotonic())
        assert unreadable(apiserver, list(known)) == []
        failures += kms_failures(apiserver)

    assert failures == 0
    assert failed(between([*traffic.writes, *traffic.reads], 0, upgraded - 1)) == []


def kms_failures(apiserver: ApiServer) -> float:
    """Return how many calls of its KMS plugin an API server has seen fail, of at least one."""
    status, text = apiserver.get("/metrics")
    assert status == 200
    counts = [
        sample
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "apiserver_envelope_encryption_kms_operations_latency_seconds_count"
    ]
    assert sum(sample.value for sample in counts) > 0
    return sum(sample.value for sample in counts if sample.labels["grpc_status_code"] != "OK")


def test_an_unbound_provider_fails_closed_and_heals_when_it_is_bound(site: Site) -> None:
    site.cluster.start(until="/livez")
    assert not site.can_create("too-early")
    assert site.cluster.apiservers[0].get("/readyz")[0] != 200

    site.bind_a_new_key()

    # An unhealthy provider is asked every ten seconds.
    wait_until(lambda: site.can_create("late"), what="a write", within_seconds=60)
    assert site.raw("late").startswith(PREFIX)
    assert site.read("late") == "planted"


def test_nothing_stored_can_be_read_under_a_key_that_the_provider_does_not_know(
    site: Site,
) -> None:
    """Objects copied into etcd from another installation are refused, not misread."""
    site.bind_a_new_key()
    site.cluster.start()
    site.create_secret("mine")
    other_key = site.keyplane.run_json("keys", "create", "other")["id"]
    site.keyplane.run("provider", "set", "keyplane", "--key", other_key)
    old_key = site.keyplane.run_json("provider", "show", "keyplane")["activations"][0]["key"]
    site.keyplane.run("provider", "release", "keyplane", "--key", old_key, "--yes")
    site.cluster.restart_apiserver(until="/livez")

    with pytest.raises(CommandFailedError):
        site.read("mine")
