"""``keyplane status``: is everything there, and which key does what?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from keycli import views
from keycli.documents import installation_document, provider_document, token_document
from keycli.invocation import Invocation, command
from keycli.output import Document
from keycore.errors import UnavailableError
from keycore.ports import KeyFilter

if TYPE_CHECKING:
    from keycore.bootstrap import Core
    from keycore.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    command(app, "status", examples=("keyplane status", "keyplane status --output json"))(status)


def status(run: Invocation) -> None:
    """Show the token, the store and every provider.

    Token and store are asked, not remembered: exit code 3 says that one of them
    does not answer. Then both are shown all the same, and nothing that takes both.
    """
    try:
        with run.core() as core:
            core.token.check()
            document = _document(run, core)
            now = core.clock.now()
    except UnavailableError as error:
        run.show(_apart(run.settings, error), views.show_apart)
        raise
    run.show(document, lambda shown: views.show_status(shown, now))


def _document(run: Invocation, core: Core) -> Document:
    settings = run.settings
    token = token_document(core.token.describe(), str(settings.module))
    return {
        "installation": installation_document(core.installation, str(settings.state_dir)),
        "token": {**token, **_answer("")},
        "store": {**_store(settings), **_answer("")},
        "instances": len(core.instances.all()),
        "keys": core.keys.count(run.caller, KeyFilter()),
        "providers": [
            provider_document(seen, core.cache.key) for seen in core.providers.overviews()
        ],
    }


def _apart(settings: Settings, error: UnavailableError) -> Document:
    """Describe token and store alone; ``None`` stands for what nobody knows now."""
    from keycore.condition import look_apart  # noqa: PLC0415

    seen = look_apart(settings, error)
    module = str(settings.module)
    token = token_document(seen.token, module) if seen.token else _unseen_token(settings)
    return {
        "installation": {"id": None, "stateDir": str(settings.state_dir), "createdAt": None},
        "token": {**token, **_answer(seen.token_fault)},
        "store": {**_store(settings), **_answer(seen.store_fault)},
        "instances": None,
        "keys": None,
        "providers": None,
    }


def _unseen_token(settings: Settings) -> Document:
    return {
        "label": settings.token.label,
        "serial": settings.token.serial,
        "manufacturer": None,
        "model": None,
        "module": str(settings.module),
        "guardsUnwrapping": None,
    }


def _store(settings: Settings) -> Document:
    from keycore.bootstrap import store_title  # noqa: PLC0415

    engine = "sqlite" if settings.store.embedded else "postgresql"
    return {"engine": engine, "path": store_title(settings)}


def _answer(fault: str) -> Document:
    return {"answers": not fault, "reason": fault or None}
