"""The published clients of the API that keyplane's REST face answers, ready to be run.

Each is installed unmodified from its package registry, as a lock file in `tests/peers`
pins it, and runs as a process that has nothing of this project's own packages.
"""

import json
import os
import sys
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from testbed import npm
from testbed.downloads import fetch, keep, python_installer
from testbed.go import build_program
from testbed.processes import ChildProcess
from testbed.progress import BuildProgress

_REPOSITORY: Final = Path(__file__).resolve().parent.parent
_PEERS: Final = _REPOSITORY / "tests" / "peers"


@dataclass(frozen=True, slots=True)
class PublishedClient:
    """A program that tells stories about one client.

    Attributes:
        command: Takes the path of the description of a server as its last argument.
        environment: What it needs beside PATH and HOME.
    """

    name: str
    command: tuple[str | Path, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    def tell(self, world: Path, *, ca: Path, within_seconds: float) -> dict[str, str]:
        """Run the stories against a server.

        Args:
            world: The description of the server, as JSON; the log is written beside it.
            ca: PEM file with the authority that Node.js trusts; the other clients read
                its path in the description.
            within_seconds: How long all of it may take.

        Returns:
            What went wrong, by the name of the story; empty when all was well.

        Raises:
            DeadlineExceededError: It still runs.
        """
        # Proxies and authorities of the user's environment are for other servers.
        inherited = {name: os.environ.get(name, "") for name in ("PATH", "HOME")}
        process = ChildProcess(
            self.name,
            (*self.command, world),
            directory=world.parent,
            environment={**inherited, **self.environment, "NODE_EXTRA_CA_CERTS": str(ca)},
        )
        process.log.unlink(missing_ok=True)
        with process:
            process.wait_for_exit(within_seconds=within_seconds)
        return _told(process.log)


def published_clients() -> dict[str, Callable[[], PublishedClient]]:
    """Return what makes each client ready, by the client's name.

    Each may take a minute the first time, and raises BinaryUnavailableError when its
    registry cannot be reached.
    """
    return {
        "python-keyprotect-3.0.1": lambda: _python_client("3.0.1"),
        "python-keyprotect-2.3.1": lambda: _python_client("2.3.1"),
        "node-ibm-key-protect": _node_client,
        "go-keyprotect-go-client": _go_client,
    }


def _python_client(version: str) -> PublishedClient:
    stories = _PEERS / "python"
    program = stories / f"keyprotect-{version}"
    requirements = program / "requirements.txt"

    def install(directory: Path, progress: BuildProgress) -> None:
        fetch(
            (
                *(*python_installer(), "--only-binary", ":all:"),
                *("--target", directory, "--requirement", requirements),
            ),
            f"Installing keyprotect {version}",
            log_directory=directory.parent,
            progress=progress,
        )

    # Some packages are compiled for one version of Python on one kind of machine.
    build = f"{sys.implementation.cache_tag} {sysconfig.get_platform()}"
    packages = keep(f"peers/keyprotect-{version}", (requirements, build), install)
    # Without `site` the packages of our own environment are out of sight.
    command = (sys.executable, "-S", "-s", program)
    path = os.pathsep.join((str(packages), str(stories)))
    return PublishedClient(f"keyprotect-{version}", command, {"PYTHONPATH": path})


def _node_client() -> PublishedClient:
    programs = npm.install(_PEERS / "node")
    return PublishedClient("ibm-key-protect", (npm.node_program(), programs / "keyprotect.js"))


def _go_client() -> PublishedClient:
    program = build_program("peers/keyprotect-go-client", _PEERS / "go")
    return PublishedClient("keyprotect-go-client", (program,))


def _told(log: Path) -> dict[str, str]:
    """Read one JSON line for each story, and what else was said as a story of its own."""
    faults: dict[str, str] = {}
    noise: list[str] = []
    for line in log.read_text(errors="replace").splitlines():
        try:
            told = json.loads(line)
            faults[told["story"]] = told["fault"]
        except (ValueError, TypeError, KeyError):
            noise.append(line)
    if noise:
        faults["nothing_else_is_said"] = "\n".join(noise)
    return faults
