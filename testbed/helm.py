"""The real helm, built once from Go modules, and what tests ask of it."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from testbed.errors import CommandFailedError
from testbed.go import build_program

_MODULE: Final = Path(__file__).resolve().parent / "helm"
_PACKAGE: Final = "helm.sh/helm/v4/cmd/helm"
_HELM_SECONDS_MAX: Final = 60.0

Values = Mapping[str, Any]
"""As in a values file."""

Manifest = dict[str, Any]
"""One rendered object."""


def find_or_build_helm() -> Path:
    """Return helm in the version of `helm/go.mod`, after building it if that was not done yet.

    Raises:
        BinaryUnavailableError: Go or a module could not be had, or the build failed.
    """
    return build_program("helm", _MODULE, package=_PACKAGE, flags=("-ldflags", "-s -w"))


class Helm:
    """Helm without any settings of the user, and on no network but a cluster that it is given."""

    def __init__(self, program: Path, directory: Path, *, kubeconfig: Path | None = None) -> None:
        """Keep the program.

        Args:
            program: From `find_or_build_helm`.
            directory: For what it writes; it must exist.
            kubeconfig: Of the cluster that it may talk to; None lets it talk to none.
        """
        self._program = program
        self._directory = directory
        self._kubeconfig = kubeconfig or directory / "no-kubeconfig"

    def run(self, *arguments: str | Path, values: Values | None = None) -> str:
        """Run one command.

        Args:
            arguments: As on the command line, without the program's name.
            values: For `--values`; None gives none.

        Returns:
            What it wrote to standard output.

        Raises:
            CommandFailedError: It failed; the message is what it wrote.
        """
        options = () if values is None else ("--values", "-")
        done = subprocess.run(
            (self._program, *arguments, *options),
            input="" if values is None else json.dumps(values),
            env={
                "PATH": os.environ.get("PATH", ""),
                "HOME": str(self._directory),
                "KUBECONFIG": str(self._kubeconfig),
            },
            cwd=self._directory,
            capture_output=True,
            text=True,
            timeout=_HELM_SECONDS_MAX,
            check=False,
        )
        if done.returncode != 0:
            raise CommandFailedError(f"helm {arguments[0]}: {done.stdout}{done.stderr}".strip())
        return done.stdout

    def template(
        self,
        chart: Path,
        values: Values | None = None,
        *,
        name: str = "keyplane",
        namespace: str = "keyplane-system",
        options: tuple[str, ...] = (),
    ) -> list[Manifest]:
        """Render a chart.

        Args:
            chart: Its directory.
            values: Beside the chart's own.
            name: Of the release.
            namespace: Of the release.
            options: More of `helm template`, such as `--include-crds`.

        Returns:
            Every rendered object, hooks included, in the order of helm.

        Raises:
            CommandFailedError: The values are refused, or a template fails.
        """
        rendered = self.run(
            "template", name, chart, "--namespace", namespace, *options, values=values or {}
        )
        return [document for document in yaml.safe_load_all(rendered) if document]
