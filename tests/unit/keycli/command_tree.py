"""Walks the commands of ``keyplane`` as typer knows them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from keycli.main import app

GLOBAL = frozenset({"--config", "--output", "-o", "--debug", "--help", "--version"})


def all_commands() -> list[tuple[str, ...]]:
    """Return the path of every command, such as ``("keys", "create")``."""
    return [path for path, _ in _walk()]


def groups() -> list[str]:
    """Return the names that have commands below them."""
    return sorted({path[0] for path in all_commands() if len(path) > 1})


def options_of(path: tuple[str, ...]) -> set[str]:
    """Return the long options that belong to a command alone."""
    parameters = dict(_walk())[path].params
    shown = (p for p in parameters if p.param_type_name == "option" and not p.hidden)
    return {option for p in shown for option in p.opts} - GLOBAL


def _walk(node: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    node = node or get_command(app)
    for name, below in node.commands.items():
        if hasattr(below, "commands"):
            yield from _walk(below, (*path, name))
        else:
            yield (*path, name), below
