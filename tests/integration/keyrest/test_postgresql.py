"""REST processes on one PostgreSQL: they agree, and an outage of it is an answer, not a wait."""

from __future__ import annotations

import base64
import tempfile
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from testbed import postgresql as postgresql_server
from testbed.postgresql import PostgreSql
from testbed.proxy import Proxy
from testbed.rest import RestService
from testbed.waiting import wait_until
from tests.fakes.rest_site import new_key
from tests.integration.keyrest.test_workers import workers_of
from tests.skipping import cannot_run

pytestmark = pytest.mark.timeout(120)

KEYS = "/api/v2/keys"
CLIENTS = 12
ANSWER_SECONDS_MAX = 5.0
"""The store's deadline of two seconds and a little, however many wait before a thread."""

STORE = """
[store]
postgresql = "{connection}"
password_file = "{password}"
deadline = "PT2S"
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSql]:
    if reason := postgresql_server.obstacle():
        cannot_run(reason)
    with PostgreSql(tmp_path_factory.mktemp("postgresql")) as running:
        yield running


@pytest.fixture(scope="module")
def proxy(server: PostgreSql) -> Iterator[Proxy]:
    with Proxy(server.port) as running:
        yield running


@pytest.fixture(scope="module")
def service(server: PostgreSql, proxy: Proxy) -> Iterator[RestService]:
    """Two workers, which survive all tests."""
    with tempfile.TemporaryDirectory(prefix="kp-") as directory:
        service = RestService(Path(directory), options={"workers": 2})
        with service.installation.config.open("a", encoding="utf-8") as config:
            connection = server.connection_to("keyplane", through=proxy.port)
            config.write(STORE.format(connection=connection, password=server.password_file))
        with service:
            pids = workers_of(service.process)
            yield service
            assert workers_of(service.process) == pids


@pytest.fixture
def clients(service: RestService) -> Iterator[list[httpx.Client]]:
    """Clients with a connection each; between them they reach both workers."""
    clients = [service.client() for _ in range(CLIENTS)]
    yield clients
    for client in clients:
        client.close()


def create(client: httpx.Client) -> httpx.Response:
    return client.post(KEYS, json=new_key(extractable=False))


def made_by(client: httpx.Client) -> str:
    answer = create(client)
    assert answer.status_code == HTTPStatus.CREATED
    return str(answer.json()["resources"][0]["id"])


def wrap(client: httpx.Client, key_id: str) -> httpx.Response:
    plaintext = base64.b64encode(b"p" * 32).decode()
    return client.post(f"{KEYS}/{key_id}/actions/wrap", json={"plaintext": plaintext})


def test_a_deletion_through_one_worker_is_seen_by_all_within_a_second(
    clients: list[httpx.Client],
) -> None:
    key_id = made_by(clients[0])
    for client in clients:
        assert wrap(client, key_id).status_code == HTTPStatus.OK

    assert clients[0].delete(f"{KEYS}/{key_id}").is_success

    wait_until(
        lambda: all(wrap(client, key_id).status_code == HTTPStatus.GONE for client in clients),
        what="no worker wraps under it",
        within_seconds=1,
    )


def test_one_request_that_reaches_both_workers_makes_one_key(clients: list[httpx.Client]) -> None:
    headers = {"Idempotency-Key": uuid4().hex}

    answers = [
        client.post(KEYS, json=new_key(extractable=False), headers=headers) for client in clients
    ]

    assert {answer.status_code for answer in answers} == {HTTPStatus.CREATED}
    assert len({answer.json()["resources"][0]["id"] for answer in answers}) == 1


@pytest.mark.parametrize("how", ["the network swallows everything", "the server stands still"])
def test_a_store_that_says_nothing_is_an_answer_in_time_and_stops_nobody_else(
    clients: list[httpx.Client], proxy: Proxy, server: PostgreSql, how: str
) -> None:
    made_by(clients[0])
    answers: list[tuple[int, float]] = []

    def ask(client: httpx.Client) -> None:
        started = time.monotonic()
        status = create(client).status_code
        answers.append((status, time.monotonic() - started))

    askers = [threading.Thread(target=ask, args=(client,)) for client in clients[1:]]
    (proxy.stall if "network" in how else server.freeze)()
    try:
        for asker in askers:
            asker.start()
        while any(asker.is_alive() for asker in askers):
            started = time.monotonic()
            assert clients[0].get("../livez").status_code == HTTPStatus.OK
            assert time.monotonic() - started < 1.0
    finally:
        (proxy.resume if "network" in how else server.thaw)()
        for asker in askers:
            asker.join()

    assert {status for status, _ in answers} == {HTTPStatus.SERVICE_UNAVAILABLE}
    assert max(seconds for _, seconds in answers) < ANSWER_SECONDS_MAX
    goes_on(clients)


def test_a_server_that_was_killed_and_came_back_is_used_again(
    clients: list[httpx.Client], server: PostgreSql
) -> None:
    key_id = made_by(clients[0])
    server.kill()
    wait_until(
        lambda: all(
            create(client).status_code == HTTPStatus.SERVICE_UNAVAILABLE for client in clients
        ),
        what="both workers say so",
        within_seconds=ANSWER_SECONDS_MAX,
    )

    server.start()

    goes_on(clients)
    assert all(wrap(client, key_id).status_code == HTTPStatus.OK for client in clients)


def goes_on(clients: list[httpx.Client]) -> None:
    """Wait until every client can make keys again."""
    wait_until(
        lambda: all(create(client).status_code == HTTPStatus.CREATED for client in clients),
        what="both workers make keys again",
        within_seconds=10,
    )
