"""``keyplane init``: makes the installation and says what to keep safe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from keycli import views
from keycli.documents import installation_document, instance_document, token_document
from keycli.invocation import Invocation, command
from keycli.output import Document, remark

if TYPE_CHECKING:
    from keycore.initialise import Initialised
    from keycore.settings import Settings

NamespaceOption = Annotated[
    str,
    typer.Option(
        metavar="NAMESPACE", help="Kubernetes namespace whose Keys live in the first instance."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    command(
        app,
        "init",
        examples=("keyplane init", "KEYPLANE_STATE_DIR=/srv/keyplane keyplane init"),
    )(init)


def init(run: Invocation, *, namespace: NamespaceOption = "keyplane-system") -> None:
    """Make the installation: token, store, instance.

    A run that was interrupted is simply repeated. A finished installation is
    never touched: the command refuses and changes nothing.
    """
    from keycore.initialise import initialise  # noqa: PLC0415

    run.start_logs()
    settings = run.settings
    made = initialise(
        settings, run.caller, namespace=namespace, progress=lambda step: remark(f"- {step}")
    )
    run.show(_document(settings, made), views.show_initialised)


def _document(settings: Settings, made: Initialised) -> Document:
    from keycore.bootstrap import store_title  # noqa: PLC0415

    secrets = [settings.state_dir / "tokens", settings.pins_dir] if settings.embedded else []
    return {
        "installation": installation_document(made.installation, str(settings.state_dir)),
        "token": token_document(made.token, str(settings.module)),
        "instance": instance_document(made.instance),
        "provider": settings.provider.name,
        "embedded": settings.embedded,
        "backUp": [str(path) for path in (*secrets, store_title(settings))],
    }
