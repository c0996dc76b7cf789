"""Turns at the token: deadlines, calls that hang, and working copies that must go."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import pytest

from keycore.adapters.pkcs11_lanes import Lane, Lanes
from keycore.adapters.pkcs11_profile import Login, Profile
from keycore.domain.ids import VersionId, new_uuid
from keycore.errors import TokenUnavailableError
from keycore.ports import WrappedKey

LOGIN = cast("Login", None)
DEADLINE = 0.2


class CountingProfile:
    """Makes and destroys working copies, which are plain texts here."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.destroyed: list[str] = []

    def working_copy(self, _: Login, blob: bytes) -> str:
        copy = f"{blob.decode()}#{len(self.made)}"
        self.made.append(copy)
        return copy

    def destroy(self, working: Any) -> None:
        self.destroyed.append(working)


@pytest.fixture
def profile() -> CountingProfile:
    return CountingProfile()


def lanes_of(profile: CountingProfile, count: int, *, copies_max: int = 10) -> Lanes:
    lanes = [Lane(cast("Profile", profile), copies_max) for _ in range(count)]
    return Lanes(lanes, nullcontext(), DEADLINE)


@contextmanager
def taken(lanes: Lanes) -> Iterator[Lane]:
    lane = lanes.take()
    try:
        yield lane
    finally:
        lanes.give_back(lane)


def key(name: str) -> WrappedKey:
    return WrappedKey(VersionId(new_uuid()), name.encode())


def test_nobody_waits_longer_than_the_deadline(profile: CountingProfile) -> None:
    lanes = lanes_of(profile, 1)

    with taken(lanes):
        started = time.monotonic()
        with pytest.raises(TokenUnavailableError, match=r"has not answered for 0\.2 seconds"):
            lanes.take()

    assert time.monotonic() - started < 5 * DEADLINE


def test_nobody_waits_once_every_lane_holds_an_older_call(profile: CountingProfile) -> None:
    lanes = lanes_of(profile, 2)
    with taken(lanes), taken(lanes):
        with pytest.raises(TokenUnavailableError):
            lanes.take()

        started = time.monotonic()
        for _ in range(100):
            with pytest.raises(TokenUnavailableError):
                lanes.take()

        assert time.monotonic() - started < DEADLINE


def test_one_call_that_hangs_leaves_the_other_lanes_free(profile: CountingProfile) -> None:
    lanes = lanes_of(profile, 2)

    with taken(lanes):
        for _ in range(10):
            with taken(lanes):
                pass


def test_a_lane_that_comes_back_goes_to_who_waits(profile: CountingProfile) -> None:
    lanes = lanes_of(profile, 1)
    lane = lanes.take()
    threading.Timer(DEADLINE / 4, lanes.give_back, [lane]).start()

    assert lanes.take() is lane


def test_the_age_of_the_oldest_running_call_is_told(profile: CountingProfile) -> None:
    lanes = lanes_of(profile, 2)
    assert lanes.stalled_seconds() == 0.0

    with taken(lanes) as lane:
        lane.since = time.monotonic() - 7
        with taken(lanes):
            assert lanes.stalled_seconds() == pytest.approx(7, abs=1)

    assert lanes.stalled_seconds() == 0.0


def test_a_key_is_unwrapped_once_in_each_lane(profile: CountingProfile) -> None:
    lane, one = Lane(cast("Profile", profile), 10), key("one")

    copies = {lane.working_copy(LOGIN, one) for _ in range(5)}

    assert copies == {"one#0"}


def test_the_copy_that_was_used_longest_ago_makes_room(profile: CountingProfile) -> None:
    lane, one, two, three = Lane(cast("Profile", profile), 2), key("1"), key("2"), key("3")
    for wanted in (one, two, one, three):
        lane.working_copy(LOGIN, wanted)

    assert profile.destroyed == ["2#1"]


def test_a_forgotten_copy_is_destroyed_at_once_where_nobody_works(
    profile: CountingProfile,
) -> None:
    lanes, one = lanes_of(profile, 2), key("1")
    with taken(lanes) as first, taken(lanes) as second:
        first.working_copy(LOGIN, one)
        second.working_copy(LOGIN, one)

    lanes.forget([one.version_id])

    assert sorted(profile.destroyed) == ["1#0", "1#1"]


def test_a_forgotten_copy_is_destroyed_when_the_running_call_ends(
    profile: CountingProfile,
) -> None:
    lanes, one = lanes_of(profile, 1), key("1")

    with taken(lanes) as lane:
        lanes.forget([one.version_id])
        lane.working_copy(LOGIN, one)
        assert profile.destroyed == []

    assert profile.destroyed == ["1#0"]


def test_forgetting_never_waits_for_a_call_that_hangs(profile: CountingProfile) -> None:
    lanes = lanes_of(profile, 1)

    with taken(lanes):
        started = time.monotonic()
        lanes.forget([VersionId(new_uuid())])

    assert time.monotonic() - started < DEADLINE


def test_all_lanes_can_be_had_only_when_nobody_is_inside(profile: CountingProfile) -> None:
    lanes = lanes_of(profile, 3)

    with taken(lanes), pytest.raises(TokenUnavailableError), lanes.all():
        pytest.fail("somebody was inside")

    with lanes.all() as every:
        assert len(every) == 3
        with pytest.raises(TokenUnavailableError):
            lanes.take()
    with taken(lanes):
        pass


def test_an_abandoned_lane_destroys_nothing(profile: CountingProfile) -> None:
    """After a new start of the module an old handle may mean another key."""
    lane = Lane(cast("Profile", profile), 10)
    lane.working_copy(LOGIN, key("1"))

    lane.abandon()

    assert profile.destroyed == []
    assert lane.working_copy(LOGIN, key("1")) == "1#1"


def test_a_lane_with_a_working_copy_can_be_asked_for(profile: CountingProfile) -> None:
    lanes, one = lanes_of(profile, 3), key("1")
    with taken(lanes), taken(lanes) as second:
        second.working_copy(LOGIN, one)

    lane = lanes.take_holding(one.version_id)

    assert lane is second
    assert lanes.take_holding(key("2").version_id) is None


def test_a_lane_with_a_working_copy_is_waited_for(profile: CountingProfile) -> None:
    lanes, one = lanes_of(profile, 2), key("1")
    lane = lanes.take()
    lane.working_copy(LOGIN, one)
    threading.Timer(DEADLINE / 4, lanes.give_back, [lane]).start()

    assert lanes.take_holding(one.version_id) is lane
    assert lanes.take_holding(one.version_id) is None


def test_nobody_is_overtaken_until_the_deadline(profile: CountingProfile) -> None:
    """Threads that come back at once, as at a slow token, let those pass that have waited."""
    lanes = lanes_of(profile, 1)
    end = time.monotonic() + 10 * DEADLINE
    taken_by = [0, 0, 0, 0]
    refused: list[Exception] = []

    def work(number: int) -> None:
        while time.monotonic() < end:
            try:
                with taken(lanes):
                    taken_by[number] += 1
                    time.sleep(DEADLINE / 10)
            except TokenUnavailableError as error:
                refused.append(error)

    threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert refused == []
    assert min(taken_by) > 0
