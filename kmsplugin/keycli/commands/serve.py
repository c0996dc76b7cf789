"""``keyplane serve``: runs one face in this process, or each of several in one of its own.

The REST face may have several workers; then its process starts and watches them.
"""

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
    REST = "rest"


FacesArgument = Annotated[
    list[Face] | None,
    typer.Argument(
        metavar="[provider] [operator] [rest]",
        help="Without a name: the first two, and rest if it has an issuer.",
    ),
]
TakeoverOption = Annotated[
    bool,
    typer.Option(
        "--takeover",
        help="Take the provider's socket from a process that serves it, without a failed call.",
    ),
]
StandbyOption = Annotated[
    bool,
    typer.Option(
        "--standby",
        help="When another process takes the socket over, wait instead of ending (for kubelet).",
    ),
]
ParentOption = Annotated[int | None, typer.Option("--parent", metavar="PID", hidden=True)]
"""Set by the supervisor alone: the process ends when that parent does."""

ListenersOption = Annotated[list[int] | None, typer.Option("--listener", hidden=True)]
"""Set by the supervisor alone: numbers of inherited sockets, the worker's own first."""

WorkerOption = Annotated[int, typer.Option("--worker", min=0, hidden=True)]
"""Set by the supervisor alone: the worker's number, from 0."""


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    examples = (
        "keyplane serve",
        "keyplane serve provider",
        "keyplane serve provider --takeover",
        "keyplane serve rest",
    )
    command(app, "serve", examples=examples)(serve)


def serve(
    run: Invocation,
    faces: FacesArgument = None,
    *,
    takeover: TakeoverOption = False,
    standby: StandbyOption = False,
    parent: ParentOption = None,
    listener: ListenersOption = None,
    worker: WorkerOption = 0,
) -> None:
    """Run provider, operator and REST API, or some of them.

    The provider serves kube-apiserver on a unix socket, the operator serves Key
    resources, rest serves the HTTPS API. One of them runs in this process.
    Several run in a process each: one that ends is started again after 1 to 30
    seconds, but one that must be mended by hand stays down, and the others go on.
    In the same way rest runs its workers, if it has more than one.
    """
    wanted = list(dict.fromkeys(faces or _usual_faces(run)))
    _check_options(wanted, takeover=takeover, standby=standby)
    if len(wanted) > 1:
        without_rest = not faces and Face.REST not in wanted
        _supervise(run, wanted, takeover=takeover, without_rest=without_rest)
        return
    _prepare(run, wanted[0], parent)
    match wanted[0]:
        case Face.PROVIDER:
            supervised = parent is not None
            _run_provider(run, takeover=takeover, standby=standby, supervised=supervised)
        case Face.OPERATOR:
            from keyoperator.main import run as run_operator  # noqa: PLC0415

            run_operator(run.settings)
        case Face.REST if listener is None and run.settings.rest.workers > 1:
            _supervise_workers(run)
        case Face.REST:
            _run_rest(run, listener, worker)


def _check_options(faces: list[Face], *, takeover: bool, standby: bool) -> None:
    if (takeover or standby) and Face.PROVIDER not in faces:
        raise typer.BadParameter("only the provider has a socket that can be taken over")
    if standby and len(faces) > 1:
        raise typer.BadParameter("--standby is for a provider in a process of its own")


def _usual_faces(run: Invocation) -> list[Face]:
    rest = [Face.REST] if run.settings.rest.issuers else []
    return [Face.PROVIDER, Face.OPERATOR, *rest]


def _prepare(run: Invocation, face: Face, parent: int | None) -> None:
    from keycli.logs import configure_logs  # noqa: PLC0415
    from keycli.supervisor import end_with_parent  # noqa: PLC0415

    if parent is not None:
        end_with_parent(parent)
    configure_logs(run.settings.log, face=face.value)


def _run_provider(run: Invocation, *, takeover: bool, standby: bool, supervised: bool) -> None:
    from keyplugin.main import run as run_provider  # noqa: PLC0415

    settings = run.settings
    _end_with(run_provider(settings, takeover=takeover, standby=standby, supervised=supervised))


def _run_rest(run: Invocation, listener: list[int] | None, worker: int) -> None:
    import socket  # noqa: PLC0415

    from keyrest.main import run as run_rest  # noqa: PLC0415

    inherited = None if listener is None else [socket.socket(fileno=number) for number in listener]
    run_rest(run.settings, listeners=inherited, worker=worker)


def _supervise(run: Invocation, faces: list[Face], *, takeover: bool, without_rest: bool) -> None:
    import structlog  # noqa: PLC0415

    from keycli.logs import configure_logs  # noqa: PLC0415
    from keycli.supervisor import supervise  # noqa: PLC0415

    configure_logs(run.settings.log, face="serve")
    if without_rest:
        structlog.get_logger(__name__).info("REST is not served: the settings name no issuer")
    commands = {face.value: _command_line(run, face) for face in faces}
    if takeover:
        commands[Face.PROVIDER.value].append("--takeover")
    # A provider that was taken over was so by that of another `keyplane serve`.
    _end_with(supervise(commands, leader=Face.PROVIDER.value, patient=takeover))


def _supervise_workers(run: Invocation) -> None:
    from keycli.supervisor import supervise  # noqa: PLC0415
    from keyrest.listening import open_listeners  # noqa: PLC0415

    rest = run.settings.rest
    listeners = open_listeners(rest, rest.workers)
    numbers = [str(listener.fileno()) for listener in listeners]
    commands = {}
    for worker in range(rest.workers):
        own_first = numbers[worker:] + numbers[:worker]
        options = [part for number in own_first for part in ("--listener", number)]
        commands[f"rest-{worker + 1}"] = [
            *_command_line(run, Face.REST),
            *options,
            "--worker",
            str(worker),
        ]
    _end_with(supervise(commands, listeners=listeners))


def _end_with(code: int) -> None:
    if code:
        raise typer.Exit(code)


def _command_line(run: Invocation, face: Face) -> list[str]:
    # -P: a folder named like one of our packages in the working directory is not imported.
    start = [sys.executable, "-P", "-m", "keycli.main"]
    config = [] if run.config_file is None else ["--config", str(run.config_file)]
    debug = ["--debug"] if run.debug else []
    return [*start, *config, *debug, "serve", face.value]
