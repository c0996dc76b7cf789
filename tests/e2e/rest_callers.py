"""REST clients that use keys all the time, through several hosts, and remember every promise."""

from __future__ import annotations

import base64
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import count
from typing import Any

import httpx

from testbed.startable import Startable
from tests.fakes.rest_site import new_key

KEYS = "/api/v2/keys"

RETRY_SECONDS = 0.05
"""Whoever repeats at once is a storm."""

PAUSE_SECONDS = 0.02
"""Between two requests of one caller, so that a whole site fits on a small machine."""

ROUNDS_OF_A_DELETION = 4
"""One key of so many is deleted."""

PATIENCE_SECONDS = 60.0
"""How long a request is repeated; after that nobody believes in an answer any more."""

CHECKERS = 3

Connect = Callable[[], httpx.Client]
"""Makes a client of one host."""


@dataclass(frozen=True)
class Sent:
    """One request.

    Attributes:
        at: when it began, in monotonic seconds.
        seconds: how long it took.
        host: the number of the host that it went to.
        method: ``POST`` and ``DELETE`` alone, there are no others.
        status: of the answer.
    """

    at: float
    seconds: float
    host: int
    method: str
    status: int


@dataclass
class Promise:
    """What was acknowledged about one key.

    Attributes:
        name: unlike any other's; also what is wrapped under the key.
        rotations: how many were acknowledged; one without an answer may have been made.
    """

    name: str
    id: str
    ciphertexts: list[str] = field(default_factory=list)
    rotations: int = 0
    deleted: bool = False


class RestCallers(Startable):
    """Callers in threads of their own. Each goes to another host with each request.

    Attributes:
        sent: every request, in the order of the answers.
        promises: every key that somebody was told of.
    """

    def __init__(self, hosts: Sequence[Connect], *, callers: int) -> None:
        """Prepare so many callers."""
        self.sent: list[Sent] = []
        self.promises: list[Promise] = []
        self._hosts = hosts
        self._stopping = threading.Event()
        self._threads = ThreadPoolExecutor(callers, thread_name_prefix="caller")
        self._callers = callers
        self._ends: list[Future[None]] = []

    def start(self) -> None:
        """Begin."""
        self._ends = [
            self._threads.submit(self._call_on, f"caller-{number}")
            for number in range(self._callers)
        ]

    def stop(self) -> None:
        """End when every caller has completed its round, so the store must be there.

        Raises:
            AssertionError: somebody was told what nobody may be told.
            httpx.TransportError: somebody was told nothing.
        """
        self._stopping.set()
        self._threads.shutdown()
        for end in self._ends:
            end.result()

    def count(self, statuses: Collection[int], *, after: float) -> Counter[int]:
        """Count answers to requests that began after a point in time, by host."""
        sent = [sent for sent in list(self.sent) if sent.at > after]
        return Counter(sent.host for sent in sent if sent.status in statuses)

    def _call_on(self, label: str) -> None:
        with ExitStack() as stack:
            clients = [stack.enter_context(connect()) for connect in self._hosts]
            threads = stack.enter_context(ThreadPoolExecutor(len(clients)))
            caller = _Caller(clients, threads, self.sent, self.promises)
            for number in count():
                if self._stopping.is_set():
                    return
                caller.use_a_key(f"{label}-{number}", delete=number % ROUNDS_OF_A_DELETION == 0)


