"""Writes the tables of docs/metrics.md from what the faces themselves show: `make metrics-docs`.

What is written by hand stands outside the two marks and is kept.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import keyoperator.metrics
import keyplugin.metrics
import keyrest.metrics
from keywatch.audit import AUDIT
from keywatch.families import BUILD, PROCESS, Family, by_name
from keywatch.store import STORE
from keywatch.token import TOKEN

PAGE: Final = Path(__file__).parents[1] / "docs" / "metrics.md"

BEGIN: Final = "<!-- Written by `make metrics-docs`; change the code instead. -->\n"
END: Final = "<!-- From here on written by hand. -->\n"

FACES: Final = {
    "provider": keyplugin.metrics.FAMILIES,
    "operator": keyoperator.metrics.FAMILIES,
    "REST face": keyrest.metrics.FAMILIES,
}

_SHARED: Final = (BUILD, *TOKEN, *STORE, *AUDIT, *PROCESS)


def tables() -> str:
    """Return what stands between the marks."""
    parts = [_section("Of every process", (BUILD, *TOKEN, *STORE, *AUDIT))]
    for face, families in FACES.items():
        own = [family for family in families if family not in _SHARED]
        parts.append(_section(f"Of the {face}", own))
    parts.append(_section("Of the process itself", PROCESS))
    return "\n".join(parts)


def page(before: str) -> str:
    """Return the page with fresh tables.

    Args:
        before: the page as it is.

    Raises:
        ValueError: a mark is missing.
    """
    start, end = before.index(BEGIN) + len(BEGIN), before.index(END)
    return f"{before[:start]}\n{tables()}\n{before[end:]}"


def _section(title: str, families: Sequence[Family]) -> str:
    lines = (*_HEAD, *(_row(family) for family in by_name(families)))
    return "\n".join((f"### {title}", "", *lines, ""))


_HEAD: Final = ("| metric | type | labels | meaning |", "|---|---|---|---|")


def _row(family: Family) -> str:
    cells = (f"`{family.name}`", family.kind, _code(family.labels), family.text)
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def main() -> int:
    """Write the page anew."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
