"""The token is taken away for longer than a write seed lives, under both outage policies.

Real API servers; the token is a directory that is moved away and back. ``outage_site``
tells how it goes; each test here is one rule that the recorded story must keep.
"""

from __future__ import annotations

import pytest

from tests.e2e.outage_site import HEALED_SECONDS_MAX, SEED_SECONDS, OutageStory
from tests.e2e.secret_traffic import between, failed

# The first test waits for the stories of all sites.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(480)]

DAY = 24 * 60 * 60.0

STATUS_SECONDS_MAX = 10.0
"""How long the provider may have said ``ok`` after the token had gone."""


@pytest.fixture(params=["coast", "fail_closed"])
def story(request: pytest.FixtureRequest) -> OutageStory:
    """Either site's story, for the rules that both keep."""
    told: OutageStory = request.getfixturevalue(request.param)
    return told


# --- both policies ------------------------------------------------------------


def test_everything_works_before_the_outage(story: OutageStory) -> None:
    before = between(story.writes, 0, story.away_at)

    assert before
    assert failed(before) == []


def test_the_apiserver_shows_red_within_a_minute(story: OutageStory) -> None:
    assert story.red_at - story.away_at < 60


def test_what_was_read_before_can_be_read_all_the_time(story: OutageStory) -> None:
    """The API server keeps the seeds that it has decrypted, and asks nobody."""
    reads = between(story.reads, story.away_at, story.back_at)

    assert len(reads) > 100
    assert failed(reads) == []


def test_the_provider_tells_that_it_is_not_ready_and_that_no_restart_is_due(
    story: OutageStory,
) -> None:
    assert (story.late_readyz, story.late_livez) == (503, 200)


def test_the_provider_tells_how_long_seeds_stay_readable(story: OutageStory) -> None:
    lasted = story.back_at - story.away_at

    for seconds in story.late_seeds_readable.values():
        assert DAY - lasted - 120 < seconds < DAY
    assert set(story.late_seeds_readable) == {"first", "last"}
    assert story.seeds_readable_afterwards == {}


def test_all_is_green_soon_after_the_token_is_back_and_nothing_was_restarted(
    story: OutageStory,
) -> None:
    assert story.green_at - story.back_at < HEALED_SECONDS_MAX
    assert story.processes_after == story.processes_before
    assert None not in story.processes_after


def test_writes_and_reads_succeed_when_all_is_green_again(story: OutageStory) -> None:
    after = [*story.writes, *story.reads]

    assert story.last_write_at > story.green_at
    assert failed(between(after, story.last_write_at, float("inf"))) == []


# --- one policy ---------------------------------------------------------------


def test_coasting_no_write_ever_fails(coast: OutageStory) -> None:
    late = between(coast.writes, coast.away_at + SEED_SECONDS + STATUS_SECONDS_MAX, coast.back_at)

    assert late
    assert failed(coast.writes) == []


def test_failing_closed_writes_end_when_the_last_seed_does(fail_closed: OutageStory) -> None:
    first = failed(fail_closed.writes)[0]

    assert SEED_SECONDS - 60 < first.at - fail_closed.away_at < SEED_SECONDS + STATUS_SECONDS_MAX
    after = between(fail_closed.writes, first.at, fail_closed.back_at)
    assert len(after) > 5
    assert failed(after) == after
