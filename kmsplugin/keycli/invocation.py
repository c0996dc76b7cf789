"""One command line: what holds for every command, whether it stands before or after it.

Nothing heavy is imported here, or ``keyplane --help`` would take seconds: the
settings, the core and the faces are imported by the commands that need them.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from keycli.errors import ExitCode
from keycli.output import Document, Output, discard_output, show_json

if TYPE_CHECKING:
    from keycore.bootstrap import Core
    from keycore.service.caller import Caller
    from keycore.settings import Settings

FACE = "cli"

HandlerT = TypeVar("HandlerT", bound=Callable[..., None])
CoreOpener = Callable[["Settings", str], AbstractContextManager["Core"]]
"""What opens the core; tests put a core on fakes here."""

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Settings file [default: $KEYPLANE_CONFIG, else /etc/keyplane/keyplane.toml]",
    ),
]
OutputOption = Annotated[
    Output | None,
    typer.Option("--output", "-o", metavar="table|json", help="For people or for programs."),
]
DebugOption = Annotated[
    bool, typer.Option("--debug", help="Show a traceback when keyplane itself fails.")
]


def open_installation(settings: Settings, face: str) -> AbstractContextManager[Core]:
    """Open the core of the installation that the settings name."""
    from keycore.bootstrap import open_core  # noqa: PLC0415

    return open_core(settings, face)


@dataclass(frozen=True)
class Invocation:
    """What a command gets beside its own arguments.

    Attributes:
        config_file: from ``--config``; ``None`` leaves the choice to the settings.
        opener: opens store and token.
    """

    config_file: Path | None = None
    output: Output = Output.TABLE
    debug: bool = False
    opener: CoreOpener = open_installation

    def with_options(
        self, config_file: Path | None, output: Output | None, debug: bool
    ) -> Invocation:
        """Return this invocation with the options that were given, which win."""
        return replace(
            self,
            config_file=config_file or self.config_file,
            output=output or self.output,
            debug=debug or self.debug,
        )

    @cached_property
    def settings(self) -> Settings:
        """The settings, read at first use.

        Raises:
            SettingsError: they have faults.
        """
        from keycore.settings import load_settings  # noqa: PLC0415

        return load_settings(self.config_file)

    @cached_property
    def caller(self) -> Caller:
        """Who asks, for audit lines: the uid that started the command."""
        from keycore.service.caller import Caller  # noqa: PLC0415

        return Caller(face=FACE, actor=f"uid:{os.getuid()}")

    @contextmanager
    def core(self) -> Iterator[Core]:
        """Open the core for the length of one command.

        Raises:
            SetupError: not initialised, another uid, or token, PIN or store unusable.
            UnavailableError: token or store did not answer.
        """
        self.start_logs()
        with self.opener(self.settings, FACE) as core:
            yield core

    def start_logs(self) -> None:
        """Let only warnings through: a command's own words come first."""
        from keycli.logs import configure_logs  # noqa: PLC0415

        configure_logs(self.settings.log, quiet=not self.debug)

    def show(self, document: Document, view: Callable[[Document], None]) -> None:
        """Write one answer: as JSON, or by ``view`` for people."""
        if self.output is Output.JSON:
            show_json(document)
        else:
            view(document)

    def show_all(
        self, documents: Sequence[Document], view: Callable[[Sequence[Document]], None]
    ) -> None:
        """Write an answer of many parts: as a JSON array, or by ``view`` for people."""
        if self.output is Output.JSON:
            show_json(documents)
        else:
            view(documents)


def command_group(help_text: str) -> typer.Typer:
    """Return a group of commands that shows its help when none of them is named."""
    return typer.Typer(
        help=help_text,
        invoke_without_command=True,
        callback=show_help,
        rich_markup_mode=None,
        add_completion=False,
    )


def show_help(context: typer.Context) -> None:
    """Write the help of a group unless one of its commands follows."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def command(
    group: typer.Typer, name: str, *, examples: Sequence[str] = ()
) -> Callable[[HandlerT], HandlerT]:
    """Register a handler as a command that also takes the global options.

    Args:
        group: where the command belongs.
        name: what people type.
        examples: command lines for the end of its help.

    Returns:
        A decorator. The handler's first argument becomes the :class:`Invocation`,
        the others are options and arguments as typer reads them.
    """

    def register(handler: HandlerT) -> HandlerT:
        def run(context: typer.Context, **arguments: Any) -> None:
            started: Invocation = context.obj
            invocation = started.with_options(
                arguments.pop("config"), arguments.pop("output"), arguments.pop("debug")
            )
            try:
                handler(invocation, **arguments)
                sys.stdout.flush()
            except BrokenPipeError:
                discard_output()
                raise typer.Exit(ExitCode.READER_GONE) from None

        own = list(inspect.signature(handler, eval_str=True).parameters.values())[1:]
        signature = inspect.Signature([_CONTEXT, *own, *_GLOBAL])
        # typer reads the options from here; the wrapper's own signature tells nothing.
        run.__signature__ = signature  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        run.__doc__ = handler.__doc__
        group.command(name, epilog=as_epilog(examples))(run)
        return handler

    return register


def as_epilog(examples: Sequence[str]) -> str | None:
    """Return example command lines as the end of a help text, line by line as they are."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in examples) if examples else None


def _keyword(name: str, annotation: Any, default: object) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default
    )


_CONTEXT = inspect.Parameter(
    "context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context
)
_GLOBAL = (
    _keyword("config", ConfigOption, None),
    _keyword("output", OutputOption, None),
    _keyword("debug", DebugOption, False),
)
