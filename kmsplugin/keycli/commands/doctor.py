"""``keyplane doctor``: what keeps this node from serving, and what to do about it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keycli import views
from keycli.examining import StrictOption, end_with, findings_document, progress
from keycli.invocation import Invocation, command

if TYPE_CHECKING:
    from keycore.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    command(
        app,
        "doctor",
        examples=(
            "keyplane doctor",
            "keyplane doctor --encryption-config /etc/kubernetes/encryption.yaml",
            "keyplane doctor --strict --output json",
        ),
    )(doctor)


def doctor(
    run: Invocation,
    *,
    encryption_config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Check kube-apiserver's EncryptionConfiguration too."),
    ] = None,
    strict: StrictOption = False,
) -> None:
    """Find what keeps this node from serving.

    Every fault is named with its fix. The provider may run or not, and nothing is
    changed. The PIN is tried once, and never one that was refused before. Exit code
    2: there is a fault, or with --strict a warning.
    """
    from keycore.adapters.system_clock import SystemClock  # noqa: PLC0415
    from keycore.diagnosis.examination import Examination  # noqa: PLC0415
    from keycore.diagnosis.findings import examine  # noqa: PLC0415
    from keycore.diagnosis.plan import plan  # noqa: PLC0415
    from keycore.settings import file_in_use  # noqa: PLC0415
    from keyplugin.socket_checks import SOCKET_CHECKS  # noqa: PLC0415

    checks = plan(SOCKET_CHECKS, encryption_config=encryption_config is not None)
    with ExitStack() as opened, progress() as announce:
        examination = Examination(
            lambda: _settings(run),
            file_in_use(run.config_file),
            SystemClock(),
            opened,
            encryption_config,
        )
        findings = list(examine(checks, examination, announce=announce))
    document = findings_document(findings, "fix")
    run.show(document, views.show_examination)
    end_with(document, strict=strict)


def _settings(run: Invocation) -> Settings:
    settings = run.settings
    run.start_logs()
    return settings
