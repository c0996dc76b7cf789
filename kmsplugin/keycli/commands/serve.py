"""``keyplane serve``: runs one face in this process, or each of several in one of its own."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

from keycli.invocation import Invocation, command


class Face(StrEnum):
    """What can be served."""

    PROVIDER = "provider"
    OPERATOR = "operator"


FacesArgument = Annotated[
    list[Face] | None,
    typer.Argument(metavar="[provider] [operator]", help="Without a name: both."),
]
ParentOption = Annotated[int | None, typer.Option("--parent", metavar="PID", hidden=True)]
"""Set by the supervisor alone: the process ends when that parent does."""


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    command(app, "serve", examples=("keyplane serve", "keyplane serve provider"))(serve)


def serve(run: Invocation, faces: FacesArgument = None, *, parent: ParentOption = None) -> None:
    """Run the provider, the operator, or both.

    The provider serves kube-apiserver on a unix socket, the operator serves Key
    resources. One of them runs in this process. Both run in a process each: one
    that ends is started again after 1 to 30 seconds, but a fault of the
    installation ends both with exit code 2.
    """
    wanted = list(dict.fromkeys(faces or Face))
    if len(wanted) == 1:
        _serve_one(run, wanted[0], parent)
        return
    ended = _supervise(run, wanted)
    if ended:
        raise typer.Exit(ended)


def _serve_one(run: Invocation, face: Face, parent: int | None) -> None:
    from keycli.logs import configure_logs  # noqa: PLC0415
    from keycli.supervisor import end_with_parent  # noqa: PLC0415

    if parent is not None:
        end_with_parent(parent)
    configure_logs(run.settings.log, face=face.value)
    match face:
        case Face.PROVIDER:
            from keyplugin.main import run as run_provider  # noqa: PLC0415

            run_provider(run.settings)
        case Face.OPERATOR:
            from keyoperator.main import run as run_operator  # noqa: PLC0415

            run_operator(run.settings)


def _supervise(run: Invocation, faces: list[Face]) -> int:
    from keycli.logs import configure_logs  # noqa: PLC0415
    from keycli.supervisor import supervise  # noqa: PLC0415

    configure_logs(run.settings.log, face="serve")
    return supervise({face.value: _command_line(run, face) for face in faces})


def _command_line(run: Invocation, face: Face) -> list[str]:
    # -P: a folder named like one of our packages in the working directory is not imported.
    start = [sys.executable, "-P", "-m", "keycli.main"]
    config = [] if run.config_file is None else ["--config", str(run.config_file)]
    debug = ["--debug"] if run.debug else []
    return [*start, *config, *debug, "serve", face.value]
