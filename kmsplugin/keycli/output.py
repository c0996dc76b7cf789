"""How answers are written: tables for people, JSON for programs, remarks to standard error.

Standard output holds the answer and nothing else. Piped output is never
wrapped, so that each row stays one line; ids are never cut.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

Document = dict[str, Any]
"""A JSON object; its keys are documented in ``docs/cli.md``."""

_UNLIMITED_COLUMNS = 100_000
"""Width of what is no terminal."""

_FOLDING = frozenset({"FIX", "NAME", "NAMESPACE", "NODE", "PROVIDER", "REASON", "WHAT"})
"""Columns of sentences, and of texts that people chose; all others are never folded."""

_GAP = 2


class Output(StrEnum):
    """Who reads the answer."""

    TABLE = "table"
    JSON = "json"


def show_json(document: Document | Sequence[Document]) -> None:
    """Write a JSON value. It is plain ASCII, so that every locale can print it."""
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def show_line(text: str = "") -> None:
    """Write one line of an answer for people, wrapped at the terminal's edge."""
    sys.stdout.write("\n".join(_wrapped(text, "", "")) + "\n")


def show_details(details: Iterable[tuple[str, str]], *, indent: int = 0) -> None:
    """Write labels and values in two columns; details without a value are left out.

    A value that holds no blank and does not fit, such as a long hash, goes whole
    onto a line of its own, so that it can be copied.
    """
    filled = [(label, value) for label, value in details if value]
    column = indent + max((len(label) for label, _ in filled), default=0) + _GAP
    for label, value in filled:
        head = f"{' ' * indent}{label}".ljust(column)
        if " " in value or column + len(value) <= _columns():
            lines = _wrapped(value, head, " " * column)
        else:
            lines = [head.rstrip(), f"{' ' * (indent + _GAP)}{value}"]
        sys.stdout.write("\n".join(lines) + "\n")


def show_table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, indent: int = 0) -> None:
    """Write rows below headings; names fold at the terminal's edge, ids stay whole."""
    # rich takes longer to import than everything else that --help needs.
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    listed = [[cell or "-" for cell in row] for row in rows]
    least = [
        _least_width(heading, column) for heading, *column in zip(headings, *listed, strict=True)
    ]
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for heading, width in zip(headings, least, strict=True):
        table.add_column(heading, overflow="fold", min_width=width, no_wrap=heading not in _FOLDING)
    for row in listed:
        table.add_row(*row)
    # Names are shown as they are: markup in a name must not change the output.
    console = Console(
        # A terminal that is even narrower wraps by itself, and nothing is cut.
        width=max(_columns() - indent, sum(least) + _GAP * len(least)),
        # Otherwise FORCE_COLOR in the environment would colour what is piped.
        force_terminal=sys.stdout.isatty(),
        markup=False,
        highlight=False,
        emoji=False,
    )
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        sys.stdout.write(f"{' ' * indent}{line}".rstrip() + "\n")


def remark(text: str) -> None:
    """Write a sentence about what goes on to standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def discard_output() -> None:
    """Let standard output lead nowhere, because its reader has gone.

    Python would flush it once more at exit, and complain.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def as_time(moment: datetime | None) -> str | None:
    """Return RFC 3339 in UTC without a fraction, or ``None``."""
    if moment is None:
        return None
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _least_width(heading: str, cells: Sequence[str]) -> int:
    return max(map(len, (heading,) if heading in _FOLDING else (heading, *cells)))


def _columns() -> int:
    if not sys.stdout.isatty():
        return _UNLIMITED_COLUMNS
    return shutil.get_terminal_size().columns


def _wrapped(text: str, first: str, following: str) -> list[str]:
    return textwrap.wrap(
        text,
        width=_columns(),
        initial_indent=first,
        subsequent_indent=following,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [first.rstrip()]
