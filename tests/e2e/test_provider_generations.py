"""Rotations without re-encryption, on two nodes under traffic: nothing fails at any time.

Real API servers, each with a provider of its own on one store. ``generations_site`` tells
how it goes; each test here is one rule that the recorded story must keep.
"""

from __future__ import annotations

import pytest

from tests.e2e.generations_site import HEALTHY_SECONDS_MAX, ROTATIONS, GenerationsStory
from tests.e2e.secret_traffic import failed

# The first test waits for the stories of all sites.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(480)]


def test_no_read_and_no_write_ever_fails(generations: GenerationsStory) -> None:
    assert len(generations.attempts) > 500
    assert failed(generations.attempts) == []


@pytest.mark.parametrize("last", ["apiserver", "provider"])
def test_whoever_starts_last_all_is_healthy_within_half_a_minute(
    generations: GenerationsStory, last: str
) -> None:
    assert generations.healthy_seconds[last] < HEALTHY_SECONDS_MAX


def test_objects_of_every_generation_lie_in_etcd_and_nothing_else_does(
    generations: GenerationsStory,
) -> None:
    assert len(generations.key_ids) == ROTATIONS + 1
    assert set(generations.stored_under) == set(generations.key_ids)


def test_every_object_is_readable_through_both_apiservers_after_their_restart(
    generations: GenerationsStory,
) -> None:
    assert len(generations.written) == sum(generations.stored_under.values())
    assert list(generations.unreadable.values()) == [[], []]


def test_a_rotation_waits_for_a_node_that_is_away(generations: GenerationsStory) -> None:
    assert generations.waiting.waiting_for == ["node-b"]


def test_the_other_node_goes_on_with_the_old_version_meanwhile(
    generations: GenerationsStory,
) -> None:
    waiting = generations.waiting

    assert waiting.hashes_meanwhile == {waiting.hash_before}
    assert waiting.written_under == {waiting.active_before}


def test_the_rotation_goes_on_when_the_node_is_back(generations: GenerationsStory) -> None:
    waiting = generations.waiting

    assert waiting.active_after not in ("", waiting.active_before)
    assert generations.key_ids[-1] == waiting.active_after


def test_providers_and_apiservers_show_one_hash_of_one_key_id(
    generations: GenerationsStory,
) -> None:
    hashes = [*generations.provider_hashes, *generations.apiserver_hashes]

    assert all(len(seen) == 1 for seen in hashes)
    assert len(set.union(*hashes)) == 1
