"""``keyplane probe``: how any KMS v2 provider behaves towards kube-apiserver."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keycli import views
from keycli.errors import ExitCode
from keycli.examining import StrictOption, end_with, findings_document, progress
from keycli.invocation import Invocation, command

COUNT = 100
"""Calls of each kind, so that a 99th percentile means something."""

_UNREACHABLE = ("server", "Status")
"""After a fault of one of these checks nothing is known of the provider."""


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    command(
        app,
        "probe",
        examples=(
            "keyplane probe /run/keyplane/kms.sock",
            "keyplane probe unix:///run/other/kms.sock --status-only",
        ),
    )(probe)


def probe(
    run: Invocation,
    socket: Annotated[
        str, typer.Argument(metavar="SOCKET", help="A path, or the endpoint as unix:///PATH.")
    ],
    *,
    count: Annotated[
        int, typer.Option(metavar="N", min=2, max=10_000, help="Calls of each kind.")
    ] = COUNT,
    status_only: Annotated[
        bool, typer.Option("--status-only", help="Neither encrypt nor decrypt anything.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, max=60, help="How long a call may take.")
    ] = 3.0,
    strict: StrictOption = False,
) -> None:
    """Call a KMS v2 provider and say how it behaves.

    It works with any provider and needs no installation. Random seeds are encrypted
    and decrypted, which changes nothing but the provider's counters and logs; some
    calls are wrong on purpose and must be refused. Exit code 2: a rule is broken. 3:
    the provider does not answer.
    """
    from keyplugin.prober import probe as examine  # noqa: PLC0415

    with progress() as announce:
        findings = list(
            examine(
                _path_of(socket),
                count=count,
                status_only=status_only,
                timeout_seconds=timeout,
                announce=announce,
            )
        )
    document = findings_document(findings, "reason")
    run.show(document, views.show_examination)
    if any(
        finding["check"] in _UNREACHABLE and finding["outcome"] == "fault"
        for finding in document["findings"]
    ):
        raise typer.Exit(ExitCode.UNAVAILABLE)
    end_with(document, strict=strict)


def _path_of(socket: str) -> Path:
    path = socket.removeprefix("unix://")
    if path.startswith("/@"):
        # So does kube-apiserver read an abstract socket in an endpoint.
        path = path.removeprefix("/")
    return Path(path) if path.startswith("@") else Path(path).absolute()
