"""A site of two nodes that lives through rotations without re-encryption, under traffic.

Each node has an API server, a provider and a keyring; etcd, the keys of the token, and a
store in PostgreSQL are shared.
Both orders of starting are tried: on the first node the provider comes first, on the
second one the API server does.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from testbed.apiserver import ApiServer
from testbed.binaries import Binaries
from testbed.cluster import Cluster
from testbed.keyplane import KeyplaneInstallation
from testbed.loopback import request
from testbed.postgresql import PostgreSql
from testbed.processes import ChildProcess
from testbed.waiting import wait_until
from tests.e2e.secret_traffic import Attempt, SecretTraffic, between, read_fault, unreadable

PROVIDER = "keyplane"

ROTATIONS = 3

SEEN_SECONDS_MAX = 120.0
"""A healthy provider is asked every sixty seconds, and sooner when ``/readyz`` is."""

HEALTHY_SECONDS_MAX = 30.0
"""How long provider and API server may take together, whichever starts last."""


_PREFIX = b"k8s:enc:kms:v2:keyplane:"

_KEY_ID_FIELD = re.compile(rb"\x12\x24([0-9a-f-]{36})")
"""Field 2 of ``EncryptedObject``, a text of 36 bytes (``kms-v2-contract``, etcd)."""

_SEEN_IN_STATUS = "apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds"


@dataclass(frozen=True)
class WaitingRotation:
    """What was seen while one node was away during a rotation.

    Attributes:
        waiting_for: the nodes that the provider's ledger waited for.
        hashes_meanwhile: the key_id hash that the other node's provider showed.
        hash_before: the hash of the key_id from before the rotation.
        written_under: the key_ids of what the other node wrote meanwhile.
        active_before: the key_id from before the rotation.
        active_after: the key_id when the node had been started again.
    """

    waiting_for: list[str]
    hashes_meanwhile: set[str]
    hash_before: str
    written_under: set[str]
    active_before: str
    active_after: str


@dataclass(frozen=True)
class GenerationsStory:
    """What happened.

    Attributes:
        healthy_seconds: by who started last, how long after its start all was green; that of
            the API server includes etcd's start.
        attempts: every write and read of the whole time, through both API servers.
        written: the Secrets that were written.
        waiting: the rotation during which one node was away.
        stored_under: how many objects lie in etcd under each key_id.
        key_ids: those of the ledger, oldest first.
        unreadable: what could not be read at the end, by API server.
        provider_hashes: the key_id hash that each provider showed at the end.
        apiserver_hashes: those that each API server had seen in Status since its restart.
    """

    healthy_seconds: dict[str, float]
    attempts: Sequence[Attempt]
    written: Sequence[str]
    waiting: WaitingRotation
    stored_under: Mapping[str, int]
    key_ids: Sequence[str]
    unreadable: dict[str, list[str]]
    provider_hashes: Sequence[set[str]]
    apiserver_hashes: Sequence[set[str]]


class GenerationsSite:
    """Two nodes of one control plane."""

    def __init__(self, directory: Path, binaries: Binaries) -> None:
        """Prepare everything without starting it."""
        here, there = directory / "a", directory / "b"
        self._configs = [here / "encryption-config.yaml", there / "encryption-config.yaml"]
        self._cluster = Cluster(
            directory / "cluster",
            binaries,
            encryption_config=self._configs[0],
            controller_manager=False,
        )
        here.mkdir()
        there.mkdir()
        kubeconfig = self._cluster.kubeconfig
        self._database = PostgreSql(directory / "postgresql")
        self._nodes = [
            KeyplaneInstallation(here, kubeconfig, node="node-a", store=self._database),
            KeyplaneInstallation(there, kubeconfig, node="node-b", store=self._database),
        ]
        self._providers: list[ChildProcess] = [node.face("provider") for node in self._nodes]
        self._key = ""
        self._known: list[str] = []
        self._traffic: list[SecretTraffic] = []

    def live(self) -> GenerationsStory:
        """Live through the rotations and tell the story."""
        try:
            self._install()
            healthy = self._start_in_both_orders()
            with self._traffic_on(0), self._traffic_on(1):
                for _ in range(ROTATIONS - 1):
                    self._rotate()
                    self._await_writes_under(self._active())
                waiting = self._rotate_while_a_node_is_away()
            self._restart_both_apiservers()
            return self._told(healthy, waiting)
        finally:
            self._cluster.stop()
            for provider in self._providers:
                provider.stop()
            self._database.stop()

    # --- chapters ------------------------------------------------------------

    def _install(self) -> None:
        self._database.start()
        first, second = self._nodes
        first.run("init")
        second.join(first)
        for node, config in zip(self._nodes, self._configs, strict=True):
            config.write_text(node.run("encryption-config"))
        self._key = first.run_json("keys", "create", "etcd-root")["id"]
        first.run("provider", "set", PROVIDER, "--key", self._key)

    def _start_in_both_orders(self) -> dict[str, float]:
        first, second = self._providers
        first.start()
        wait_until(
            self._nodes[0].socket.is_socket,
            what="the socket",
            within_seconds=HEALTHY_SECONDS_MAX,
            watch=(first,),
        )
        started = time.monotonic()
        self._cluster.start(until="/livez")
        self._await_green(self._cluster.apiservers)
        healthy = {"apiserver": time.monotonic() - started}
        self._cluster.add_apiserver(encryption_config=self._configs[1], until="/livez")
        started = time.monotonic()
        second.start()
        self._await_green(self._cluster.apiservers)
        return healthy | {"provider": time.monotonic() - started}

    def _rotate(self) -> None:
        self._nodes[0].run("keys", "rotate", self._key, "--wait", "20")

    def _rotate_while_a_node_is_away(self) -> WaitingRotation:
        active = self._overview()["active"]
        before: str = active["keyId"]
        # Everything that the other node wrote must have been read once, because nobody
        # can decrypt a new seed for an API server whose own provider is away.
        self._read_the_newest_through(1)
        self._providers[1].stop()
        away_at = time.monotonic()
        self._nodes[0].run("keys", "rotate", self._key)
        self._traffic[0].await_reads(20, after=away_at)
        overview, hashes = self._overview(), self._provider_hashes(0)
        written = between(self._traffic[0].writes, away_at, time.monotonic())
        self._providers[1].start()
        wait_until(
            lambda: self._active() != before,
            what="the rotation goes on when the node is back",
            within_seconds=HEALTHY_SECONDS_MAX,
            watch=self._providers,
        )
        self._await_green(self._cluster.apiservers)
        self._await_writes_under(self._active())
        return WaitingRotation(
            waiting_for=overview["waitingFor"],
            hashes_meanwhile=hashes,
            hash_before=active["keyIdHash"],
            written_under=self._key_ids_of(write.name for write in written),
            active_before=before,
            active_after=self._active(),
        )

    def _restart_both_apiservers(self) -> None:
        with ThreadPoolExecutor(2) as threads:
            for restarted in [
                threads.submit(apiserver.restart) for apiserver in self._cluster.apiservers
            ]:
                restarted.result()

    def _told(self, healthy: dict[str, float], waiting: WaitingRotation) -> GenerationsStory:
        apiservers = self._cluster.apiservers
        return GenerationsStory(
            healthy_seconds=healthy,
            attempts=[a for traffic in self._traffic for a in [*traffic.writes, *traffic.reads]],
            written=list(self._known),
            waiting=waiting,
            stored_under=Counter(map(_key_id_of, self._stored().values())),
            key_ids=[entry["keyId"] for entry in self._overview()["activations"]],
            unreadable={
                server.process.name: unreadable(server, self._known) for server in apiservers
            },
            provider_hashes=[self._provider_hashes(node) for node in range(2)],
            apiserver_hashes=[
                _hashes(server.get("/metrics")[1], _SEEN_IN_STATUS) for server in apiservers
            ],
        )

    # --- looking -------------------------------------------------------------

    def _traffic_on(self, node: int) -> SecretTraffic:
        traffic = SecretTraffic(self._cluster.apiservers[node], f"node-{node}", known=self._known)
        self._traffic.append(traffic)
        return traffic

    def _overview(self) -> Any:
        return self._nodes[0].run_json("provider", "show", PROVIDER)

    def _provider_hashes(self, node: int) -> set[str]:
        metrics = request(self._nodes[node].health + "/metrics")[1].decode()
        return _hashes(metrics, "keyplane_kms_key_id_info")

    def _active(self) -> str:
        active: str = self._overview()["active"]["keyId"]
        return active

    def _await_green(self, servers: Sequence[ApiServer]) -> None:
        wait_until(
            lambda: all(server.get("/readyz")[0] == HTTPStatus.OK for server in servers),
            what="every API server is green",
            within_seconds=4 * HEALTHY_SECONDS_MAX,
            watch=[server.process for server in servers],
        )

    def _await_writes_under(self, key_id: str) -> None:
        """Wait until both API servers write under a key_id."""

        def seen() -> bool:
            for server in self._cluster.apiservers:
                # Looking at the health makes it ask for Status.
                server.get("/readyz")
            newest = [traffic.newest for traffic in self._traffic]
            return all(self._key_ids_of([name]) == {key_id} for name in newest)

        wait_until(seen, what="both write under the new key_id", within_seconds=SEEN_SECONDS_MAX)

    def _read_the_newest_through(self, node: int) -> None:
        """Let a node's API server decrypt the seeds that are written under now."""
        server = self._cluster.apiservers[node]
        for traffic in self._traffic:
            assert not read_fault(server, traffic.newest)

    def _key_ids_of(self, names: Iterable[str]) -> set[str]:
        stored = self._stored()
        return {_key_id_of(stored[name]) for name in names if name in stored}

    def _stored(self) -> dict[str, bytes]:
        prefix = "/registry/secrets/default/"
        return {
            key.removeprefix(prefix): raw for key, raw in self._cluster.etcd_get(prefix).items()
        }


def _key_id_of(raw: bytes) -> str:
    """Return the key_id beside an object in etcd; empty when it is not encrypted."""
    found = _KEY_ID_FIELD.search(raw) if raw.startswith(_PREFIX) else None
    return found[1].decode() if found else ""


def _hashes(metrics: str, name: str) -> set[str]:
    return {
        sample.labels["key_id_hash"]
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
        if sample.name == name
    }
