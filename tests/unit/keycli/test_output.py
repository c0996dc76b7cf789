"""What people and programs get to read, in a terminal and in a pipe."""

from __future__ import annotations

import json
import os
import pty
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

import pytest

from keycli import output

UUID = "c9ce6044-dea4-4d96-b132-ff19722156d6"
HASH = "sha256:" + "0123456789abcdef" * 4
LONG = "a rather long name of the kind that people give to things"
InTerminal = Callable[[Callable[[], None]], str]

COLOUR = re.compile(r"\x1b\[[0-9;]*m")


END = "(end)"
"""Written after what is tested, to know when all of it has arrived."""


@pytest.fixture
def in_terminal(monkeypatch: pytest.MonkeyPatch) -> InTerminal:
    """A function that calls another one in a terminal of 80 columns, and returns what it shows."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)

    def shown_by(show: Callable[[], None]) -> str:
        ours, theirs = pty.openpty()
        with os.fdopen(theirs, "w") as stream, os.fdopen(ours, "rb", buffering=0) as screen:
            with monkeypatch.context() as patch:
                # Not in the fixture: pytest puts its own in place between the phases.
                patch.setattr(sys, "stdout", stream)
                show()
            # A terminal hands over what it has so far, so one read may be too few.
            stream.write(END)
            stream.flush()
            shown = b""
            while not shown.endswith(END.encode()):
                shown += screen.read(65536)
            return shown.decode().removesuffix(END).replace("\r\n", "\n")

    return shown_by


def test_a_table_fits_a_terminal_of_80_columns_and_keeps_ids_whole(
    in_terminal: InTerminal,
) -> None:
    headings = ("ID", "NAME", "TYPE", "STATE", "VERSION")
    rows = [(UUID, LONG, "standard", "deactivated", "1")]

    shown = in_terminal(lambda: output.show_table(headings, rows))

    lines = COLOUR.sub("", shown).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].startswith(f"{UUID}  ")
    assert "deactivated" in lines[1]
    # The name is folded, and nothing of it is missing.
    names = "".join(line[38:].split("  ")[0].strip() for line in lines[1:])
    assert names.replace(" ", "") == LONG.replace(" ", "")


def test_a_table_in_a_narrow_terminal_loses_nothing(in_terminal: InTerminal) -> None:
    row = (UUID, "a name", "standard", "deactivated", UUID)

    shown = in_terminal(lambda: output.show_table(("ID", "NAME", "TYPE", "STATE", "OTHER"), [row]))

    folded = COLOUR.sub("", shown).split("\n")[1:]
    assert all(part in "".join(folded) for part in (UUID, "deactivated", "name"))


def test_a_table_in_a_terminal_has_bold_headings(in_terminal: InTerminal) -> None:
    shown = in_terminal(lambda: output.show_table(("ID",), [(UUID,)]))

    assert "\x1b[1m" in shown


def test_a_hash_that_does_not_fit_stands_on_a_line_of_its_own(
    in_terminal: InTerminal,
) -> None:
    details = (("a label", "text"), ("hash", HASH))

    shown = in_terminal(lambda: output.show_details(details, indent=2))

    assert shown.splitlines() == ["  a label  text", "  hash", f"    {HASH}"]


def test_sentences_are_wrapped_beside_their_label(in_terminal: InTerminal) -> None:
    lines = in_terminal(lambda: output.show_details((("label", "word " * 30),))).splitlines()

    assert max(map(len, lines)) <= 80
    assert all(line.startswith("       word") for line in lines[1:])


def test_a_piped_table_has_one_plain_line_for_each_row(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The width that some environments announce is the terminal's, not the pipe's.
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")

    output.show_table(("ID", "NAME", "OTHER"), [(UUID, LONG, ""), (UUID, "x", "y")])

    assert capsys.readouterr().out.splitlines() == [
        f"ID{' ' * 36}NAME{' ' * (len(LONG) - 2)}OTHER",
        f"{UUID}  {LONG}  -",
        f"{UUID}  x{' ' * (len(LONG) + 1)}y",
    ]


def test_details_without_a_value_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    output.show_details((("a", "1"), ("long", ""), ("b", "2")))

    assert capsys.readouterr().out == "a  1\nb  2\n"


def test_json_is_ascii_whatever_names_hold(capsys: pytest.CaptureFixture[str]) -> None:
    output.show_json({"name": "Schlüssel 🔑"})

    written = capsys.readouterr().out
    assert written.isascii()
    assert json.loads(written) == {"name": "Schlüssel 🔑"}


def test_times_are_rfc_3339_in_utc_without_a_fraction() -> None:
    moment = datetime(2030, 3, 1, 13, 0, 0, 999_999, tzinfo=timezone(timedelta(hours=1)))

    assert output.as_time(moment) == "2030-03-01T12:00:00Z"
    assert output.as_time(moment.astimezone(UTC)) == "2030-03-01T12:00:00Z"
    assert output.as_time(None) is None