class _Caller:
    """One caller with a connection to each host."""

    def __init__(
        self,
        clients: Sequence[httpx.Client],
        threads: ThreadPoolExecutor,
        sent: list[Sent],
        promises: list[Promise],
    ) -> None:
        self._clients = clients
        self._threads = threads
        self._sent = sent
        self._promises = promises
        self._turns = count()
        self._never = threading.Event()

    def use_a_key(self, name: str, *, delete: bool) -> None:
        """Live the life of one key."""
        promise = self._make(name)
        self._promises.append(promise)
        path = f"{KEYS}/{promise.id}"
        self._wrap(promise)
        self._insist("POST", f"{path}/actions/rotate")
        promise.rotations += 1
        self._wrap(promise)
        wrapped = {"ciphertext": promise.ciphertexts[0]}
        opened = self._insist("POST", f"{path}/actions/unwrap", json=wrapped).json()
        assert opened["plaintext"] == _plaintext(name)
        if delete:
            self._insist_everywhere("DELETE", path, done={HTTPStatus.GONE})
            promise.deleted = True

    def _make(self, name: str) -> Promise:
        headers = {"idempotency-key": name}
        wanted = new_key(name=name, extractable=False)
        answers = self._insist_everywhere("POST", KEYS, json=wanted, headers=headers)
        (key_id,) = {answer.json()["resources"][0]["id"] for answer in answers}
        return Promise(name, key_id)

    def _wrap(self, promise: Promise) -> None:
        path = f"{KEYS}/{promise.id}/actions/wrap"
        answer = self._insist("POST", path, json={"plaintext": _plaintext(promise.name)})
        promise.ciphertexts.append(answer.json()["ciphertext"])

    def _insist_everywhere(self, method: str, path: str, **parts: Any) -> list[httpx.Response]:
        """Send a request through all hosts at once, and insist on each of them."""
        answers = [
            self._threads.submit(self._insist, method, path, hosts=[host], **parts)
            for host in range(len(self._clients))
        ]
        return [answer.result() for answer in answers]

    def _insist(
        self,
        method: str,
        path: str,
        *,
        hosts: Sequence[int] = (),
        done: Collection[int] = (),
        **parts: Any,
    ) -> httpx.Response:
        """Repeat a request for as long as the store is away, each time through another host."""
        hosts = hosts or range(len(self._clients))
        give_up = time.monotonic() + PATIENCE_SECONDS
        while True:
            answer = self._send(hosts[next(self._turns) % len(hosts)], method, path, **parts)
            if answer.is_success or answer.status_code in done:
                self._never.wait(PAUSE_SECONDS)
                return answer
            assert answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE, answer.text
            assert time.monotonic() < give_up, answer.text
            self._never.wait(RETRY_SECONDS)

    def _send(self, host: int, method: str, path: str, **parts: Any) -> httpx.Response:
        at = time.monotonic()
        answer = self._clients[host].request(method, path, **parts)
        self._sent.append(Sent(at, time.monotonic() - at, host, method, answer.status_code))
        return answer


def broken(client: httpx.Client, promises: Sequence[Promise]) -> list[str]:
    """Look for everything that was promised; returns what one host does not keep."""
    with ThreadPoolExecutor(CHECKERS) as threads:
        found = threads.map(lambda promise: list(_broken(client, promise)), promises)
    return [what for each in found for what in each]


def _broken(client: httpx.Client, promise: Promise) -> Iterator[str]:
    path = f"{KEYS}/{promise.id}"
    for ciphertext in promise.ciphertexts:
        answer = client.post(f"{path}/actions/unwrap", json={"ciphertext": ciphertext})
        if promise.deleted and answer.status_code != HTTPStatus.GONE:
            yield f"{promise.name} was deleted: {answer.status_code}"
        if not promise.deleted and (
            not answer.is_success or answer.json()["plaintext"] != _plaintext(promise.name)
        ):
            yield f"{promise.name} opened a ciphertext: {answer.status_code}"
    versions = client.get(f"{path}/versions", params={"totalCount": "true"})
    if versions.json()["metadata"]["totalCount"] <= promise.rotations:
        yield f"{promise.name} was rotated"


def names_of_keys(client: httpx.Client) -> list[str]:
    """Return the names of all keys of the instance but the deleted ones."""
    listed = client.get(KEYS, params={"limit": 5000})
    return [key["name"] for key in listed.json()["resources"]]


def _plaintext(name: str) -> str:
    return base64.b64encode(name.encode()).decode()
