"""PostgreSQL dies, is cut off, stands still and is replaced, under load.

Each time every acknowledged key is there afterwards and opens its ciphertexts, no call has
waited for long, nothing was made twice, and the same processes go on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from testbed import postgresql as postgresql_server
from testbed.postgresql import PostgreSql, either
from testbed.proxy import Proxy
from testbed.waiting import wait_until
from tests.integration.keycore.postgresql_site import TEMPLATE, LoadedSite, Site, StoreUser
from tests.skipping import cannot_run

pytestmark = pytest.mark.timeout(120)

PROCESSES = 2
FAILOVER = "failover"
CALL_SECONDS_MAX = 5.0
"""The deadline of two seconds; one more, so that the server's own word comes first; and the
two that the driver gives each host of a list at the least."""

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


def check_promises(load: LoadedSite) -> None:
    """End the load, and look for everything that was acknowledged."""
    load.wait_for_progress(what="all processes go on")
    acknowledged = load.halt()
    for user in load.users:
        assert user.do("broken", acknowledged=acknowledged) == []
    living = [kept for kept in acknowledged.values() if not kept["deleted"]]
    # Whoever got no answer has asked again, and nothing was made twice.
    assert load.users[0].do("count") == load.keys_before + len(living)
    assert load.errors <= {"StoreUnavailableError"}
    assert load.slowest < CALL_SECONDS_MAX


def test_a_server_that_is_killed_again_and_again_loses_nothing(
    users: list[StoreUser], server: PostgreSql
) -> None:
    load = LoadedSite(users)
    for _ in range(3):
        server.kill()
        server.start()
        load.wait_for_progress(what="all processes go on")

    check_promises(load)


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
    check_promises(load)


def test_connections_that_are_cut_again_and_again_lose_nothing(
    users: list[StoreUser], proxy: Proxy
) -> None:
    load = LoadedSite(users)
    for _ in range(20):
        wait_until(
            lambda: proxy.open_connections > 0, what="somebody is connected", within_seconds=5
        )
        proxy.cut()

    check_promises(load)


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
    check_promises(load)


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


# --- another server takes over -------------------------------------------------------


@pytest.fixture
def primary(tmp_path: Path, site: Site, server: PostgreSql) -> Iterator[PostgreSql]:
    """A server of the test's own, with a database that is ready for use."""
    with server.standby(tmp_path / "primary", name="primary") as running:
        running.promote()
        running.create_database(FAILOVER, template=TEMPLATE)
        yield running


@pytest.fixture
def standby(tmp_path: Path, primary: PostgreSql) -> Iterator[PostgreSql]:
    """A server that follows the primary, but that nobody waits for."""
    with primary.standby(tmp_path / "standby") as running:
        yield running


@pytest.fixture
def clients(site: Site, primary: PostgreSql, standby: PostgreSql) -> Iterator[list[StoreUser]]:
    """Processes that know both servers."""
    with site.users(either(primary, standby, database=FAILOVER), PROCESSES) as users:
        yield users


@pytest.mark.parametrize("end", ["dies", "stands still"])
def test_a_promoted_standby_takes_over_with_everything(
    primary: PostgreSql, standby: PostgreSql, clients: list[StoreUser], end: str
) -> None:
    primary.acknowledge_after(standby)
    load = LoadedSite(clients)

    (primary.kill if end == "dies" else primary.freeze)()
    standby.promote()

    load.wait_for_progress(what="all processes go on")
    check_promises(load)
    primary.kill()


def test_nothing_is_wrapped_under_a_version_that_a_failover_has_lost(
    primary: PostgreSql, standby: PostgreSql, clients: list[StoreUser]
) -> None:
    """A standby that nobody waited for may lack what was acknowledged last."""
    one, other = clients
    key_id = one.do("create")
    first = one.do("version_of", key_id=key_id)
    wait_until(
        lambda: standby.ask("SELECT count(*) FROM keys", database=FAILOVER) == [(1,)],
        what="the standby has the key",
        within_seconds=5,
    )
    standby.stop()
    one.do("rotate", key_id=key_id)
    assert one.do("version_of", key_id=key_id) != first

    primary.kill()
    standby.start()
    standby.promote()
    # So many writes that the counter alone would not tell that some are missing.
    for _ in range(5):
        wait_until(lambda: "error" not in other.try_to("create"), what="writes", within_seconds=5)

    assert one.do("version_of", key_id=key_id) == first
