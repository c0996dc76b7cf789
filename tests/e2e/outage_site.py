"""A site whose token is taken away for more than three minutes, and what happens then.

kube-apiserver's write seed lives for three minutes after the last Status that confirmed
it, and nothing shortens that. So the story of a site is lived through once, side by side
with those of other sites, and tests look at what it recorded.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from keycore.domain.providers import OutagePolicy
from testbed.binaries import Binaries
from testbed.cluster import Cluster
from testbed.keyplane import KeyplaneInstallation
from testbed.loopback import request
from testbed.waiting import wait_until
from tests.e2e.secret_traffic import Attempt, SecretTraffic

SEED_SECONDS = 180.0
"""How long a write seed is used after the last Status that confirmed it."""

OUTAGE_SECONDS = SEED_SECONDS + 25.0
"""Long enough to see what happens afterwards; a Status may have been good for ten seconds."""

HEALED_SECONDS_MAX = 60.0
"""The API server asks an unhealthy provider every ten seconds."""


@dataclass(frozen=True)
class OutageStory:
    """What happened at one site. All times are monotonic seconds.

    Attributes:
        away_at: when the token was taken away; ``back_at`` when it was put back.
        red_at: when the API server's ``/readyz`` was first seen red.
        green_at: when it was first seen green again.
        last_write_at: when a write began after that and succeeded.
        late_livez: what the provider answered late in the outage; ``late_readyz`` as well.
        late_seeds_readable: how long seeds stay readable, as its metrics said then;
            ``seeds_readable_afterwards`` what they said when all was green.
        processes_before: the process ids of provider and API server;
            ``processes_after`` the same at the end.
    """

    writes: Sequence[Attempt]
    reads: Sequence[Attempt]
    away_at: float
    red_at: float
    back_at: float
    green_at: float
    last_write_at: float
    late_livez: int
    late_readyz: int
    late_seeds_readable: dict[str, float]
    seeds_readable_afterwards: dict[str, float]
    processes_before: tuple[int | None, ...]
    processes_after: tuple[int | None, ...]


class OutageSite:
    """One node: keyplane with an outage policy, and an API server that encrypts with it."""

    def __init__(self, directory: Path, binaries: Binaries, outage: OutagePolicy) -> None:
        """Prepare everything without starting it."""
        config = directory / "encryption-config.yaml"
        self._cluster = Cluster(
            directory / "cluster", binaries, encryption_config=config, controller_manager=False
        )
        self._keyplane = KeyplaneInstallation(
            directory, self._cluster.kubeconfig, outage=outage.value
        )
        self._keyplane.run("init")
        config.write_text(self._keyplane.run("encryption-config"))
        key_id = self._keyplane.run_json("keys", "create", "etcd-root")["id"]
        self._keyplane.run("provider", "set", "keyplane", "--key", key_id)
        self._provider = self._keyplane.face("provider")
        self._tokens = self._keyplane.state / "tokens"
        self._elsewhere = self._keyplane.state / "tokens-elsewhere"

    def live(self) -> OutageStory:
        """Live through the outage and tell the story."""
        with self._provider:
            wait_until(
                self._keyplane.socket.is_socket,
                what="the socket",
                within_seconds=60,
                watch=(self._provider,),
            )
            with self._cluster:
                return self._tell()

    def _tell(self) -> OutageStory:
        before = self._processes()
        with SecretTraffic(self._cluster.apiservers[0], "text", known=[]) as traffic:
            traffic.await_write(after=0)
            away_at = self._take_the_token_away()
            red_at = self._await_readyz(green=False)
            wait_until(
                lambda: time.monotonic() - away_at > OUTAGE_SECONDS,
                what="the outage lasts longer than a write seed lives",
                within_seconds=OUTAGE_SECONDS + 10,
                watch=(self._provider,),
            )
            late_livez, late_readyz = self._probe("/livez"), self._probe("/readyz")
            late_seeds = self._seeds_readable()
            back_at = self._put_the_token_back()
            green_at = self._await_readyz(green=True)
            last = traffic.await_write(after=green_at)
            afterwards = self._seeds_readable()
        return OutageStory(
            writes=traffic.writes,
            reads=traffic.reads,
            away_at=away_at,
            red_at=red_at,
            back_at=back_at,
            green_at=green_at,
            last_write_at=last.at,
            late_livez=late_livez,
            late_readyz=late_readyz,
            late_seeds_readable=late_seeds,
            seeds_readable_afterwards=afterwards,
            processes_before=before,
            processes_after=self._processes(),
        )

    def _take_the_token_away(self) -> float:
        self._tokens.rename(self._elsewhere)
        return time.monotonic()

    def _put_the_token_back(self) -> float:
        self._elsewhere.rename(self._tokens)
        return time.monotonic()

    def _await_readyz(self, *, green: bool) -> float:
        apiserver = self._cluster.apiservers[0]
        wait_until(
            lambda: (apiserver.get("/readyz")[0] == HTTPStatus.OK) is green,
            what=f"/readyz of the API server is {'green' if green else 'red'}",
            within_seconds=HEALED_SECONDS_MAX * 2,
            watch=(self._provider, apiserver.process),
        )
        return time.monotonic()

    def _probe(self, path: str) -> int:
        return request(self._keyplane.health + path)[0]

    def _seeds_readable(self) -> dict[str, float]:
        text = request(self._keyplane.health + "/metrics")[1].decode()
        return {
            sample.labels["which"]: sample.value
            for family in text_string_to_metric_families(text)
            if family.name == "keyplane_kms_seeds_readable_seconds"
            for sample in family.samples
        }

    def _processes(self) -> tuple[int | None, ...]:
        return self._provider.process_id, self._cluster.apiservers[0].process.process_id
