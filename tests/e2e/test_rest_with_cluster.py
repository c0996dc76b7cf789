"""REST for a real cluster's service accounts: its API server is the issuer."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from testbed.audit import audit_lines
from testbed.binaries import Binaries
from testbed.cluster import Cluster
from testbed.keyplane import KeyplaneInstallation
from testbed.rest_demo import AUDIENCE, RestDemo
from testbed.waiting import wait_until

pytestmark = pytest.mark.e2e

NAMESPACE = "keyplane-system"


class World:
    """A cluster, an installation, and its REST face, as the demo has them."""

    def __init__(self, directory: Path, cluster: Cluster, binaries: Binaries) -> None:
        self.cluster = cluster
        self.keyplane = KeyplaneInstallation(directory, cluster.kubeconfig)
        self.rest = RestDemo(self.keyplane, cluster, binaries.kubectl, NAMESPACE)
        self.keyplane.run("init", "--namespace", NAMESPACE)
        cluster.kubectl("create", "namespace", NAMESPACE)
        self.instance = self.rest.configure()

    def credential(self, account: str, *options: str) -> str:
        return self.cluster.kubectl("create", "token", account, "-n", NAMESPACE, *options).strip()

    def list_keys(self, credential: str) -> tuple[int, Any]:
        """List the instance's keys with curl, and return status and answer."""
        done = subprocess.run(
            (
                *("curl", "-sS", "--cacert", str(self.keyplane.rest_ca)),
                *("-H", f"Authorization: Bearer {credential}"),
                *("-H", f"icp-instance: {self.instance}"),
                *("-w", "\n%{http_code}", self.rest.url),
            ),
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        body, status = done.stdout.rsplit("\n", 1)
        return int(status), json.loads(body)

    def audited(self) -> dict[str, Any]:
        """Return REST's newest audit line."""
        return audit_lines(self.keyplane.state, "rest")[-1]


@pytest.fixture(scope="module")
def world(
    plain_cluster: Cluster, binaries: Binaries, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    with ExitStack() as stack:
        made = World(tmp_path_factory.mktemp("rest"), plain_cluster, binaries)
        face = stack.enter_context(made.keyplane.face("rest"))
        wait_until(made.rest.is_ready, what="the REST face", within_seconds=30, watch=(face,))
        yield made


def test_the_lines_that_the_demo_shows_work_when_they_are_pasted(world: World) -> None:
    key_id = world.rest.create_key()

    made, opened = world.rest.wrap_and_unwrap(key_id)

    assert made == opened


def test_a_service_account_acts_under_its_own_name(world: World) -> None:
    status, answer = world.list_keys(world.credential("rest-client", "--audience", AUDIENCE))

    assert (status, answer["metadata"]["collectionType"]) == (
        200,
        "application/vnd.ibm.kms.key+json",
    )
    line = world.audited()
    assert line["actor"] == f"cluster:system:serviceaccount:{NAMESPACE}:rest-client"
    assert (line["operation"], line["outcome"]) == ("key.list", "ok")


def test_a_credential_for_the_api_server_itself_is_refused(world: World) -> None:
    """Otherwise every pod's default credential would open the door."""
    status, answer = world.list_keys(world.credential("rest-client"))

    assert (status, answer["resources"][0]["reasons"][0]["code"]) == (401, "UNAUTHORIZED_ERR")
    assert world.audited()["reason"] == "other_audience"


def test_a_service_account_without_a_role_is_refused(world: World) -> None:
    status, _ = world.list_keys(world.credential("keyplane", "--audience", AUDIENCE))

    assert status == 403
    assert world.audited()["outcome"] == "access_denied"


def test_a_policy_that_changes_counts_without_a_restart(world: World) -> None:
    credential = world.credential("keyplane", "--audience", AUDIENCE)
    before = world.keyplane.policy.read_text()
    changed = before.replace("/rest-client", "/keyplane")
    try:
        world.keyplane.policy.write_text(changed)
        wait_until(
            lambda: world.list_keys(credential)[0] == 200,
            what="the new policy is in force",
            within_seconds=5,
        )
    finally:
        world.keyplane.policy.write_text(before)
    wait_until(
        lambda: world.list_keys(credential)[0] == 403,
        what="the old policy is in force again",
        within_seconds=5,
    )
