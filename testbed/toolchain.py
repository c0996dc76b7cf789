"""Finds a Go that is new enough, or fetches one as a Python package.

A machine that can install this project's Python packages can therefore build
the control plane; nobody has to install Go by hand.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from testbed.downloads import python_installer
from testbed.errors import BinaryUnavailableError
from testbed.processes import ChildProcess
from testbed.progress import BuildProgress

_REPOSITORY: Final = Path(__file__).resolve().parent.parent
_REQUIREMENTS: Final = Path(__file__).resolve().parent / "controlplane" / "go-toolchain.txt"
_GO_INSIDE_THE_PACKAGE: Final = Path("go", "bin", "go")
_INSTALL_SECONDS_MAX: Final = 900.0

GoVersion = tuple[int, ...]
"""Such as (1, 26, 0)."""


def go_environment() -> dict[str, str]:
    """Our own environment with everything removed that would change a build.

    Returns:
        A whole environment. Where modules come from (GOPROXY and its kin) and
        where they are cached stays the user's choice.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in {"GOOS", "GOARCH", "GOBIN", "GOROOT", "GOEXPERIMENT"}
    }
    return environment | {
        # Services and containers may run without HOME, which Go insists on.
        "HOME": str(Path.home()),
        "CGO_ENABLED": "0",
        "GOFLAGS": "-mod=readonly -buildvcs=false",
        # A go.work of a parent directory must not replace our versions.
        "GOWORK": "off",
        # Go must not fetch another toolchain behind our back.
        "GOTOOLCHAIN": "local",
    }


def wanted_go(module: Path) -> GoVersion:
    """Read the version of Go that a module asks for.

    Args:
        module: Directory with go.mod.

    Raises:
        BinaryUnavailableError: go.mod names none.
    """
    manifest = (module / "go.mod").read_text()
    match = re.search(r"^go (\d+(?:\.\d+)*)$", manifest, re.MULTILINE)
    if match is None:
        raise BinaryUnavailableError(f"{module / 'go.mod'} names no Go version.")
    return tuple(int(part) for part in match[1].split("."))


def find_or_install_go(minimum: GoVersion, cache: Path, progress: BuildProgress) -> Path:
    """Find a Go of at least a version, or install the pinned one into the cache.

    Args:
        minimum: What go.mod asks for.
        cache: Where the pinned toolchain is kept, below `go/`.
        progress: Told about an installation.

    Returns:
        The path of the `go` command.

    Raises:
        BinaryUnavailableError: There is none and none could be installed.
    """
    for candidate in _installed_candidates():
        if _version_of(candidate) >= minimum:
            return candidate
    return _install_pinned_go(cache / "go", progress)


def _installed_candidates() -> Iterator[Path]:
    on_path = shutil.which("go")
    if on_path:
        yield Path(on_path)
    usual_place = Path("/usr/local/go/bin/go")
    if os.access(usual_place, os.X_OK):
        yield usual_place


def _version_of(go: Path) -> GoVersion:
    """Ask a Go for its version; (0,) when it does not answer like one."""
    try:
        answer = subprocess.run(
            (go, "env", "-json", "GOVERSION"),
            env=go_environment(),
            capture_output=True,
            timeout=60,
            check=True,
        )
        text = json.loads(answer.stdout)["GOVERSION"]
    except (OSError, subprocess.SubprocessError, ValueError, KeyError):
        return (0,)
    match = re.match(r"go(\d+(?:\.\d+)*)", text)
    return tuple(int(part) for part in match[1].split(".")) if match else (0,)


def _install_pinned_go(directory: Path, progress: BuildProgress) -> Path:
    """Install the package named in go-toolchain.txt; the caller holds the lock."""
    requirement = _REQUIREMENTS.read_text().split(maxsplit=1)[0]
    home = directory / requirement.replace("==", "-")
    go = home / _GO_INSIDE_THE_PACKAGE
    if os.access(go, os.X_OK):
        return go
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{home.name}-", dir=directory) as temporary:
        target = Path(temporary, "target")
        installer = ChildProcess(
            f"install-{home.name}",
            (*python_installer(), "--target", target, "--requirement", _REQUIREMENTS),
            directory=directory,
        )
        installer.log.unlink(missing_ok=True)
        title = f"Installing Go ({requirement})"
        with progress.step(title, "packages installed") as report, installer:
            installer.wait_for_exit(within_seconds=_INSTALL_SECONDS_MAX)
            if installer.exit_code != 0:
                raise BinaryUnavailableError(
                    f"No Go of the wanted version is installed and {requirement} could not be "
                    "fetched: install Go by hand, or check the network, or set "
                    "KUBEBUILDER_ASSETS to a directory with the control plane's binaries.\n"
                    + installer.describe_log()
                )
            report(1)
        target.rename(home)
    return go
