"""``keyplane policy …``: the file that says who may do what through REST."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keycli import views
from keycli.invocation import Invocation, command, command_group
from keycli.output import Document, remark
from keycore.errors import NotInitialisedError

if TYPE_CHECKING:
    from keyrest.policy_document import Binding, Member

app = command_group("Policy: who may do what through REST.")


@command(
    app,
    "check",
    examples=("keyplane policy check", "keyplane policy check ./new-policy.toml"),
)
def check(
    run: Invocation,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="[default: the one in the settings]"),
    ] = None,
) -> None:
    """Check the policy file, and show what it grants.

    All faults are told at once. A running server takes a changed file over by
    itself, and keeps to the last good one while the file has faults.
    """
    from keyrest.policy import read_policy_document  # noqa: PLC0415

    issuers = [issuer.name for issuer in run.settings.rest.issuers]
    document = read_policy_document(file or run.settings.policy_file, issuers)
    _remark_on(run, document.bindings)
    run.show_all([_binding(binding) for binding in document.bindings], views.show_bindings)


def _remark_on(run: Invocation, bindings: Sequence[Binding]) -> None:
    """Tell what is no fault of the file and yet hardly meant: places that are not there."""
    if not bindings:
        remark("note: the file has no bindings, so nobody may do anything")
        return
    with suppress(NotInitialisedError), run.core() as core:
        known = {instance.id for instance in core.instances.all()}
        for number, binding in enumerate(bindings, start=1):
            for instance_id in binding.instances or ():
                if instance_id not in known:
                    remark(f"note: binding {number}: there is no instance {instance_id} yet")


def _binding(binding: Binding) -> Document:
    return {
        "role": binding.role.value,
        "instances": None if binding.instances is None else list(binding.instances),
        "keys": None if binding.keys is None else list(binding.keys),
        "members": [_member(member) for member in binding.members],
    }


def _member(member: Member) -> Document:
    named = {
        "subject": member.subject,
        "group": member.group,
        "serviceAccount": member.service_account,
    }
    return {
        "issuer": member.issuer,
        **{name: value for name, value in named.items() if value is not None},
    }
