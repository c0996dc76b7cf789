"""All faces as processes on a full audit disk: nothing without its line, and Secrets are read.

One story, because an installation, a cluster and a full disk take their time: the tests
look at what was seen while the disk was full, and after there was room again.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from kubernetes import client

from keycore.adapters.sql_store import SqlStore
from keycore.ports import KeyFilter
from testbed.cluster import Cluster
from testbed.errors import CommandFailedError
from testbed.loopback import request
from testbed.rest import RestService
from testbed.waiting import wait_until
from tests.e2e.operator_world import NAMESPACE, install_crd, key_manifest
from tests.integration.keyplugin.client import SEED, KmsClient
from tests.scraping import Scraped
from tests.skipping import cannot_run

pytestmark = pytest.mark.e2e

WITHIN_SECONDS = 40.0

KEY_TYPE = "application/vnd.ibm.kms.key+json"


class Disk:
    """A file system of two mebibytes in the place of an audit directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ballast = directory / "ballast"

    @contextmanager
    def mounted(self) -> Iterator[None]:
        self._directory.mkdir(mode=0o700, parents=True)
        options = ("-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs")
        done = subprocess.run(
            ("mount", *options, self._directory), capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            cannot_run(f"no file system can be mounted here: {done.stderr.strip()}")
        try:
            yield
        finally:
            subprocess.run(("umount", "--lazy", self._directory), check=True)

    def fill(self) -> None:
        with self._ballast.open("ab", buffering=0) as ballast:
            for size in (65536, 4096):
                try:
                    while True:
                        ballast.write(bytes(size))
                except OSError:
                    pass

    def make_room(self) -> None:
        self._ballast.unlink()


@dataclass
class Story:
    """What was seen.

    Attributes:
        refused: what REST answered to a caller who wanted a key.
        keys: how many keys there were before, while the disk was full, and in the end.
        command: what the command line said.
        condition: of the Key that was applied while the disk was full.
        lost: lines that the provider has counted as lost, before there was room and after.
        decrypted: whether every ciphertext came back, all the time.
        healthy: what the provider's probe answered while it lost lines.
        made: what REST answered when there was room.
        alive: no process has ended.
        verified: what ``keyplane audit verify`` said in the end.
        told: numbers of lines in the provider's ``audit.lost`` lines.
    """

    refused: httpx.Response
    keys: tuple[int, int, int]
    command: str
    condition: dict[str, Any]
    lost: tuple[float, float]
    decrypted: bool
    healthy: tuple[int, dict[str, Any]]
    made: httpx.Response
    alive: bool
    verified: dict[str, Any]
    told: list[int]


@pytest.fixture(scope="module")
def story(plain_cluster: Cluster) -> Iterator[Story]:
    with tempfile.TemporaryDirectory(prefix="kp-") as directory:
        disk = Disk(Path(directory) / "state" / "audit")
        Path(directory, "state").mkdir(mode=0o700)
        service = RestService(Path(directory))
        with disk.mounted():
            yield _live(service, plain_cluster, disk)


def _live(service: RestService, cluster: Cluster, disk: Disk) -> Story:
    here = service.installation
    shutil.copy(cluster.kubeconfig, service.directory / "kubeconfig")
    install_crd(cluster)
    cluster.kubectl("create", "namespace", NAMESPACE)
    provider, operator = here.face("provider"), here.face("operator")
    with ExitStack() as stack:
        stack.enter_context(service)
        rest = stack.enter_context(service.client())
        here.run("provider", "set", "keyplane", "--key", _create(rest).json()["resources"][0]["id"])
        stack.enter_context(provider)
        kms = stack.enter_context(KmsClient(here.socket))
        kms.status(wait=True)
        closed = kms.encrypt()
        before = _keys(service)

        disk.fill()
        stack.enter_context(operator)
        cluster.kubectl("apply", "--filename=-", input=json.dumps(key_manifest("one")))
        _use_up(rest)
        refused = _create(rest)
        decrypted = True
        while not _lost(here.health):
            decrypted &= all(kms.decrypt(closed) == SEED for _ in range(50))
        healthy = request(f"{here.health}/readyz?verbose")
        command = _refusal(lambda: here.run("instance", "create", "team-a"))
        condition = _condition(cluster, "False")
        full = _keys(service)
        lost = _lost(here.health)

        disk.make_room()
        made = _create(rest)
        decrypted &= kms.decrypt(closed) == SEED
        _condition(cluster, "True")
        alive = service.process.is_running and provider.is_running and operator.is_running
        counts, lost_after = (before, full, _keys(service)), _lost(here.health)
    return Story(
        refused=refused,
        keys=counts,
        command=command,
        condition=condition,
        lost=(lost, lost_after),
        decrypted=decrypted,
        healthy=(healthy[0], json.loads(healthy[1])),
        made=made,
        alive=alive,
        verified=here.run_json("audit", "verify"),
        told=_told(here.state),
    )


def _create(rest: httpx.Client) -> httpx.Response:
    resource = {"type": KEY_TYPE, "name": "a root key", "extractable": False}
    metadata = {"collectionType": KEY_TYPE, "collectionTotal": 1}
    return rest.post("/api/v2/keys", json={"metadata": metadata, "resources": [resource]})


def _use_up(rest: httpx.Client) -> None:
    """Ask until there is no room for another answer."""
    wait_until(
        lambda: any(rest.head("/api/v2/keys").status_code == 503 for _ in range(50)),
        what="REST refuses",
        within_seconds=WITHIN_SECONDS,
    )


def _keys(service: RestService) -> int:
    """Count what is in the store, whatever the audit has to say."""
    store = SqlStore(service.state_dir / "keyplane.db")
    try:
        with store.reading() as unit:
            return unit.keys.count(KeyFilter(), datetime.now(UTC))
    finally:
        store.close()


def _lost(url: str) -> float:
    return Scraped(request(f"{url}/metrics")[1]).value("keyplane_audit_lines_lost_total")


def _condition(cluster: Cluster, status: str) -> dict[str, Any]:
    """Wait until the Key is ready, or is not."""
    with cluster.client() as api:
        keys = client.CustomObjectsApi(api)

        def ready() -> dict[str, Any]:
            key = keys.get_namespaced_custom_object(
                "kms.keyplane.dev", "v1", NAMESPACE, "keys", "one"
            )
            conditions = key.get("status", {}).get("conditions", [])
            return next((each for each in conditions if each["type"] == "Ready"), {})

        wait_until(
            lambda: ready().get("status") == status,
            what=f"Ready={status}",
            within_seconds=WITHIN_SECONDS,
        )
        return ready()


def _refusal(run: Any) -> str:
    with pytest.raises(CommandFailedError) as refused:
        run()
    return str(refused.value)


def _told(state: Path) -> list[int]:
    lines = (state / "audit" / "provider.0.000001.jsonl").read_text().splitlines()
    return [line["lines"] for line in map(json.loads, lines) if line["operation"] == "audit.lost"]


def test_rest_refuses_before_it_acts_and_says_that_it_may_be_asked_again(story: Story) -> None:
    reason = story.refused.json()["resources"][0]["reasons"][0]

    assert story.refused.status_code == 503
    assert (reason["code"], reason["message"]) == (
        "UNAVAILABLE_ERR",
        "no audit line can be written; nothing was done",
    )


def test_the_command_line_refuses_and_says_where_there_is_no_room(story: Story) -> None:
    assert "there is no room for audit lines, and nothing is done without" in story.command
    assert "make room on the disk of" in story.command


def test_the_operator_says_so_in_a_condition_and_tries_again_by_itself(story: Story) -> None:
    assert story.condition["reason"] == "AuditUnavailable"


def test_the_provider_serves_on_and_counts_what_it_cannot_record(story: Story) -> None:
    assert story.decrypted
    assert story.lost[0] > 0
    assert story.healthy[0] == 200
    assert story.healthy[1]["checks"]["audit"] == "degraded"


def test_nothing_is_half_done(story: Story) -> None:
    before, full, after = story.keys

    assert full == before
    assert after == before + 2


def test_all_faces_go_on_without_a_restart_when_there_is_room_again(story: Story) -> None:
    assert story.made.status_code == 201
    assert story.alive
    assert story.lost[0] == story.lost[1]


def test_no_chain_is_broken_and_the_lost_lines_are_told_in_it(story: Story) -> None:
    assert story.verified["outcome"] == "ok"
    assert sum(story.told) == story.lost[1]
