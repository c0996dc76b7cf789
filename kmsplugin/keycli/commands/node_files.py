"""``keyplane node-files``: every file that a control-plane node needs, ready to be put in place."""

from __future__ import annotations

import os
import pwd
import stat
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keycli.commands.encryption_config import parse_resources
from keycli.invocation import Invocation, command
from keycli.output import Document, remark, show_table
from keycore.errors import AlreadyExistsError, SettingsError
from keycore.files import replace_durably

if TYPE_CHECKING:
    from keycli.node_documents import Node, NodeFile

DEFAULT_USER = 28674
"""The user of the image and of the chart."""

DEFAULT_IMAGE = "keyplane"
"""Without a tag; the version of this program is added."""

_DIRECTORY_MODE = 0o755


class Kind(StrEnum):
    """What runs the provider."""

    SYSTEMD = "systemd"
    STATIC_POD = "static-pod"


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    examples = (
        "keyplane node-files ./node",
        "keyplane node-files --kind static-pod --image registry/keyplane:0.1.0 ./node",
        "keyplane node-files /",
    )
    command(app, "node-files", examples=examples)(node_files)


def node_files(
    run: Invocation,
    directory: Annotated[
        Path, typer.Argument(metavar="DIRECTORY", help="Root of the tree; / puts them in place.")
    ],
    *,
    kind: Annotated[
        Kind, typer.Option(metavar="systemd|static-pod", help="What runs the provider.")
    ] = Kind.SYSTEMD,
    image: Annotated[
        str | None,
        typer.Option(metavar="IMAGE", help="Of a static pod [default: keyplane:VERSION]"),
    ] = None,
    program: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What a unit starts [default: this program]"),
    ] = None,
    user: Annotated[
        int | None,
        typer.Option(
            metavar="UID",
            min=0,
            help=f"Who runs it [default: the state directory's owner, else {DEFAULT_USER}]",
        ),
    ] = None,
    resources: Annotated[
        str, typer.Option(metavar="LIST", help="What to encrypt, separated by commas.")
    ] = "secrets",
    force: Annotated[
        bool, typer.Option("--force", help="Replace files that have another content.")
    ] = False,
) -> None:
    """Write the files of a control-plane node.

    Unit or static pod of the provider, its user and directories, EncryptionConfiguration,
    and the lines that kube-apiserver's manifest needs, as a tree of paths on the node. The
    settings alone decide what is in them. A file with another content is left as it is,
    and then nothing is written.
    """
    from keycli.node_documents import Node  # noqa: PLC0415
    from keycore.settings import file_in_use  # noqa: PLC0415

    config = file_in_use(run.config_file)
    node = Node(
        run.settings,
        _owner(run.settings.state_dir) if user is None else user,
        None if config is None else config.absolute(),
        parse_resources(resources),
    )
    files = _files(node, kind, image=image, program=program)
    states = [_state_of(directory, file) for file in files]
    if not force:
        _refuse_others(directory, files, states)
    for file, state in zip(files, states, strict=True):
        if state != "unchanged":
            _write(directory, file)
    run.show(_document(directory, kind, files, states), _show)
    _remark_on(kind, node)
    _warn_of_the_other(directory, kind)


def _owner(state_dir: Path) -> int:
    try:
        return state_dir.stat().st_uid
    except OSError:
        return DEFAULT_USER


def _files(
    node: Node, kind: Kind, *, image: str | None, program: Path | None
) -> Sequence[NodeFile]:
    from keycli import node_documents as documents  # noqa: PLC0415
    from keycli.node_pod import static_pod  # noqa: PLC0415

    match kind:
        case Kind.SYSTEMD:
            started = program or Path(sys.prefix) / "bin" / "keyplane"
            runner = documents.systemd_unit(node, started.absolute())
        case Kind.STATIC_POD:
            runner = static_pod(node, image or _default_image())
    # kubelet runs a pod as any uid.
    named = [documents.users(node)] if kind is Kind.SYSTEMD and _lacks_a_name(node.user) else []
    return (
        runner,
        *named,
        documents.directories(node),
        documents.encryption_configuration(node),
        documents.api_server_lines(node),
    )


def _lacks_a_name(user: int) -> bool:
    """Tell whether the user has no name, or the one that an earlier run has given it."""
    from keycli.node_documents import USER_NAME  # noqa: PLC0415

    try:
        return pwd.getpwuid(user).pw_name == USER_NAME
    except KeyError:
        return True


