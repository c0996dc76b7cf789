"""How long a face rests before it is started again."""

from __future__ import annotations

from keycli.supervisor import delay_after


def test_the_pause_doubles_up_to_30_seconds() -> None:
    pauses = [delay_after(failures, 1.0) for failures in range(1, 8)]

    assert pauses == [1, 2, 4, 8, 16, 30, 30]


def test_a_face_that_ran_steadily_starts_with_the_shortest_pause() -> None:
    assert delay_after(0, 1.0) == 1


def test_thousands_of_failures_do_not_overflow() -> None:
    assert delay_after(1_000_000, 1.0) == 30
