"""``keyplane instance …``: who shares keys with whom."""

from __future__ import annotations

from typing import Annotated

import typer

from keycli import views
from keycli.documents import instance_document
from keycli.invocation import Invocation, command, command_group
from keycore.domain.ids import parse_instance_id

app = command_group("Instances: sets of keys that do not see each other.")

InstanceIdOption = Annotated[
    str | None, typer.Option("--id", metavar="UUID", help="Its id [default: a new one]")
]
NamespaceOption = Annotated[
    str | None,
    typer.Option(metavar="NAMESPACE", help="Kubernetes namespace whose Keys live in it."),
]


@command(app, "create", examples=("keyplane instance create team-a --namespace team-a",))
def create(
    run: Invocation,
    name: Annotated[str, typer.Argument(metavar="NAME", help="2 to 90 characters, not unique.")],
    *,
    instance_id: InstanceIdOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Create an instance."""
    with run.core() as core:
        made = core.instances.create(
            run.caller,
            name,
            instance_id=None if instance_id is None else parse_instance_id(instance_id),
            namespace=namespace,
        )
    run.show(instance_document(made), views.show_instance)


@command(app, "list", examples=("keyplane instance list --output json",))
def list_instances(run: Invocation) -> None:
    """List every instance, sorted by id."""
    with run.core() as core:
        found = core.instances.all()
    run.show_all([instance_document(each) for each in found], views.show_instances)


@command(
    app,
    "bind",
    examples=(
        "keyplane instance bind INSTANCE_ID --namespace team-a",
        "keyplane instance bind INSTANCE_ID --unbind",
    ),
)
def bind(
    run: Invocation,
    instance_id: Annotated[
        str, typer.Argument(metavar="INSTANCE_ID", help="See: keyplane instance list")
    ],
    *,
    namespace: NamespaceOption = None,
    unbind: Annotated[
        bool, typer.Option("--unbind", help="Bind it to no namespace any more.")
    ] = False,
) -> None:
    """Bind an instance to a Kubernetes namespace by name, or unbind it.

    A namespace that was deleted and made again is another one to Kubernetes.
    Binding gives it its keys back.
    """
    if (namespace is None) is not unbind:
        raise typer.BadParameter("give one of the two", param_hint="--namespace / --unbind")
    with run.core() as core:
        bound = core.instances.bind(run.caller, parse_instance_id(instance_id), namespace)
    run.show(instance_document(bound), views.show_instance)
