"""The picture of `benchmarks.scale`."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

from benchmarks.scale_plot import draw
from benchmarks.scale_report import WRAP, Cost, Group, Measured, Results

SVG = "{http://www.w3.org/2000/svg}"


def measured(keys: int, *costs: Cost) -> Measured:
    wrap = Cost(WRAP, 100.0 + keys / 1000, "µs", Group.WRAPS)
    return Measured(keys, (wrap, *costs))


RESULTS: Results = {
    "sqlite": [
        measured(1_000),
        measured(10_000, Cost("disk", 8.5, "MiB", Group.SPACE, grows=True)),
    ],
    "postgresql": [measured(1_000), measured(10_000)],
}


def texts(file: Path) -> list[str]:
    return [element.text or "" for element in ET.parse(file).iter(f"{SVG}text")]


def test_the_picture_is_svg_with_a_panel_for_each_group_that_was_measured(tmp_path: Path) -> None:
    draw(RESULTS, tmp_path / "scale.svg")

    titles = [text for text in texts(tmp_path / "scale.svg") if text in set(Group)]
    assert titles == [Group.WRAPS, Group.SPACE]


def test_every_cost_and_the_bound_are_named_once(tmp_path: Path) -> None:
    draw(RESULTS, tmp_path / "scale.svg")

    shown = texts(tmp_path / "scale.svg")
    assert [shown.count(name) for name in (WRAP, "disk", f"{WRAP}: up to 1.5 times")] == [1, 1, 1]


def test_the_line_of_each_engine_is_explained(tmp_path: Path) -> None:
    draw(RESULTS, tmp_path / "scale.svg")

    assert "sqlite: solid, postgresql: dashed" in texts(tmp_path / "scale.svg")


def test_the_same_figures_give_the_same_bytes(tmp_path: Path) -> None:
    draw(RESULTS, tmp_path / "one.svg")
    draw(RESULTS, tmp_path / "two.svg")

    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
