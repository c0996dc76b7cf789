"""Options that several commands share, and how their texts become values."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keycore.domain.keys import MATERIAL_BITS
from keycore.errors import InvalidRequestError

if TYPE_CHECKING:
    from keycore.bootstrap import Core
    from keycore.domain.ids import InstanceId

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})")
"""RFC 3339, 5.6; Python would accept more spellings than people can tell apart."""

KeyIdArgument = Annotated[str, typer.Argument(metavar="KEY_ID", help="See: keyplane keys list")]
KeyOption = Annotated[
    str, typer.Option("--key", metavar="KEY_ID", help="The key; see: keyplane keys list")
]
InstanceOption = Annotated[
    str | None,
    typer.Option("--instance", metavar="INSTANCE_ID", help="See: keyplane instance list"),
]
ImportOption = Annotated[
    Path | None,
    typer.Option(
        "--import-file",
        metavar="FILE",
        help="Use the 32, 48 or 64 raw bytes of this file as key material.",
    ),
]
WaitOption = Annotated[
    float | None,
    typer.Option("--wait", metavar="SECONDS", min=0, help="Wait until every node has loaded it."),
]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def parse_expiry(text: str | None) -> datetime | None:
    """Return a moment from RFC 3339, or the start of a day in UTC from a date.

    Raises:
        typer.BadParameter: it is neither.
    """
    if text is None:
        return None
    try:
        if _DATE.fullmatch(text):
            return datetime.fromisoformat(text).replace(tzinfo=UTC)
        if _TIME.fullmatch(text):
            return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise typer.BadParameter(
        f"{text!r} is neither a date like 2031-12-31 nor a time like 2031-12-31T12:00:00Z",
        param_hint="--expires",
    )


def read_material(path: Path | None) -> bytes | None:
    """Return the key material of a file, or ``None`` without a file.

    Its size is the core's rule. That it is no text is checked here, because 64
    hexadecimal digits would pass for 64 bytes of key material.

    Raises:
        typer.BadParameter: the file cannot be read.
        InvalidRequestError: it holds text.
    """
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            material = file.read(max(MATERIAL_BITS) // 8 + 1)
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}", param_hint="--import-file") from None
    if material and material.isascii() and material.decode("ascii").strip().isprintable():
        raise InvalidRequestError(
            f"{path} holds text where raw key bytes are expected",
            hint="decode it first: base64 -d or xxd -r -p",
        )
    return material


def choose_instance(core: Core, given: str | None) -> InstanceId:
    """Return the instance that was named, else the first one, which ``init`` has made.

    Raises:
        InvalidRequestError: the text is no UUID.
    """
    from keycore.domain.ids import parse_instance_id  # noqa: PLC0415

    if given is not None:
        return parse_instance_id(given)
    return min(core.instances.all(), key=lambda instance: instance.created_at).id