def _default_image() -> str:
    from importlib.metadata import version  # noqa: PLC0415

    return f"{DEFAULT_IMAGE}:{version('keyplane')}"


def _place(directory: Path, file: NodeFile) -> Path:
    return directory / file.path.relative_to("/")


def _state_of(directory: Path, file: NodeFile) -> str:
    """Return what is done with a file: ``written``, ``replaced`` or ``unchanged``."""
    place = _place(directory, file)
    try:
        status = place.lstat()
        if not stat.S_ISREG(status.st_mode):
            return "replaced"
        same = place.read_bytes() == file.text.encode()
    except FileNotFoundError:
        return "written"
    except OSError as error:
        raise SettingsError(
            f"{place} cannot be read: {error.strerror}", hint="run as a user that may"
        ) from None
    return "unchanged" if same and stat.S_IMODE(status.st_mode) == file.mode else "replaced"


def _refuse_others(directory: Path, files: Sequence[NodeFile], states: Sequence[str]) -> None:
    """Refuse when a file would be written over.

    Raises:
        AlreadyExistsError: there is one; nothing was written.
    """
    pairs = zip(files, states, strict=True)
    others = [str(_place(directory, file)) for file, state in pairs if state == "replaced"]
    if others:
        raise AlreadyExistsError(
            f"another file is there already: {', '.join(others)}; nothing was written",
            hint="compare it, in another DIRECTORY; --force replaces it",
        )


def _write(directory: Path, file: NodeFile) -> None:
    place = _place(directory, file)
    # kubelet would run a half-written manifest, but for one whose name begins with a dot.
    hidden = place.with_name(f".{place.name}")
    try:
        _make_directory(place.parent)
        replace_durably(hidden, file.text.encode(), mode=file.mode)
        # The umask has taken from the mode, and others need to read some of the files.
        hidden.chmod(file.mode)
        hidden.rename(place)
    except OSError as error:
        raise SettingsError(
            f"{place} cannot be written: {error.strerror}", hint="run as a user that may"
        ) from None


def _make_directory(directory: Path) -> None:
    """Make a directory and those above it, with modes that do not depend on the umask.

    Whoever copies the tree onto a node may give its /etc the mode of the one here.
    """
    if not directory.is_dir():
        _make_directory(directory.parent)
        directory.mkdir()
        directory.chmod(_DIRECTORY_MODE)


def _document(
    directory: Path, kind: Kind, files: Sequence[NodeFile], states: Sequence[str]
) -> Document:
    return {
        "directory": str(directory),
        "kind": kind.value,
        "files": [
            {"path": str(file.path), "mode": f"{file.mode:04o}", "state": state}
            for file, state in zip(files, states, strict=True)
        ],
    }


def _show(document: Document) -> None:
    rows = [(file["path"], file["mode"], file["state"]) for file in document["files"]]
    show_table(("PATH", "MODE", "STATE"), rows)


def _remark_on(kind: Kind, node: Node) -> None:
    """Tell what the files cannot: what a pod lacks, and an owner that is not ours."""
    if kind is Kind.STATIC_POD:
        _remark_on_pod(node)
    if node.user == 0:
        remark("note: it runs as root, because root owns the state directory, or as you asked")


def _remark_on_pod(node: Node) -> None:
    from keycli.node_pod import files_shared_alone  # noqa: PLC0415

    if node.settings.token.module is not None:
        remark(f"note: the image must have the token's module {node.settings.token.module}")
    for file in files_shared_alone(node):
        remark(
            f"note: the pod would not see another file in the place of {file}: move it into a "
            "directory of its own, or start the pod again after a change"
        )


def _warn_of_the_other(directory: Path, kind: Kind) -> None:
    """Tell when what runs the provider otherwise is in the tree as well."""
    from keycli.node_documents import UNIT  # noqa: PLC0415
    from keycli.node_pod import STATIC_POD  # noqa: PLC0415

    others = {
        Kind.SYSTEMD: (STATIC_POD, "kubelet runs it: remove that file"),
        Kind.STATIC_POD: (UNIT, "systemctl disable --now keyplane-provider, and remove that file"),
    }
    file, remedy = others[kind]
    place = directory / file.relative_to("/")
    if os.path.lexists(place):
        remark(f"warning: {place} is there too, and only one of them may stay; {remedy}")
