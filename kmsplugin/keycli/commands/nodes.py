"""``keyplane nodes …``: the provider processes that a rotation waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from keycli import views
from keycli.documents import node_document
from keycli.invocation import Invocation, command, command_group
from keycli.output import Document

if TYPE_CHECKING:
    from keycore.bootstrap import Core

app = command_group("Nodes: the machines that a rotation waits for.")


@command(app, "list", examples=("keyplane nodes list",))
def list_nodes(run: Invocation) -> None:
    """List every registered node and when it was last seen."""
    with run.core() as core:
        documents = _documents(core)
        now = core.clock.now()
    run.show_all(documents, lambda shown: views.show_nodes(shown, now))


@command(
    app,
    "remove",
    examples=("keyplane nodes remove cp-3", "keyplane nodes remove cp-3 --provider keyplane"),
)
def remove(
    run: Invocation,
    node: Annotated[str, typer.Argument(metavar="NODE", help="See: keyplane nodes list")],
    *,
    provider: Annotated[
        str | None, typer.Option(metavar="NAME", help="[default: the setting provider.name]")
    ] = None,
) -> None:
    """Stop waiting for a node that will not come back.

    A rotation that waited for this node alone is finished by it. A removed node
    that runs after all registers itself again.
    """
    with run.core() as core:
        core.providers.remove_node(run.caller, provider or run.settings.provider.name, node)
        documents = _documents(core)
        now = core.clock.now()
    run.show_all(documents, lambda shown: views.show_nodes(shown, now))


def _documents(core: Core) -> list[Document]:
    overviews = {seen.provider.name: seen for seen in core.providers.overviews()}
    return [node_document(node, overviews.get(node.provider)) for node in core.providers.nodes()]
