"""``keyplane store …``: where records live."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from keycli import views
from keycli.documents import installation_document
from keycli.invocation import Invocation, command, command_group

app = command_group("The store: where records live.")


@command(
    app,
    "migrate",
    examples=(
        "keyplane store migrate",
        "KEYPLANE_STORE__POSTGRESQL='host=db dbname=keyplane' keyplane store migrate",
    ),
)
def migrate(run: Invocation) -> None:
    """Move the embedded store into PostgreSQL.

    The setting store.postgresql says where, and the database must be empty. Every row
    is copied and compared; then the file is renamed, so that nobody can use it any
    more. A run that was interrupted is simply repeated. Start every process again
    afterwards.
    """
    from keycore.moving import move_store  # noqa: PLC0415

    run.start_logs()
    with _progress() as advance:
        moved = move_store(run.settings, run.caller, advance)
    document = {
        "installation": installation_document(moved.installation, str(run.settings.state_dir)),
        "rows": moved.rows,
        "store": moved.target,
        "kept": str(moved.kept),
    }
    run.show(document, views.show_moved)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function that shows how far it is, as a bar on a terminal."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress, TaskID  # noqa: PLC0415

    console = Console(stderr=True, force_terminal=sys.stderr.isatty())
    with Progress(console=console, disable=not sys.stderr.isatty()) as bars:
        tasks: dict[str, TaskID] = {}

        def advance(what: str, done: int, of: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(f"rows {what}", total=of)
            bars.update(tasks[what], completed=done)

        yield advance
