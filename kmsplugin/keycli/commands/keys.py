"""``keyplane keys …``: the life of keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from keycli import views
from keycli.confirming import confirm_by_name
from keycli.documents import key_document
from keycli.invocation import Invocation, command, command_group
from keycli.options import (
    ImportOption,
    InstanceOption,
    KeyIdArgument,
    WaitOption,
    YesOption,
    choose_instance,
    parse_expiry,
    read_material,
)
from keycli.output import Document, remark
from keycli.waiting import wait_until_settled
from keycore.domain.ids import KeyId, parse_instance_id, parse_key_id
from keycore.domain.keys import Key, KeyKind, KeyState
from keycore.ports import KeyFilter

if TYPE_CHECKING:
    from keycore.bootstrap import Core

app = command_group("Keys: create, import, list, rotate and delete them.")

_PAGE = 1000


@command(
    app,
    "create",
    examples=(
        "keyplane keys create etcd",
        "keyplane keys create backups --expires 2031-12-31 --description 'nightly backups'",
        "keyplane keys create legacy --import-file key.bin",
    ),
)
def create(
    run: Invocation,
    name: Annotated[str, typer.Argument(metavar="NAME", help="2 to 90 characters, not unique.")],
    *,
    instance: InstanceOption = None,
    kind: Annotated[
        KeyKind,
        typer.Option(
            "--type",
            metavar="root|standard",
            help="A root key wraps other keys and never leaves the HSM; a standard key is "
            "handed out.",
        ),
    ] = KeyKind.ROOT,
    description: Annotated[
        str | None, typer.Option(metavar="TEXT", help="2 to 240 characters.")
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="RFC 3339, or a date, which means its start in UTC."),
    ] = None,
    import_file: ImportOption = None,
) -> None:
    """Create a key, active at once.

    Without --instance the key goes into the first instance, which init has made.
    """
    from keycore.service.creation import NewKey  # noqa: PLC0415

    expires_at = parse_expiry(expires)
    material = read_material(import_file)
    with run.core() as core:
        wanted = NewKey(
            name=name,
            kind=kind,
            description=description,
            expires_at=expires_at,
            material=material,
        )
        made = core.keys.create(run.caller, choose_instance(core, instance), wanted)
        document = _document(core, made)
    run.show(document, views.show_key)
    if import_file is not None:
        remark(f"note: whoever reads {import_file} has this key; destroy the file")


@command(app, "list", examples=("keyplane keys list --output json",))
def list_keys(
    run: Invocation,
    *,
    instance: InstanceOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Deleted keys too.")] = False,
) -> None:
    """List keys of one or of every instance, sorted by id."""
    instance_id = None if instance is None else parse_instance_id(instance)
    wanted = KeyFilter(instance_id=instance_id, deleted=everything)
    with run.core() as core:
        overviews = core.providers.overviews()
        now = core.clock.now()
        documents = [key_document(key, now, overviews) for key in _pages(run, core, wanted)]
    run.show_all(documents, views.show_keys)


@command(app, "show", examples=("keyplane keys show KEY_ID",))
def show(run: Invocation, key_id: KeyIdArgument) -> None:
    """Show one key with its versions, never its material."""
    with run.core() as core:
        document = _document(core, core.keys.get(run.caller, parse_key_id(key_id)))
    run.show(document, views.show_key)


@command(
    app,
    "rotate",
    examples=(
        "keyplane keys rotate KEY_ID --wait 120",
        "keyplane keys rotate KEY_ID --import-file key.bin",
    ),
)
def rotate(
    run: Invocation,
    key_id: KeyIdArgument,
    *,
    import_file: ImportOption = None,
    wait: WaitOption = None,
) -> None:
    """Give a key a new version.

    Older versions still open what they closed. The new version of a key that a
    provider uses is pending until every registered node has loaded it, and
    encrypts from then on.
    """
    wanted, material = parse_key_id(key_id), read_material(import_file)
    with run.core() as core:
        rotated = core.keys.rotate(run.caller, wanted, material=material)
        late = wait_until_settled(lambda: core.providers.users_of(wanted), wait)
        # What was waited for changed the key as well.
        document = _document(core, rotated if wait is None else _newest(core, wanted))
    run.show(document, views.show_rotation)
    if late is not None:
        raise late


@command(app, "suspend", examples=("keyplane keys suspend KEY_ID",))
def suspend(run: Invocation, key_id: KeyIdArgument) -> None:
    """Make a key refuse everything until it is resumed."""
    with run.core() as core:
        document = _document(core, core.keys.suspend(run.caller, parse_key_id(key_id)))
    run.show(document, views.show_key)


@command(app, "resume", examples=("keyplane keys resume KEY_ID",))
def resume(run: Invocation, key_id: KeyIdArgument) -> None:
    """Undo suspend."""
    with run.core() as core:
        document = _document(core, core.keys.resume(run.caller, parse_key_id(key_id)))
    run.show(document, views.show_key)


@command(
    app, "delete", examples=("keyplane keys delete KEY_ID", "keyplane keys delete KEY_ID --yes")
)
def delete(run: Invocation, key_id: KeyIdArgument, *, yes: YesOption = False) -> None:
    """Destroy a key for ever.

    Whatever is still encrypted under it is lost with it. A key that a provider
    needs is never deleted.
    """
    wanted = parse_key_id(key_id)
    with run.core() as core:
        key = core.keys.get(run.caller, wanted)
        if not yes and key.state is not KeyState.DESTROYED:
            confirm_by_name(key.name, lost=_what_is_lost(_document(core, key)))
        document = _document(core, core.keys.delete(run.caller, wanted))
    run.show(document, views.show_key)


def _document(core: Core, key: Key) -> Document:
    return key_document(key, core.clock.now(), core.providers.overviews())


def _newest(core: Core, key_id: KeyId) -> Key:
    core.cache.refresh()
    return core.cache.key(key_id)


def _pages(run: Invocation, core: Core, wanted: KeyFilter) -> Iterator[Key]:
    offset = 0
    while page := core.keys.page(run.caller, wanted, offset=offset, limit=_PAGE).keys:
        yield from page
        offset += len(page)
        if len(page) < _PAGE:
            return


def _what_is_lost(key: Document) -> str:
    users = ", ".join(key["providers"])
    return "\n".join(
        (
            f"Key {key['id']} is destroyed for ever, with its {len(key['versions'])} version(s).",
            "What is still encrypted under it can never be read again.",
            f"Needed by KMS provider: {users or 'none'}",
            f"Managed by resource: {key['owner'] or 'none'}",
        )
    )
