"""Another PostgreSQL server takes over, under load: the same processes go on with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.postgresql import PostgreSql
from testbed.postgresql_standby import Standby, either
from testbed.waiting import wait_until
from tests.integration.keycore.postgresql_site import TEMPLATE, LoadedSite, Site, StoreUser

pytestmark = pytest.mark.timeout(120)

PROCESSES = 2
FAILOVER = "failover"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, postgresql: PostgreSql) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("failover") / "state", postgresql)
    yield site
    site.remove()


@pytest.fixture
def primary(tmp_path: Path, site: Site, postgresql: PostgreSql) -> Iterator[PostgreSql]:
    """A server of the test's own, with a database that is ready for use."""
    with Standby(postgresql, tmp_path / "primary", name="primary") as running:
        running.promote()
        running.create_database(FAILOVER, template=TEMPLATE)
        yield running


@pytest.fixture
def standby(tmp_path: Path, primary: PostgreSql) -> Iterator[Standby]:
    """A server that follows the primary, but that nobody waits for."""
    with Standby(primary, tmp_path / "standby") as running:
        yield running


@pytest.fixture
def clients(site: Site, primary: PostgreSql, standby: Standby) -> Iterator[list[StoreUser]]:
    """Processes that know both servers."""
    connection = either(primary.port, standby.port, database=FAILOVER)
    with site.users(connection, PROCESSES) as users:
        yield users


@pytest.mark.parametrize("end", ["dies", "stands still"])
def test_a_promoted_standby_takes_over_with_everything(
    primary: PostgreSql, standby: Standby, clients: list[StoreUser], end: str
) -> None:
    standby.be_awaited()
    load = LoadedSite(clients)

    (primary.kill if end == "dies" else primary.freeze)()
    standby.promote()

    load.wait_for_progress(what="all processes go on")
    load.check_promises()
    primary.kill()


def test_nothing_is_wrapped_under_a_version_that_a_failover_has_lost(
    primary: PostgreSql, standby: Standby, clients: list[StoreUser]
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

    # Its key is no older than the bound; after that it must have looked.
    wait_until(
        lambda: one.do("version_of", key_id=key_id) == first,
        what="the version that is left is used",
        within_seconds=1,
    )
