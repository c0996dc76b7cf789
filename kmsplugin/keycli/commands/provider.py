"""``keyplane provider …``: which key each KMS provider encrypts with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from keycli import views
from keycli.confirming import confirm_by_name
from keycli.documents import provider_document
from keycli.invocation import Invocation, command, command_group
from keycli.options import KeyOption, WaitOption, YesOption
from keycli.output import Document
from keycli.waiting import wait_until_settled
from keycore.domain.ids import parse_key_id

if TYPE_CHECKING:
    from keycore.bootstrap import Core
    from keycore.service.providers import ProviderOverview

app = command_group("KMS providers: what kube-apiserver encrypts with.")

ProviderArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="The provider's name in EncryptionConfiguration.")
]


@command(app, "set", examples=("keyplane provider set keyplane --key KEY_ID --wait 120",))
def set_key(
    run: Invocation, name: ProviderArgument, *, key: KeyOption, wait: WaitOption = None
) -> None:
    """Make a provider encrypt with a key.

    What it encrypted before stays readable. The binding is pending until every
    registered node has loaded the key.
    """
    key_id = parse_key_id(key)
    with run.core() as core:
        core.providers.bind(run.caller, name, key_id)
        late = wait_until_settled(lambda: [core.providers.overview(name)], wait)
        document = _document(core, core.providers.overview(name))
    run.show(document, views.show_provider)
    if late is not None:
        raise late


@command(app, "show", examples=("keyplane provider show", "keyplane provider show keyplane"))
def show(
    run: Invocation,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Without a name: every provider.")
    ] = None,
) -> None:
    """Show a provider's key, and every key_id that it ever gave out."""
    with run.core() as core:
        if name is None:
            documents = [_document(core, seen) for seen in core.providers.overviews()]
        else:
            document = _document(core, core.providers.overview(name))
    if name is None:
        run.show_all(documents, views.show_providers)
    else:
        run.show(document, views.show_provider)


@command(app, "release", examples=("keyplane provider release keyplane --key KEY_ID",))
def release(
    run: Invocation, name: ProviderArgument, *, key: KeyOption, yes: YesOption = False
) -> None:
    """Give up a key that a provider used formerly.

    The key can be deleted then. Objects in etcd that are still encrypted under
    that key become unreadable. Rewrite every object first, under the key that the
    provider has now.
    """
    key_id = parse_key_id(key)
    if not yes:
        confirm_by_name(
            name,
            lost=f"Provider {name} will never again open what it encrypted under key {key_id}.\n"
            "Objects in etcd that are still under that key become unreadable; rewrite them first.",
        )
    with run.core() as core:
        document = _document(core, core.providers.release(run.caller, name, key_id))
    run.show(document, views.show_provider)


def _document(core: Core, overview: ProviderOverview) -> Document:
    return provider_document(overview, core.cache.key)
