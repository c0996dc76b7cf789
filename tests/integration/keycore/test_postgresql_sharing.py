"""Several processes on one PostgreSQL: they see each other's changes, and agree."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest

from keycore.adapters.postgresql_patience import SILENCE_SECONDS
from testbed.postgresql import USER, PostgreSql
from testbed.waiting import wait_until
from tests.integration.keycore.postgresql_site import Site, StoreUser, at_once

pytestmark = pytest.mark.timeout(90)

SEEN_SECONDS_MAX = 1.0
IDLE_SECONDS = 3.0
ROUNDS = 10


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, postgresql: PostgreSql) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("sharing") / "state", postgresql)
    yield site
    site.remove()


@pytest.fixture(scope="module")
def database(site: Site) -> Iterator[str]:
    with site.database(f"sharing_{uuid4().hex}") as name:
        yield name


@pytest.fixture(scope="module")
def users(site: Site, database: str) -> Iterator[list[StoreUser]]:
    """Two processes, which the tests share."""
    with site.users(site.server.connection_to(database), 2) as users:
        yield users


def statements(server: PostgreSql, database: str) -> int:
    """How many statements keyplane has sent to a database."""
    rows = server.ask(
        "SELECT coalesce(sum(calls), 0)::int FROM pg_stat_statements "
        "JOIN pg_database ON pg_database.oid = dbid JOIN pg_roles ON pg_roles.oid = userid "
        "WHERE datname = %s AND rolname = %s",
        values=(database, USER),
    )
    return int(rows[0][0])


# --- what one does, the other sees -------------------------------------------------


@pytest.mark.parametrize(
    ("change", "then"),
    [("delete", "KeyDeletedError"), ("suspend", "KeyStateError")],
)
def test_a_change_by_one_process_stops_the_other_within_a_second(
    users: list[StoreUser], change: str, then: str
) -> None:
    one, other = users
    for _ in range(3):
        key_id = one.do("create")
        other.do("wrap", key_id=key_id)

        one.do(change, key_id=key_id)

        wait_until(
            lambda key_id=key_id: other.try_to("wrap", key_id=key_id).get("error") == then,  # type: ignore[misc]
            what="the other one sees it",
            within_seconds=SEEN_SECONDS_MAX,
        )


def test_a_change_is_seen_by_a_process_that_never_stops_using_the_key(
    users: list[StoreUser],
) -> None:
    one, other = users
    key_id = one.do("create")
    other.do("load", threads=2)
    before = other.do("version_of", key_id=key_id)

    one.do("rotate", key_id=key_id)

    wait_until(
        lambda: other.do("version_of", key_id=key_id) != before,
        what="the other one wraps under the new version",
        within_seconds=SEEN_SECONDS_MAX,
    )
    other.do("halt")


def test_a_change_is_told_and_not_asked_for(
    users: list[StoreUser], site: Site, database: str
) -> None:
    """Whoever only asked would be half a second late."""
    one, other = users
    late = []
    for _ in range(ROUNDS):
        key_id = one.do("create")
        other.do("wrap", key_id=key_id)
        # The first one has reserved uses, and after a write a process looks anyhow.
        other.do("wrap", key_id=key_id)
        one.do("delete", key_id=key_id)
        deleted = time.monotonic()
        wait_until(
            lambda key_id=key_id: "error" in other.try_to("wrap", key_id=key_id),  # type: ignore[misc]
            what="the other one sees it",
            within_seconds=SEEN_SECONDS_MAX,
        )
        late.append(time.monotonic() - deleted)

    assert sorted(late)[ROUNDS // 2] < 0.2


def test_idle_processes_leave_the_database_alone(
    users: list[StoreUser], site: Site, database: str
) -> None:
    key_id = users[0].do("create")
    for user in users:
        user.do("wrap", key_id=key_id)
    before = statements(site.server, database)

    # That nothing happens can only be seen by letting time pass.
    threading.Event().wait(IDLE_SECONDS)

    # A listener asks every ten seconds whether its server is still there.
    assert statements(site.server, database) - before <= 2 * len(users)


def test_busy_processes_ask_for_changes_a_few_times_a_second(
    users: list[StoreUser], site: Site, database: str
) -> None:
    key_id = users[0].do("create")
    users[1].do("wrap", key_id=key_id)
    before = statements(site.server, database)

    wrapped = users[1].do("wrap_for", key_id=key_id, seconds=2.0)

    asked = statements(site.server, database) - before
    assert wrapped > 200
    # Two looks in a second, and one before and after. A checkpoint of the audit log for every
    # thousand lines, one for those of before, and one of each process because time has passed.
    looks, checkpoints = 2 * 2 + 2, wrapped // 1000 + 1 + len(users)
    # Each of them is one statement in a transaction, and no checkpoint makes anybody look.
    # A listener asks every ten seconds whether its server is still there.
    assert asked <= 3 * (looks + checkpoints) + len(users)


# --- what several do at once has one outcome -----------------------------------------


def test_creates_with_one_idempotency_key_make_one_key(users: list[StoreUser]) -> None:
    for number in range(ROUNDS):
        before = users[0].do("count")

        answers = at_once(users, "create", idempotency_key=f"request-{number}")

        assert answers[0]["value"] == answers[1]["value"]
        assert users[0].do("count") == before + 1


def test_one_of_two_deletions_deletes(users: list[StoreUser]) -> None:
    for _ in range(ROUNDS):
        key_id = users[0].do("create")

        answers = at_once(users, "delete", key_id=key_id)

        assert sorted(answer.get("error", "") for answer in answers) == ["", "KeyDeletedError"]


def test_one_request_for_a_rotation_rotates_once(users: list[StoreUser]) -> None:
    for number in range(ROUNDS):
        key_id = users[0].do("create")

        answers = at_once(users, "rotate", key_id=key_id, marker=f"request-{number}")

        assert all("error" not in answer for answer in answers)
        versions = at_once(users, "versions", key_id=key_id)
        assert versions[0]["value"] == versions[1]["value"]
        assert len(versions[0]["value"]) == 2


def test_no_rotation_is_lost_when_two_processes_rotate_one_key(users: list[StoreUser]) -> None:
    key_id = users[0].do("create")
    first = users[0].do("wrap", key_id=key_id)

    answers = at_once(users, "rotate", key_id=key_id, times=ROUNDS)

    assert all("error" not in answer for answer in answers)
    versions = [set(answer["value"]) for answer in at_once(users, "versions", key_id=key_id)]
    assert versions[0] == versions[1]
    assert len(versions[0]) == 1 + 2 * ROUNDS
    for user in users:
        user.do("unwrap", key_id=key_id, ciphertext=first)


def test_a_deletion_and_a_rotation_at_once_leave_a_deleted_key(users: list[StoreUser]) -> None:
    for _ in range(ROUNDS):
        key_id = users[0].do("create")
        users[0].tell("rotate", key_id=key_id)
        users[1].tell("delete", key_id=key_id)

        rotated, deleted = (user.answer() for user in users)

        assert rotated.get("error", "KeyDeletedError") == "KeyDeletedError"
        assert "error" not in deleted
        for user in users:
            assert user.try_to("wrap", key_id=key_id)["error"] == "KeyDeletedError"


def test_a_writer_that_waits_for_another_waits_no_longer_than_the_deadline(
    users: list[StoreUser], site: Site, database: str
) -> None:
    dsn = site.server.connection_to(database)
    password = site.server.password_file.read_text(encoding="ascii").strip()
    with psycopg.connect(dsn, password=password) as blocker:
        blocker.execute("SELECT sequence FROM changes FOR UPDATE")

        answer = users[0].try_to("create")

        assert answer["error"] == "StoreUnavailableError"
        assert answer["seconds"] < site.deadline_seconds + 1.5
        blocker.rollback()
    wait_until(
        lambda: "error" not in users[0].try_to("create"),
        within_seconds=2 * SILENCE_SECONDS,
        what="writes go on",
    )
