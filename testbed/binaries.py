"""Finds the control plane's binaries, or builds them from Go modules.

The versions are those of `controlplane/go.mod`; what was built once is kept in
`${XDG_CACHE_HOME:-~/.cache}/keyplane/controlplane/<hash of go.mod and go.sum>/`.
Whoever has the binaries already sets KUBEBUILDER_ASSETS to their directory, as
for other Kubernetes projects; what is missing there is built.

Run as a program, it prints where the binaries are.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from testbed.downloads import cache_directory, exclusive
from testbed.errors import BinaryUnavailableError, ControlPlaneError
from testbed.processes import ChildProcess
from testbed.progress import BuildProgress
from testbed.toolchain import find_or_install_go, go_environment, wanted_go

_MODULE: Final = Path(__file__).resolve().parent / "controlplane"
_PACKAGES: Final[Mapping[str, str]] = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
}
_TEMPORARY_PREFIX: Final = ".building-"
_BUILD_SECONDS_MAX: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Binaries:
    """Where the programs of a control plane are."""

    etcd: Path
    kube_apiserver: Path
    kube_controller_manager: Path
    kubectl: Path


def find_or_build(progress: BuildProgress | None = None) -> Binaries:
    """Find every binary, building those that are nowhere.

    Several processes may call it at once: one builds, the others wait for it.
    An interrupted build continues where it stopped.

    Args:
        progress: Told about waiting and building; None writes to standard error.

    Returns:
        Paths of programs that exist.

    Raises:
        BinaryUnavailableError: One is missing and could not be built.
    """
    found = {name: path for name in _PACKAGES if (path := _find(name))}
    missing = [name for name in _PACKAGES if name not in found]
    if missing:
        found |= _build_under_lock(missing, progress or BuildProgress())
    return Binaries(
        etcd=found["etcd"],
        kube_apiserver=found["kube-apiserver"],
        kube_controller_manager=found["kube-controller-manager"],
        kubectl=found["kubectl"],
    )


def _find(name: str) -> Path | None:
    places = [built_directory()]
    if assets := os.environ.get("KUBEBUILDER_ASSETS"):
        places.insert(0, Path(assets))
    for place in places:
        if os.access(place / name, os.X_OK):
            return (place / name).absolute()
    return _working_kubectl() if name == "kubectl" else None


def _working_kubectl() -> Path | None:
    """Take kubectl from PATH, unless it is a wrapper that does not even start."""
    path = shutil.which("kubectl")
    if path is None:
        return None
    try:
        command = (path, "version", "--client")
        subprocess.run(command, capture_output=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return Path(path).absolute()


def built_directory() -> Path:
    """Name the directory in which the binaries of this go.mod are kept.

    Returns:
        An absolute path, which may not exist yet.
    """
    digest = hashlib.sha256()
    for name in ("go.mod", "go.sum"):
        digest.update((_MODULE / name).read_bytes())
    return cache_directory() / "controlplane" / digest.hexdigest()[:16]


def _build_under_lock(names: list[str], progress: BuildProgress) -> dict[str, Path]:
    directory = built_directory()
    directory.mkdir(parents=True, exist_ok=True)
    busy = "Another process builds the control plane; waiting for it."
    with exclusive(cache_directory() / "build.lock", progress, busy=busy):
        for leftover in directory.glob(f"{_TEMPORARY_PREFIX}*"):
            # Of a build that was killed: whoever holds the lock is alone here.
            shutil.rmtree(leftover)
        # Another process may have built some of them while we waited.
        missing = [name for name in names if not (directory / name).exists()]
        if missing:
            _build(missing, directory, progress)
    return {name: directory / name for name in names}


def _build(names: list[str], directory: Path, progress: BuildProgress) -> None:
    manifest = (_MODULE / "go.mod").read_text()
    go = find_or_install_go(wanted_go(_MODULE), cache_directory(), progress)
    progress.say(
        f"Building {', '.join(names)} from Go modules, once: up to ten minutes and 5 GB of disk. "
        "KUBEBUILDER_ASSETS=<directory> uses binaries that you have already."
    )
    packages = [_PACKAGES[name] for name in names]
    # Listing the dependencies downloads them, which shows apart from compiling.
    # The empty template leaves one line for each download.
    listing = (str(go), "list", "-deps", "-f", "{{/* nothing */}}", *packages)
    _run_go(listing, "Downloading Go modules", directory, progress)
    for name, package in zip(names, packages, strict=True):
        # A binary is built beside its place and renamed into it, so that
        # nobody ever sees half of one.
        with tempfile.TemporaryDirectory(prefix=_TEMPORARY_PREFIX, dir=directory) as temporary:
            command = (str(go), "install", "-v", "-ldflags", _linker_flags(manifest), package)
            _run_go(command, f"Building {name}", directory, progress, output=Path(temporary))
            (built,) = Path(temporary).iterdir()
            built.rename(directory / name)


def _run_go(
    command: tuple[str, ...],
    title: str,
    directory: Path,
    progress: BuildProgress,
    *,
    output: Path | None = None,
) -> None:
    """Run one Go command, counting what it reports line by line."""
    environment = go_environment() | ({"GOBIN": str(output)} if output else {})
    process = ChildProcess(
        title.lower().replace(" ", "-"),
        command,
        directory=directory,
        environment=environment,
        working_directory=_MODULE,
    )
    process.log.unlink(missing_ok=True)
    unit = "packages compiled" if output else "modules downloaded"
    with progress.step(title, unit) as report, process:
        process.wait_for_exit(
            within_seconds=_BUILD_SECONDS_MAX,
            meanwhile=lambda: report(process.count_log_lines()),
        )
        if process.exit_code != 0:
            raise BinaryUnavailableError(
                f"{title} failed: check the network (GOPROXY) and the free disk space and try "
                "again, or set KUBEBUILDER_ASSETS to a directory with the control plane's "
                f"binaries.\n{process.describe_log()}"
            )


def _linker_flags(manifest: str) -> str:
    """Strip symbols, and give the binaries the version that their module has."""
    match = re.search(r"^\s*k8s\.io/kubernetes (v(\d+)\.(\d+)\.\S+)", manifest, re.MULTILINE)
    if match is None:
        raise BinaryUnavailableError(f"{_MODULE / 'go.mod'} names no k8s.io/kubernetes version.")
    version, major, minor = match.groups()
    package = "k8s.io/component-base/version"
    return (
        f"-s -w -X {package}.gitVersion={version} "
        f"-X {package}.gitMajor={major} -X {package}.gitMinor={minor}"
    )


def main() -> None:
    """Build what is missing and print where everything is."""
    try:
        binaries = find_or_build()
    except ControlPlaneError as fault:
        sys.exit(f"error: {fault}")
    for path in (
        binaries.etcd,
        binaries.kube_apiserver,
        binaries.kube_controller_manager,
        binaries.kubectl,
    ):
        print(path)


if __name__ == "__main__":
    main()
