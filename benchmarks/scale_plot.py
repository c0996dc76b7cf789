"""The picture of `benchmarks.scale`: what things cost, over the number of keys.

`python -m benchmarks.scale_plot scale.json docs/scale.svg` draws it anew from figures. The
same figures give the same bytes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.scale_report import (
    WRAP,
    WRAP_RATIO_MAX,
    Group,
    Measured,
    Results,
    names,
    read_report,
)

_LINES: Final = ("solid", "dashed", "dotted")
"""One style for each engine; the colours are for the costs."""

_MARKERS: Final = ("o", "s", "^")

_MILLISECONDS: Final = {"µs": 1e-3, "ms": 1.0}

_STYLE: Final[dict[Any, Any]] = {
    # Text stays text: small, and found by a search.
    "svg.fonttype": "none",
    # What names the parts of the picture; otherwise another one in each run.
    "svg.hashsalt": "keyplane",
    "font.size": 8,
    "axes.titlesize": 9,
    "legend.fontsize": 6.5,
}

_NOTHING_ELSE: Final = dict.fromkeys(("Date", "Creator", "Format", "Type"))
"""A date or the library's version would change a picture of the same figures."""

_COLUMNS: Final = 2


def draw(results: Results, file: Path) -> None:
    """Write the picture as SVG."""
    with mpl.rc_context(_STYLE):
        drawn = StringIO()
        picture(results).savefig(drawn, format="svg", metadata=_NOTHING_ELSE)
    lines = (line.rstrip() for line in drawn.getvalue().splitlines())
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def picture(results: Results) -> Figure:
    """Return one panel for each group of costs."""
    groups = [group for group in Group if _costs_of(group, results)]
    rows = -(-len(groups) // _COLUMNS)
    figure = Figure(figsize=(9, 3.5 * rows), layout="constrained")
    styles = zip(results, _LINES, strict=False)
    figure.suptitle(", ".join(f"{engine}: {line}" for engine, line in styles))
    panels = figure.subplots(rows, _COLUMNS, squeeze=False).flatten()
    for axes, group in zip(panels, groups, strict=False):
        _panel(axes, group, results)
    for axes in panels[len(groups) :]:
        axes.set_visible(False)
    return figure


def _costs_of(group: Group, results: Results) -> list[str]:
    stores = [store for stores in results.values() for store in stores]
    here = {cost.name for store in stores for cost in store.costs if cost.group is group}
    return [name for name in names(stores) if name in here]


def _panel(axes: Axes, group: Group, results: Results) -> None:
    for colour, name in enumerate(_costs_of(group, results)):
        for style, stores in enumerate(results.values()):
            # One entry of the legend for each colour; the title explains the lines.
            label = "" if style else name
            _line(axes, label, _points(name, stores), colour=colour, style=style)
    if group is Group.WRAPS:
        _bands(axes, results)
    axes.set(xscale="log", yscale="log", title=group.value, xlabel="keys")
    axes.set_ylabel("MiB" if group is Group.SPACE else "ms")
    axes.grid(visible=True, which="major", linewidth=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)


def _line(
    axes: Axes, label: str, points: Sequence[tuple[int, float]], *, colour: int, style: int
) -> None:
    axes.plot(
        [keys for keys, _ in points],
        [value for _, value in points],
        color=f"C{colour}",
        linestyle=_LINES[style % len(_LINES)],
        marker=_MARKERS[style % len(_MARKERS)],
        markersize=3,
        linewidth=1,
        label=label,
    )


def _points(name: str, stores: Sequence[Measured]) -> list[tuple[int, float]]:
    found = [(store.keys, store.find(name)) for store in stores]
    return [(keys, cost.value * _MILLISECONDS.get(cost.unit, 1)) for keys, cost in found if cost]


def _bands(axes: Axes, results: Results) -> None:
    """Show what a wrap may cost: from what it does in the smallest store up to the bound."""
    for style, stores in enumerate(results.values()):
        points = _points(WRAP, stores)
        if not points:
            continue
        least = points[0][1]
        axes.fill_between(
            [points[0][0], points[-1][0]],
            least,
            least * WRAP_RATIO_MAX,
            facecolor="C7",
            alpha=0.25,
            linewidth=0,
            label="" if style else f"{WRAP}: up to {WRAP_RATIO_MAX} times",
        )


def main() -> None:
    """Draw the picture of a file of figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("figures", type=Path, help="what --json of benchmarks.scale has written")
    parser.add_argument("picture", type=Path, help="the SVG to write")
    chosen = parser.parse_args()
    draw(read_report(chosen.figures.read_text(encoding="utf-8")), chosen.picture)


if __name__ == "__main__":
    main()
