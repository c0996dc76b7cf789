"""How a REST server ends: whatever a client has sent is answered, and the end has a bound."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from keyrest.limits import Limits
from testbed.waiting import wait_until
from tests.integration.keyrest.crowd import Crowd
from tests.integration.keyrest.raw_client import RawClient, get, post
from tests.integration.keyrest.served_app import OwnTls, ServedApp, SmallApp

SECONDS_MAX = 20
PATIENT = Limits(
    quiet_seconds=0.1,
    newcomer_seconds=SECONDS_MAX,
    accept_seconds=SECONDS_MAX,
    grace_seconds=SECONDS_MAX,
)
"""It closes the door when all is quiet, and not a moment earlier."""

HASTY = Limits(quiet_seconds=0.1, accept_seconds=0.3, grace_seconds=SECONDS_MAX)
"""It closes the door although some still come."""


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> OwnTls:
    return OwnTls(tmp_path_factory.mktemp("stop"))


@pytest.fixture
def app() -> Iterator[SmallApp]:
    app = SmallApp()
    yield app
    app.may_answer.set()


@pytest.fixture
def served(app: SmallApp, tls: OwnTls) -> Iterator[ServedApp]:
    with ServedApp(app, tls.files, PATIENT) as served:
        yield served
        app.may_answer.set()


@pytest.fixture
def client(served: ServedApp, tls: OwnTls) -> Iterator[RawClient]:
    with RawClient(served.address, tls.client) as client:
        yield client


@pytest.fixture
def other(served: ServedApp, tls: OwnTls) -> Iterator[RawClient]:
    with RawClient(served.address, tls.client) as client:
        yield client


def wait_for_requests(app: SmallApp, count: int) -> None:
    wait_until(lambda: app.started == count, what="the request", within_seconds=SECONDS_MAX)


def test_a_server_without_clients_ends_at_once(served: ServedApp) -> None:
    served.begin_stop()

    assert served.wait_for_end() < 2


def test_nobody_can_connect_to_a_server_that_has_ended(served: ServedApp) -> None:
    served.begin_stop()
    served.wait_for_end()

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(served.address)


def test_a_request_under_way_is_answered_and_told_that_it_is_the_last(
    served: ServedApp, app: SmallApp, client: RawClient
) -> None:
    client.send(get("/wait"))
    wait_for_requests(app, 1)

    served.begin_stop()
    app.may_answer.set()

    answer = client.answer()
    assert answer.status == 200
    assert answer.is_last
    assert client.has_ended()
    served.wait_for_end()


def test_a_request_that_has_come_in_half_is_answered(
    served: ServedApp, app: SmallApp, client: RawClient
) -> None:
    request = post(b"a" * 1000)
    client.send(request[:-500])
    wait_for_requests(app, 1)

    served.begin_stop()
    client.send(request[-500:])

    answer = client.answer()
    assert answer.json["bytes"] == 1000
    assert answer.is_last


def test_an_idle_connection_may_still_ask_while_others_are_served(
    served: ServedApp, app: SmallApp, client: RawClient, other: RawClient
) -> None:
    assert client.ask(get()).status == 200
    other.send(get("/wait"))
    wait_for_requests(app, 2)

    served.begin_stop()
    answer = client.ask(get())

    assert answer.status == 200
    assert answer.is_last
    app.may_answer.set()
    assert other.answer().is_last


def test_a_new_connection_is_let_in_while_others_are_served(
    served: ServedApp, app: SmallApp, client: RawClient, tls: OwnTls
) -> None:
    client.send(get("/wait"))
    wait_for_requests(app, 1)

    served.begin_stop()
    with RawClient(served.address, tls.client) as late:
        answer = late.ask(get())

    assert answer.status == 200
    assert answer.is_last


def test_the_first_request_of_a_connection_is_waited_for(app: SmallApp, tls: OwnTls) -> None:
    """Whoever has just shaken hands is about to send one."""
    limits = Limits(quiet_seconds=0.05, newcomer_seconds=SECONDS_MAX, grace_seconds=SECONDS_MAX)
    with (
        ServedApp(app, tls.files, limits) as served,
        RawClient(served.address, tls.client) as newcomer,
    ):
        wait_until(lambda: served.has_connections, what="it is in", within_seconds=SECONDS_MAX)
        served.begin_stop()
        wait_until(lambda: is_refused(served), what="a closed door", within_seconds=SECONDS_MAX)

        answer = newcomer.ask(get())

    assert answer.status == 200
    assert answer.is_last


def test_a_connection_without_any_request_is_not_waited_for_long(
    app: SmallApp, tls: OwnTls
) -> None:
    limits = Limits(quiet_seconds=0.05, newcomer_seconds=0.2, grace_seconds=SECONDS_MAX)
    with (
        ServedApp(app, tls.files, limits) as served,
        RawClient(served.address, tls.client) as silent,
    ):
        wait_until(lambda: served.has_connections, what="it is in", within_seconds=SECONDS_MAX)
        served.begin_stop()

        assert silent.has_ended()
        assert served.wait_for_end() < 3


def is_refused(served: ServedApp) -> bool:
    try:
        socket.create_connection(served.address).close()
    except ConnectionRefusedError:
        return True
    return False


def test_an_idle_connection_is_closed_in_order(served: ServedApp, client: RawClient) -> None:
    assert client.ask(get()).status == 200

    served.begin_stop()

    assert client.has_ended()


def test_a_client_that_ignores_its_end_does_not_hold_up_the_server(
    served: ServedApp, client: RawClient
) -> None:
    """Many clients look at an idle connection only when they need it again."""
    assert client.ask(get()).status == 200

    served.begin_stop()

    assert served.wait_for_end() < 3


def test_a_large_answer_to_a_slow_reader_is_given_whole(
    served: ServedApp, app: SmallApp, client: RawClient
) -> None:
    size = 20_000_000
    client.send(get(f"/large?{size}"))
    wait_until(lambda: app.answered == 1, what="the answer", within_seconds=SECONDS_MAX)

    served.begin_stop()

    assert len(client.answer().body) == size + len('""')


def test_no_request_is_lost_under_load(app: SmallApp, tls: OwnTls) -> None:
    with (
        ServedApp(app, tls.files, HASTY) as served,
        Crowd(served.address, tls.client, post(b"a" * 5000)) as crowd,
    ):
        wait_until(lambda: crowd.answered > 300, what="load", within_seconds=SECONDS_MAX)

        served.begin_stop()
        seconds = served.wait_for_end()

    assert crowd.lost == []
    assert seconds < HASTY.accept_seconds + 5


def test_a_long_request_is_answered_after_everybody_else_has_gone(
    app: SmallApp, tls: OwnTls
) -> None:
    with (
        ServedApp(app, tls.files, HASTY) as served,
        RawClient(served.address, tls.client) as client,
        RawClient(served.address, tls.client) as idle,
    ):
        assert idle.ask(get()).status == 200
        client.send(get("/wait"))
        wait_for_requests(app, 2)

        served.begin_stop()
        assert idle.has_ended()
        app.may_answer.set()

        answer = client.answer()
        assert answer.status == 200
        assert answer.is_last


def test_a_second_signal_does_not_cut_the_first_one_short(
    served: ServedApp, app: SmallApp, client: RawClient
) -> None:
    client.send(get("/wait"))
    wait_for_requests(app, 1)

    served.begin_stop()
    served.begin_stop()
    app.may_answer.set()

    assert client.answer().status == 200


def test_a_request_that_takes_too_long_is_given_up(
    app: SmallApp, tls: OwnTls, caplog: pytest.LogCaptureFixture
) -> None:
    limits = Limits(quiet_seconds=0.1, accept_seconds=0.2, grace_seconds=0.5)
    with (
        ServedApp(app, tls.files, limits) as served,
        RawClient(served.address, tls.client) as client,
    ):
        client.send(get("/wait"))
        wait_for_requests(app, 1)

        served.begin_stop()

        assert client.has_ended()
        app.may_answer.set()
        assert served.wait_for_end() < SECONDS_MAX
    # uvicorn would complain about an application that answers nothing.
    assert caplog.messages == []
