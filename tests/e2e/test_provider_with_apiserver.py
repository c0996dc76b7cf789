"""The provider under a real kube-apiserver: what lies in etcd, and what a crash does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from testbed.binaries import Binaries
from testbed.cluster import Cluster
from testbed.errors import CommandFailedError
from testbed.keyplane import KeyplaneInstallation
from testbed.processes import ChildProcess
from testbed.waiting import wait_until

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
