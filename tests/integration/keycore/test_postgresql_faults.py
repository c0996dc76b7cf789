"""PostgreSQL dies, is cut off and stands still, under load.

Each time every acknowledged key is there afterwards and opens its ciphertexts, no call has
waited for long, nothing was made twice, and the same processes go on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from uuid import uuid4

import pytest

from testbed import postgresql as postgresql_server
from testbed.postgresql import PostgreSql
from testbed.proxy import Proxy
from testbed.waiting import wait_until
from tests.integration.keycore.postgresql_site import (
    CALL_SECONDS_MAX,
    LoadedSite,
    Site,
    StoreUser,
)
from tests.skipping import cannot_run

pytestmark = pytest.mark.timeout(120)

PROCESSES = 2
OUTAGE_SECONDS = CALL_SECONDS_MAX + 1
"""A call that waits for the end of the outage has waited for too long."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSql]:
    """A server that may be broken; every test leaves it running."""
    if reason := postgresql_server.obstacle():
        cannot_run(reason)
    with PostgreSql(tmp_path_factory.mktemp("faults")) as running:
        yield running


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, server: PostgreSql) -> Site:
    return Site(tmp_path_factory.mktemp("faults") / "state", server)


@pytest.fixture(scope="module")
def database(site: Site) -> Iterator[str]:
    with site.database(f"faults_{uuid4().hex}") as name:
        yield name


@pytest.fixture(scope="module")
def proxy(server: PostgreSql) -> Iterator[Proxy]:
    with Proxy(server.port) as running:
        yield running


@pytest.fixture(scope="module")
def users(site: Site, database: str, proxy: Proxy) -> Iterator[list[StoreUser]]:
    """Processes that reach the server through the proxy. They survive all tests."""
    connection = site.server.connection_to(database, through=proxy.port)
    with site.users(connection, PROCESSES) as users:
        yield users


def test_a_server_that_is_killed_again_and_again_loses_nothing(
    users: list[StoreUser], server: PostgreSql
) -> None:
    load = LoadedSite(users)
    for _ in range(3):
        server.kill()
        server.start()
        load.wait_for_progress(what="all processes go on")

    load.check_promises()


def test_a_server_that_is_gone_for_a_while_is_found_again(
    users: list[StoreUser], server: PostgreSql
) -> None:
    load = LoadedSite(users)
    server.kill()
    wait_until(
        lambda: users[0].try_to("create").get("error") == "StoreUnavailableError",
        what="the processes notice",
        within_seconds=5,
    )

    server.start()

    load.wait_for_progress(what="all processes go on", within_seconds=5)
    load.check_promises()


def test_connections_that_are_cut_again_and_again_lose_nothing(
    users: list[StoreUser], proxy: Proxy
) -> None:
    load = LoadedSite(users)
    for _ in range(20):
        wait_until(
            lambda: proxy.open_connections > 0, what="somebody is connected", within_seconds=5
        )
        proxy.cut()

    load.check_promises()


@pytest.mark.parametrize("how", ["the network swallows everything", "the server stands still"])
def test_nobody_waits_long_for_a_server_that_says_nothing(
    users: list[StoreUser], proxy: Proxy, server: PostgreSql, how: str
) -> None:
    load = LoadedSite(users)
    (proxy.stall if "network" in how else server.freeze)()

    started = time.monotonic()
    while time.monotonic() - started < OUTAGE_SECONDS:
        answer = users[0].try_to("create")
        assert answer.get("error") == "StoreUnavailableError"
        assert answer["seconds"] < CALL_SECONDS_MAX

    (proxy.resume if "network" in how else server.thaw)()
    load.wait_for_progress(what="all processes go on", within_seconds=10)
    load.check_promises()


def test_changes_that_were_missed_while_the_listener_was_cut_off_are_seen(
    users: list[StoreUser], site: Site, database: str, proxy: Proxy
) -> None:
    cut_off = users[0]
    with site.users(site.server.connection_to(database), 1) as (other,):
        key_id = other.do("create")
        cut_off.do("wrap", key_id=key_id)
        proxy.refuse()
        proxy.cut()

        other.do("delete", key_id=key_id)
        # Its key is no older than the bound; after that it must have looked.
        wait_until(
            lambda: cut_off.try_to("wrap", key_id=key_id).get("error") == "StoreUnavailableError",
            what="it does not use what may have been changed",
            within_seconds=1,
        )

        proxy.accept()
        wait_until(
            lambda: cut_off.try_to("wrap", key_id=key_id).get("error") == "KeyDeletedError",
            what="it sees the change",
            within_seconds=5,
        )


def test_a_new_password_is_used_without_a_restart(
    users: list[StoreUser], site: Site, proxy: Proxy
) -> None:
    server = site.server
    users[0].do("create")
    before = server.password_file.read_text(encoding="ascii")
    try:
        server.set_password(uuid4().hex)
        proxy.cut()

        for user in users:
            wait_until(
                lambda user=user: "error" not in user.try_to("create"),  # type: ignore[misc]
                what="it logs in with the new password",
                within_seconds=5,
            )
    finally:
        server.set_password(before.strip())
