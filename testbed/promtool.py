"""The real promtool of Prometheus, which checks and tests the chart's rules and all PromQL."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from testbed.errors import CommandFailedError
from testbed.go import build_program

_MODULE: Final = Path(__file__).resolve().parent / "promtool"
_PACKAGE: Final = "github.com/prometheus/prometheus/cmd/promtool"

# Service discovery is a third of the program, and never used here.
_FLAGS: Final = ("-tags", "remove_all_sd", "-ldflags", "-s -w")

_SECONDS_MAX: Final = 60.0


class Promtool:
    """The program, and what tests ask of it."""

    def __init__(self) -> None:
        """Build it, in the version of `promtool/go.mod`, if that was not done yet.

        Raises:
            BinaryUnavailableError: Go, a module or the program could not be had.
        """
        self.program = build_program("promtool", _MODULE, package=_PACKAGE, flags=_FLAGS)

    def check_rules(self, rules: Path) -> str:
        """Return its report on a rule file, after the strictest checks that it knows.

        Raises:
            CommandFailedError: The file has a fault; the message has the report.
        """
        return self._run("check", "rules", "--lint=all", "--lint-fatal", str(rules))

    def test_rules(self, *tests: Path) -> str:
        """Run unit tests of rules, file by file, and return the report.

        Raises:
            CommandFailedError: A test failed; the message has the report.
        """
        return self._run("test", "rules", *map(str, tests))

    def check_expressions(self, expressions: Mapping[str, str]) -> None:
        """Let Prometheus' own parser read expressions, all in one run.

        Args:
            expressions: PromQL by where it stands, which the message of an error names.

        Raises:
            CommandFailedError: One cannot be parsed; the message says which, and where.
        """
        groups = [
            {"name": where, "rules": [{"record": "checked", "expr": expression}]}
            for where, expression in expressions.items()
        ]
        self._run("check", "rules", "--lint=none", given=json.dumps({"groups": groups}))

    def check_configuration(self, text: str) -> None:
        """Let Prometheus read a configuration of its own, without the files that it names.

        Raises:
            CommandFailedError: It has a fault; the message has the report.
        """
        self._run("check", "config", "--syntax-only", "/dev/stdin", given=text)

    def _run(self, *arguments: str, given: str = "") -> str:
        done = subprocess.run(
            (self.program, *arguments),
            input=given,
            capture_output=True,
            text=True,
            timeout=_SECONDS_MAX,
            check=False,
        )
        if done.returncode != 0:
            raise CommandFailedError(f"promtool {arguments[0]}: {done.stdout}{done.stderr}")
        return done.stdout.strip()
