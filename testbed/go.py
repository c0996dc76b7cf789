"""Builds small Go programs of this repository, once for each state of their sources."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from testbed.downloads import cache_directory, exclusive, fetch, keep
from testbed.progress import BuildProgress
from testbed.toolchain import find_or_install_go, go_environment, wanted_go

_PROGRAM: Final = "program"
_OWN_PACKAGE: Final = "."

_BUILD_SECONDS_MAX: Final = 600.0


def build_program(
    name: str,
    module: Path,
    *,
    cgo: bool = False,
    package: str = _OWN_PACKAGE,
    flags: Sequence[str] = (),
) -> Path:
    """Return a program, after fetching its modules and building it if that was not done yet.

    Args:
        name: Path below the cache, such as `peers/keyprotect-go-client`.
        module: Directory with go.mod, and with one main package if that is what is built.
        cgo: Whether it calls C, for which the machine must have gcc.
        package: The main package; one of another module is named by its import path.
        flags: Further flags of `go build`.

    Returns:
        The program.

    Raises:
        BinaryUnavailableError: Go, a module or the program could not be had.
    """
    environment = go_environment() | ({"CGO_ENABLED": "1"} if cgo else {})

    def build(directory: Path, progress: BuildProgress) -> None:
        with exclusive(cache_directory() / "build.lock", progress):
            go = find_or_install_go(wanted_go(module), cache_directory(), progress)
        fetch(
            # Listing them downloads what this package needs, and not what its module may need.
            (go, "list", "-deps", "-f", "{{/* nothing */}}", *flags, package),
            f"Downloading Go modules for {module.name}",
            log_directory=directory.parent,
            working_directory=module,
            environment=environment,
            progress=progress,
        )
        fetch(
            (go, "build", "-trimpath", *flags, "-o", directory / _PROGRAM, package),
            f"Building {module.name}",
            log_directory=directory.parent,
            working_directory=module,
            environment=environment,
            progress=progress,
            within_seconds=_BUILD_SECONDS_MAX,
            attempts=1,
        )

    sources = sorted(path for path in module.iterdir() if path.suffix in (".go", ".mod", ".sum"))
    choices = [] if package == _OWN_PACKAGE else [package]
    return keep(name, [*sources, _PROGRAM, *choices, *flags], build) / _PROGRAM
