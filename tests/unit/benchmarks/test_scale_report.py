"""What the report of `benchmarks.scale` says of figures."""

from __future__ import annotations

import pytest
from rich.console import Console

from benchmarks.scale_report import (
    TOKEN,
    WRAP,
    Cost,
    Group,
    Measured,
    names,
    ratio,
    read_report,
    report,
    table,
    verdict,
)


def store(
    keys: int, *, wrap: float, token: float = 20.0, others: tuple[Cost, ...] = ()
) -> Measured:
    return Measured(
        keys,
        (
            Cost(TOKEN, token, "µs", Group.WRAPS),
            Cost(WRAP, wrap, "µs", Group.WRAPS),
            *others,
        ),
    )


def disk(size: float) -> Cost:
    return Cost("disk", size, "MiB", Group.SPACE, grows=True)


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        pytest.param(150.0, "1.50 times", id="at-the-bound"),
        pytest.param(90.0, "0.90 times", id="faster"),
    ],
)
def test_a_wrap_that_takes_up_to_half_as_long_again_keeps_its_bound(wrap: float, said: str) -> None:
    told = verdict([store(1_000, wrap=100.0), store(1_000_000, wrap=wrap)])

    assert said in told
    assert told.endswith("is kept")


def test_a_wrap_that_takes_longer_does_not_keep_it() -> None:
    told = verdict([store(1_000, wrap=100.0), store(1_000_000, wrap=151.0)])

    assert told.endswith("is NOT KEPT")


def test_the_verdict_compares_the_largest_store_with_the_smallest() -> None:
    stores = [
        store(1_000, wrap=100.0),
        store(10_000, wrap=900.0),
        store(100_000, wrap=120.0, token=21.0),
    ]

    assert verdict(stores) == (
        f"{WRAP}: with 100000 keys 1.20 times what it takes with 1000, "
        "the token alone 1.05 times; at most 1.5 is kept"
    )


def test_one_store_alone_keeps_no_bound() -> None:
    assert verdict([store(1_000, wrap=100.0)]) == f"{WRAP}: there is nothing to compare it with"


def test_a_cost_that_is_spent_on_every_key_has_no_ratio() -> None:
    assert ratio(disk(1.0), disk(100.0)) is None


def test_a_cost_that_is_known_of_one_store_only_has_no_ratio() -> None:
    assert ratio(None, Cost(WRAP, 1.0, "µs", Group.WRAPS)) is None


def test_the_table_has_a_line_for_what_is_known_of_one_store_only() -> None:
    stores = [store(1_000, wrap=100.0), store(2_000, wrap=110.0, others=(disk(3.0),))]

    console = Console(width=120)
    with console.capture() as shown:
        console.print(table("sqlite", stores))

    line = next(line for line in shown.get().splitlines() if "disk" in line)
    assert [cell.strip() for cell in line.strip("│").split("│")] == ["disk", "MiB", "", "3.0", ""]


def test_names_are_in_the_order_in_which_they_were_measured() -> None:
    stores = [store(1_000, wrap=1.0), store(2_000, wrap=1.0, others=(disk(1.0),))]

    assert names(stores) == [TOKEN, WRAP, "disk"]


def test_the_report_is_read_back_as_it_was() -> None:
    results = {"sqlite": [store(1_000, wrap=100.0, others=(disk(0.5),)), store(2_000, wrap=130.0)]}

    assert read_report(report(results)) == results


def test_the_report_tells_ratios() -> None:
    text = report({"sqlite": [store(1_000, wrap=100.0), store(2_000, wrap=130.0)]})

    assert '"ratio": 1.3' in text
