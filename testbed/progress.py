"""What a person sees while the binaries are built, which can take minutes.

On a terminal one line moves; elsewhere (CI) a plain line is printed now and
then, so that a log shows life without thousands of lines.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

_PLAIN_LINE_EVERY_SECONDS: Final = 15.0

Report = Callable[[int], None]
"""Told how many units of a step are done so far."""


class BuildProgress:
    """Says what is being done, for how long already, and how far it is."""

    def __init__(self, console: Console | None = None) -> None:
        """Choose where to write.

        Args:
            console: None means standard error.
        """
        self.console = console or Console(stderr=True)

    def say(self, text: str) -> None:
        """Write one line.

        Args:
            text: Shown as it is, without markup.
        """
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def step(self, title: str, unit: str) -> Iterator[Report]:
        """Show one step from its beginning to its end.

        Args:
            title: What is done: "Building etcd".
            unit: What the reports count: "packages compiled".

        Yields:
            A function to call with the number of units done so far.
        """
        started = time.monotonic()
        done = 0
        show = self._moving_line if self.console.is_terminal else self._plain_lines
        with show(title, unit) as update:

            def report(count: int) -> None:
                nonlocal done
                done = count
                update(count)

            yield report
        self.say(f"{title}: done in {time.monotonic() - started:.0f} s ({done} {unit})")

    @contextmanager
    def _moving_line(self, title: str, unit: str) -> Iterator[Report]:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.completed:.0f} {task.fields[unit]}", markup=False),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(title, total=None, unit=unit)
            yield lambda count: progress.update(task, completed=count)

    @contextmanager
    def _plain_lines(self, title: str, unit: str) -> Iterator[Report]:
        started = last = time.monotonic()
        self.say(f"{title} ...")

        def update(count: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= _PLAIN_LINE_EVERY_SECONDS:
                last = now
                self.say(f"{title} ... {now - started:.0f} s, {count} {unit}")

        yield update
