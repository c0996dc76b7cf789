"""Two hosts on one PostgreSQL that is killed, cut off and replaced, with everything in use.

Each host has a state directory, a provider and REST; the first one has the operator as well,
and an API server that encrypts with its provider. Callers of all of them work without a
pause, and what they saw and were promised is the story that tests look at.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import httpx

from testbed.binaries import Binaries
from testbed.cluster import Cluster
from testbed.issuer import Issuer
from testbed.kms_client import LoadResult
from testbed.postgresql_pair import PostgreSqlPair
from testbed.waiting import wait_until
from tests.e2e.key_applier import KeyApplier, Resource
from tests.e2e.operator_world import NAMESPACE, install_crd
from tests.e2e.rest_callers import KEYS, Promise, RestCallers, Sent, broken, names_of_keys
from tests.e2e.secret_traffic import Attempt, SecretTraffic
from tests.e2e.site_host import Host
from tests.fakes.rest_site import new_key

WORKERS = {"a": 2, "b": 1}
"""How many processes serve REST on each host."""

CALLERS = 4

KILLS = 5
CUTS = 10

WRITES = 6
"""So many of each host are waited for before anything else happens."""

WRITTEN = {HTTPStatus.CREATED, HTTPStatus.NO_CONTENT}

PATIENCE_SECONDS = 30.0
"""How long anything is waited for; how long it may take is for the tests to say."""

ONLOOKERS = 4
"""Connections to one host, so that each of its workers is looked at."""


@dataclass(frozen=True)
class Recovery:
    """What came after a fault.

    Attributes:
        fault: what had happened.
        seconds: until every host had written again, at the most.
        seen_seconds: until one host no longer used a key that the other one had deleted,
            for each of them.
    """

    fault: str
    seconds: float
    seen_seconds: Sequence[float]


@dataclass(frozen=True)
class SiteStory:
    """What happened.

    Attributes:
        sent: every REST request.
        promises: every key that a REST caller was told of.
        broken: what was promised and not kept in the end, by host.
        names: of all keys that there were in the end.
        recoveries: in their order; the first one is from no fault at all.
        resources: the Keys as they were in the end.
        turned: names of those whose rotation was asked for.
        attempts: every write and read of a Secret.
        kms: what the load on each provider saw.
        processes_before: the process ids of each face.
        processes_after: the same in the end.
    """

    sent: Sequence[Sent]
    promises: Sequence[Promise]
    broken: Mapping[str, list[str]]
    names: Sequence[str]
    recoveries: Sequence[Recovery]
    resources: Sequence[Resource]
    turned: Sequence[str]
    attempts: Sequence[Attempt]
    kms: Sequence[LoadResult]
    processes_before: Mapping[str, list[int]]
    processes_after: Mapping[str, list[int]]


class SiteOnPostgreSql:
    """The whole site."""

    def __init__(self, directory: Path, binaries: Binaries) -> None:
        """Prepare everything without starting it."""
        self._encryption_config = directory / "encryption-config.yaml"
        self._cluster = Cluster(
            directory / "cluster",
            binaries,
            encryption_config=self._encryption_config,
            controller_manager=False,
        )
        self._database = PostgreSqlPair(directory / "postgresql")
        self._issuer = Issuer(directory / "issuer")
        self._hosts = [
            Host(
                directory / name,
                self._cluster.kubeconfig,
                database=self._database,
                issuer=self._issuer,
                workers=workers,
            )
            for name, workers in WORKERS.items()
        ]
        self._operator = self._hosts[0].keyplane.face("operator")
        self._secrets = SecretTraffic(self._cluster.apiservers[0], "text", known=[])
        self._applier = KeyApplier(self._cluster)
        self._callers = RestCallers(
            [self._connect_to(host) for host in self._hosts], callers=CALLERS
        )
        self._instance = ""
        self._root = ""

    def live(self) -> SiteStory:
        """Live through all faults and tell the story."""
        with ExitStack() as running:
            running.enter_context(self._database)
            running.enter_context(self._issuer)
            self._install()
            self._start(running)
            before = self._processes()
            with ExitStack() as load:
                for part in (self._secrets, self._callers, self._applier):
                    load.enter_context(part)
                for host in self._hosts:
                    load.enter_context(host.kms)
                recoveries = list(self._suffer())
                self._rotate_the_root()
            self._await_keys()
            return self._told(recoveries, before)

    # --- chapters ------------------------------------------------------------

    def _install(self) -> None:
        first, second = (host.keyplane for host in self._hosts)
        made = first.run_json("init", "--namespace", NAMESPACE)
        self._instance = str(made["instance"]["id"])
        second.join(first)
        self._root = str(first.run_json("keys", "create", "etcd-root")["id"])
        first.run("provider", "set", "keyplane", "--key", self._root)
        self._encryption_config.write_text(first.run("encryption-config"))

    def _start(self, running: ExitStack) -> None:
        for host in self._hosts:
            host.let_callers_into(self._instance)
            running.enter_context(host.provider)
            running.enter_context(host.rest)
        for host in self._hosts:
            host.await_provider()
        running.enter_context(self._cluster)
        self._cluster.kubectl("create", "namespace", NAMESPACE)
        install_crd(self._cluster)
        running.enter_context(self._operator)
        for host in self._hosts:
            host.await_rest()
        self._operator.wait_until(
            lambda: "serving Keys" in self._operator.log.read_text(),
            what="the operator serves",
            within_seconds=PATIENCE_SECONDS,
        )

    def _suffer(self) -> Iterator[Recovery]:
        database = self._database
        yield self._recovery("nothing")
        late = []
        for _ in range(KILLS):
            with self._outage():
                database.primary.kill()
            database.primary.start()
            late.append(self._await_writes())
        yield self._recovery("the server was killed", *late)
        late = []
        for _ in range(CUTS):
            database.cut()
            late.append(self._await_writes())
        yield self._recovery("connections were cut", *late)
        with self._outage():
            database.stall()
        database.resume()
        yield self._recovery("the network swallowed everything")
        with self._outage():
            database.primary.kill()
        database.standby.promote()
        yield self._recovery("a standby took over")

    def _rotate_the_root(self) -> None:
        """Have both providers do what needs the store."""
        before = {host.key_id_hash() for host in self._hosts}
        with self._hosts[1].client(self._instance) as caller:
            caller.post(f"{KEYS}/{self._root}/actions/rotate").raise_for_status()
        wait_until(
            lambda: before.isdisjoint(host.key_id_hash() for host in self._hosts),
            what="both providers go over to the new version",
            within_seconds=PATIENCE_SECONDS,
            watch=[host.provider for host in self._hosts],
        )
        for host in self._hosts:
            host.kms.wait_for(20)

    def _await_keys(self) -> None:
        wait_until(
            self._applier.is_served,
            what="the operator has caught up",
            within_seconds=PATIENCE_SECONDS,
            watch=(self._operator,),
        )

    def _told(self, recoveries: Sequence[Recovery], before: Mapping[str, list[int]]) -> SiteStory:
        promises, kept = self._callers.promises, {}
        for host in self._hosts:
            with host.client(self._instance) as caller:
                kept[host.name] = broken(caller, promises)
                names = names_of_keys(caller)
        return SiteStory(
            sent=self._callers.sent,
            promises=promises,
            broken=kept,
            names=names,
            recoveries=recoveries,
            resources=self._applier.resources(),
            turned=self._applier.turned,
            attempts=[*self._secrets.writes, *self._secrets.reads],
            kms=[host.kms.result() for host in self._hosts],
            processes_before=before,
            processes_after=self._processes(),
        )

    # --- faults and what comes after ---------------------------------------------

    @contextmanager
    def _outage(self) -> Iterator[None]:
        """Wait until every host has told its callers of what the block does."""
        began = time.monotonic()
        yield
        self._await_answers({HTTPStatus.SERVICE_UNAVAILABLE}, 1, after=began)

    def _recovery(self, fault: str, *late: float) -> Recovery:
        late = late or (self._await_writes(),)
        one, other = self._hosts
        return Recovery(fault, max(late), [self._seen_by(one, other), self._seen_by(other, one)])

    def _await_writes(self) -> float:
        """Wait until every host writes again, and tell how long that took."""
        began = time.monotonic()
        self._await_answers(WRITTEN, WRITES, after=began)
        return time.monotonic() - began

    def _await_answers(self, statuses: set[HTTPStatus], count: int, *, after: float) -> None:
        def have_come() -> bool:
            seen = self._callers.count(statuses, after=after)
            return all(seen[host] >= count for host in range(len(self._hosts)))

        wait_until(
            have_come,
            what=f"every host answers {statuses}",
            within_seconds=PATIENCE_SECONDS,
            watch=[host.rest for host in self._hosts],
        )

    def _seen_by(self, onlooker: Host, actor: Host) -> float:
        """Delete a key through one host, and tell how long another one went on using it."""
        with ExitStack() as stack:
            by = stack.enter_context(actor.client(self._instance))
            lookers = [
                stack.enter_context(onlooker.client(self._instance)) for _ in range(ONLOOKERS)
            ]
            made = _insist(lambda: by.post(KEYS, json=new_key(extractable=False)))
            path = f"{KEYS}/{made.json()['resources'][0]['id']}"
            for looker in lookers:
                _insist(lambda looker=looker: _wrap(looker, path))  # type: ignore[misc]
            _insist(lambda: by.delete(path))
            deleted = time.monotonic()
            wait_until(
                lambda: {_wrap(looker, path).status_code for looker in lookers} == {410},
                what=f"every worker of host {onlooker.name} sees it",
                within_seconds=PATIENCE_SECONDS,
            )
            return time.monotonic() - deleted

    # --- looking -------------------------------------------------------------

    def _connect_to(self, host: Host) -> Callable[[], httpx.Client]:
        return lambda: host.client(self._instance)

    def _processes(self) -> dict[str, list[int]]:
        operator = self._operator.process_id
        assert operator
        found = {"operator": [operator]}
        for host in self._hosts:
            found |= host.processes()
        return found


def _wrap(caller: httpx.Client, path: str) -> httpx.Response:
    plaintext = base64.b64encode(b"data key").decode()
    return caller.post(f"{path}/actions/wrap", json={"plaintext": plaintext})


def _insist(call: Callable[[], httpx.Response]) -> httpx.Response:
    """Repeat a request until it succeeds: a worker that was not asked yet may refuse one."""
    answers: list[httpx.Response] = []

    def succeeds() -> bool:
        answers.append(call())
        return answers[-1].is_success

    wait_until(succeeds, what="a request succeeds", within_seconds=PATIENCE_SECONDS)
    return answers[-1]
