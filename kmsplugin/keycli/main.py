"""The entry point ``keyplane``: assembles the commands and turns every end into an exit code."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.main import get_command

from keycli.commands import (
    audit,
    doctor,
    encryption_config,
    init,
    instance,
    join,
    keys,
    node_files,
    nodes,
    policy,
    probe,
    provider,
    serve,
    status,
    store,
)
from keycli.errors import INTERNAL_MESSAGE, ExitCode, describe, exit_code_of
from keycli.invocation import (
    ConfigOption,
    DebugOption,
    Invocation,
    OutputOption,
    as_epilog,
    show_help,
)
from keycli.output import remark
from keycore.errors import KeyplaneError

PROGRAM = "keyplane"

app = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)


@app.callback(
    invoke_without_command=True,
    epilog=as_epilog(
        (
            "keyplane init",
            "keyplane keys create etcd",
            "keyplane provider set keyplane --key KEY_ID",
            "keyplane serve",
            "keyplane status --output json",
        )
    ),
)
def root(
    context: typer.Context,
    *,
    config: ConfigOption = None,
    output: OutputOption = None,
    debug: DebugOption = False,
    show_version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.")
    ] = False,
) -> None:
    """HSM-backed keys for a Kubernetes control plane.

    Options of this level may also stand after the command.
    """
    if show_version:
        from importlib.metadata import version  # noqa: PLC0415

        typer.echo(f"{PROGRAM} {version(PROGRAM)}")
        raise typer.Exit
    context.obj = (context.obj or Invocation()).with_options(config, output, debug)
    show_help(context)


init.register(app)
join.register(app)
serve.register(app)
status.register(app)
doctor.register(app)
probe.register(app)
app.add_typer(instance.app, name="instance")
app.add_typer(keys.app, name="keys")
app.add_typer(provider.app, name="provider")
app.add_typer(nodes.app, name="nodes")
app.add_typer(policy.app, name="policy")
app.add_typer(audit.app, name="audit")
app.add_typer(store.app, name="store")
encryption_config.register(app)
node_files.register(app)


def main(arguments: Sequence[str] | None = None, *, invocation: Invocation | None = None) -> int:
    """Run one command line.

    Args:
        arguments: without the program's name; ``None`` takes the process's own.
        invocation: what the command starts with; tests bring a core on fakes.

    Returns:
        The exit code, one of :class:`~keycli.errors.ExitCode`.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        return _run(given, invocation or Invocation())
    except (KeyboardInterrupt, typer.Abort):
        return ExitCode.INTERRUPTED
    except Exception:  # noqa: BLE001 - the last resort: nobody else handles it.
        if "--debug" in given:
            traceback.print_exc()
        remark(INTERNAL_MESSAGE)
        return ExitCode.INTERNAL


def _run(arguments: list[str], invocation: Invocation) -> int:
    try:
        # The command rather than the app: calling an app replaces sys.excepthook.
        ended = get_command(app)(
            arguments, prog_name=PROGRAM, standalone_mode=False, obj=invocation
        )
    except KeyplaneError as error:
        remark(describe(error.message, error.hint))
        return exit_code_of(error)
    except typer.TyperException as error:
        return _refuse_usage(error)
    return ended if isinstance(ended, int) else ExitCode.OK


def _refuse_usage(error: typer.TyperException) -> int:
    context: typer.Context | None = getattr(error, "ctx", None)
    message = error.format_message().rstrip(".")
    path = context.command_path if context else PROGRAM
    remark(describe(message[:1].lower() + message[1:], f"see: {path} --help"))
    return ExitCode.SETUP


if __name__ == "__main__":
    sys.exit(main())
