"""``keyplane join``: adds a host to an installation whose store is in PostgreSQL."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keycli import views
from keycli.documents import installation_document
from keycli.invocation import Invocation, command

PinOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Copy the user PIN from this file, with mode 0600."),
]

AgainOption = Annotated[
    bool,
    typer.Option("--again", help="This host belonged to it before, and has lost its directory."),
]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    command(
        app,
        "join",
        examples=("keyplane join", "keyplane join --pin-from /run/secrets/pin"),
    )(join)


def join(run: Invocation, *, pin_from: PinOption = None, again: AgainOption = False) -> None:
    """Add this host to an installation that exists.

    Its store is in PostgreSQL, and its token holds the installation's keys. Nothing
    is made but this host's state directory; a second run changes nothing.
    """
    from keycore.initialise import join as join_installation  # noqa: PLC0415

    run.start_logs()
    settings = run.settings
    installation = join_installation(settings, run.caller, pin_from=pin_from, again=again)
    run.show(installation_document(installation, str(settings.state_dir)), views.show_joined)
