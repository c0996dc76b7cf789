"""Builds small Go programs of this repository, once for each state of their sources."""

from pathlib import Path
from typing import Final

from testbed.downloads import cache_directory, exclusive, fetch, keep
from testbed.progress import BuildProgress
from testbed.toolchain import GoVersion, find_or_install_go, go_environment

GO_MIN: Final[GoVersion] = (1, 24, 0)
"""What the programs need; the toolchain that testbed installs is newer."""

_PROGRAM: Final = "program"

_BUILD_SECONDS_MAX: Final = 600.0


def build_program(name: str, module: Path) -> Path:
    """Return a program, after fetching its modules and building it if that was not done yet.

    Args:
        name: Path below the cache, such as `peers/keyprotect-go-client`.
        module: Directory with go.mod and one main package.

    Returns:
        The program.

    Raises:
        BinaryUnavailableError: Go, a module or the program could not be had.
    """

    def build(directory: Path, progress: BuildProgress) -> None:
        with exclusive(cache_directory() / "build.lock", progress):
            go = find_or_install_go(GO_MIN, cache_directory(), progress)
        fetch(
            (go, "mod", "download"),
            f"Downloading Go modules for {module.name}",
            log_directory=directory.parent,
            working_directory=module,
            environment=go_environment(),
            progress=progress,
        )
        fetch(
            (go, "build", "-trimpath", "-o", directory / _PROGRAM, "."),
            f"Building {module.name}",
            log_directory=directory.parent,
            working_directory=module,
            environment=go_environment(),
            progress=progress,
            within_seconds=_BUILD_SECONDS_MAX,
            attempts=1,
        )

    sources = sorted(path for path in module.iterdir() if path.suffix in (".go", ".mod", ".sum"))
    return keep(name, [*sources, _PROGRAM], build) / _PROGRAM
