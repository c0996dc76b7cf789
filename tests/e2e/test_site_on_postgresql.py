"""PostgreSQL is killed, cut off and replaced under a whole site, and nobody is let down.

Real hosts, providers, REST processes, operator, API server and database servers.
``site_on_postgresql`` tells how it goes; each test here is one rule that the recorded story
must keep.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from testbed.binaries import Binaries
from testbed.postgresql import obstacle
from tests.e2e.key_applier import is_ready
from tests.e2e.secret_traffic import failed
from tests.e2e.site_host import DEADLINE_SECONDS
from tests.e2e.site_on_postgresql import KILLS, SiteOnPostgreSql, SiteStory
from tests.skipping import cannot_run

# The first test waits for the story.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

ANSWER_SECONDS_MAX = DEADLINE_SECONDS + 3.0
"""One more, so that the server's own word comes first; and the two that the driver gives
each server of a list at the least."""

RECOVERY_SECONDS_MAX = 5.0
SEEN_SECONDS_MAX = 1.0


@pytest.fixture(scope="module")
def story(binaries: Binaries) -> Iterator[SiteStory]:
    """What happened at the site."""
    if reason := obstacle():
        cannot_run(reason)
    # A short path: unix sockets lie in it.
    with TemporaryDirectory(prefix="keyplane-") as directory:
        yield SiteOnPostgreSql(Path(directory), binaries).live()


def test_callers_are_told_of_an_outage_and_of_nothing_else(story: SiteStory) -> None:
    told = Counter(sent.status for sent in story.sent)
    good = {HTTPStatus.OK, HTTPStatus.CREATED, HTTPStatus.NO_CONTENT}

    # Of two deletions at once, one finds that the other has been made.
    assert told.keys() - good <= {HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GONE}
    assert told[HTTPStatus.SERVICE_UNAVAILABLE] > KILLS
    assert told[HTTPStatus.CREATED] > 30


def test_everything_that_was_acknowledged_is_there_through_both_hosts(story: SiteStory) -> None:
    assert any(promise.deleted for promise in story.promises)
    assert story.broken == {"a": [], "b": []}


def test_creates_with_one_idempotency_key_through_both_hosts_at_once_make_one_key(
    story: SiteStory,
) -> None:
    found = Counter(story.names)

    for promise in story.promises:
        assert found[promise.name] == (0 if promise.deleted else 1)


def test_nobody_waits_much_longer_than_the_deadline(story: SiteStory) -> None:
    assert max(sent.seconds for sent in story.sent) < ANSWER_SECONDS_MAX


def test_no_call_of_a_provider_fails(story: SiteStory) -> None:
    for seen in story.kms:
        assert (seen.failures, seen.load.texts) == (0, ())
        assert seen.health == ("ok",)
        assert seen.load.calls > 100


def test_no_call_of_a_provider_waits_for_the_database(story: SiteStory) -> None:
    for seen in story.kms:
        assert seen.load.latency.max < DEADLINE_SECONDS * 1_000_000


def test_no_write_and_no_read_of_a_secret_fails(story: SiteStory) -> None:
    assert len(story.attempts) > 20
    assert failed(story.attempts) == []


def test_every_host_goes_on_by_itself_soon(story: SiteStory) -> None:
    late = {each.fault: each.seconds for each in story.recoveries}

    assert len(late) == 5
    assert max(late.values()) < RECOVERY_SECONDS_MAX, late


def test_a_change_through_one_host_is_seen_by_the_other_within_a_second(story: SiteStory) -> None:
    late = {each.fault: max(each.seen_seconds) for each in story.recoveries}

    assert max(late.values()) < SEEN_SECONDS_MAX, late


def test_both_providers_carry_out_a_rotation_afterwards(story: SiteStory) -> None:
    one, other = (seen.key_ids for seen in story.kms)

    assert len(one) == 2
    assert one == other


def test_every_key_resource_becomes_ready_with_one_key(story: SiteStory) -> None:
    found = Counter(story.names)
    names = [resource["metadata"]["name"] for resource in story.resources]

    assert len(names) > 5
    assert all(is_ready(resource) for resource in story.resources)
    assert {found[name] for name in names} == {1}


def test_every_rotation_that_a_key_resource_asks_for_is_made_once(story: SiteStory) -> None:
    versions = {
        resource["metadata"]["name"]: resource["status"]["currentVersion"]
        for resource in story.resources
    }

    assert story.turned
    assert versions == {name: 2 if name in story.turned else 1 for name in versions}


def test_every_process_survives(story: SiteStory) -> None:
    assert len(story.processes_before["REST of a"]) == 3
    assert story.processes_after == story.processes_before
