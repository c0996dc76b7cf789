"""``keyplane status``: is everything there, and which key does what?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from keycli import views
from keycli.documents import installation_document, provider_document, token_document
from keycli.invocation import Invocation, command
from keycli.output import Document
from keycore.ports import KeyFilter

if TYPE_CHECKING:
    from keycore.bootstrap import Core


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    command(app, "status", examples=("keyplane status", "keyplane status --output json"))(status)


def status(run: Invocation) -> None:
    """Show the token, the store and every provider.

    Token and store are asked, not remembered: exit code 3 says that one of them
    does not answer.
    """
    with run.core() as core:
        core.token.check()
        document = _document(run, core)
        now = core.clock.now()
    run.show(document, lambda shown: views.show_status(shown, now))


def _document(run: Invocation, core: Core) -> Document:
    from keycore.bootstrap import store_title  # noqa: PLC0415

    settings = run.settings
    return {
        "installation": installation_document(core.installation, str(settings.state_dir)),
        "token": token_document(core.token.describe(), str(settings.module)),
        "store": {
            "engine": "sqlite" if settings.store.embedded else "postgresql",
            "path": store_title(settings),
        },
        "instances": len(core.instances.all()),
        "keys": core.keys.count(run.caller, KeyFilter()),
        "providers": [
            provider_document(seen, core.cache.key) for seen in core.providers.overviews()
        ],
    }
