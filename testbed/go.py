"""Builds small Go programs of this repository, once for each state of their sources."""

from pathlib import Path
from typing import Final

from testbed.downloads import cache_directory, exclusive, fetch, keep
from testbed.progress import BuildProgress
from testbed.toolchain import find_or_install_go, go_environment, wanted_go

_PROGRAM: Final = "program"

_BUILD_SECONDS_MAX: Final = 600.0


def build_program(name: str, module: Path, *, cgo: bool = False) -> Path:
    """Return a program, after fetching its modules and building it if that was not done yet.

    Args:
        name: Path below the cache, such as `peers/keyprotect-go-client`.
        module: Directory with go.mod and one main package.
        cgo: Whether it calls C, for which the machine must have gcc.

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
            (go, "mod", "download"),
            f"Downloading Go modules for {module.name}",
            log_directory=directory.parent,
            working_directory=module,
            environment=environment,
            progress=progress,
        )
        fetch(
            (go, "build", "-trimpath", "-o", directory / _PROGRAM, "."),
            f"Building {module.name}",
            log_directory=directory.parent,
            working_directory=module,
            environment=environment,
            progress=progress,
            within_seconds=_BUILD_SECONDS_MAX,
            attempts=1,
        )

    sources = sorted(path for path in module.iterdir() if path.suffix in (".go", ".mod", ".sum"))
    return keep(name, [*sources, _PROGRAM], build) / _PROGRAM
