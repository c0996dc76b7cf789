"""``keyplane doctor`` where there is little to look at: answer, exit code, progress."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from keycore.diagnosis.plan import plan
from keyplugin import prober
from keyplugin.socket_checks import SOCKET_CHECKS
from tests.unit.keycli.conftest import Run

GOOD_FILE = """
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - kms: {apiVersion: v2, name: keyplane, endpoint: unix:///run/kp/kms.sock}
  - identity: {}
"""


def by_check(answer: dict[str, list[dict[str, str]]]) -> dict[str, str]:
    return {each["check"]: each["outcome"] for each in answer["findings"]}


def test_without_an_installation_the_fix_is_init_and_everything_else_is_still_looked_at(
    run: Run,
) -> None:
    ended = run("doctor", "-o", "json")

    found = by_check(ended.json)
    assert (ended.code, ended.json["outcome"], ended.err) == (2, "fault", "")
    assert found["configuration"] == "ok"
    assert found["state directory"] == "fault"
    assert found["login"] == found["records"] == found["keyring"] == "skipped"
    assert "clock" in found
    assert "socket directory" in found
    (fault,) = [each for each in ended.json["findings"] if each["check"] == "state directory"]
    assert fault["fix"] == "run: keyplane init"


def test_each_finding_has_the_same_keys(run: Run) -> None:
    answer = run("doctor", "-o", "json").json

    assert set(answer) == {"outcome", "findings"}
    assert {frozenset(each) for each in answer["findings"]} == {
        frozenset({"check", "outcome", "what", "fix"})
    }


def test_people_see_a_row_for_each_check_and_then_every_fix(run: Run) -> None:
    ended = run("doctor")

    assert ended.out.startswith("CHECK")
    assert "state directory   fault    there is no installation in" in ended.out
    assert "fault: state directory: there is no installation in" in ended.out
    assert "\n  fix: run: keyplane init\n" in ended.out
    assert ended.out.splitlines()[-1].startswith("1 fault, ")


def test_all_faults_of_the_configuration_are_told_and_nothing_else_is_looked_at(
    run: Run, config: Path
) -> None:
    config.write_text('[log]\nlevel = "loud"\n[operator]\nresnyc = 5\n')

    ended = run("doctor", "-o", "json")

    first, *others = ended.json["findings"]
    assert (ended.code, first["outcome"]) == (2, "fault")
    assert "log.level" in first["what"]
    assert "operator.resnyc" in first["what"]
    assert {each["outcome"] for each in others} == {"skipped"}


def test_a_configuration_that_everybody_may_change_is_a_fault(run: Run, config: Path) -> None:
    config.chmod(0o666)

    first = run("doctor", "-o", "json").json["findings"][0]

    assert (first["outcome"], first["fix"]) == ("fault", f"chmod o-w {config}")


def test_the_encryption_configuration_is_looked_at_only_when_named(
    run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "encryption.yaml"
    file.write_text(GOOD_FILE)
    file.chmod(0o600)

    without = by_check(run("doctor", "-o", "json").json)
    named = by_check(run("doctor", "--encryption-config", str(file), "-o", "json").json)

    assert "encryption config" not in without
    assert named["encryption config"] == "warning"


def test_progress_is_shown_on_a_terminal_only_and_is_wiped_out(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)

    run("doctor")

    assert "\r\x1b[Kstate directory …" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")


# --- documentation -----------------------------------------------------------------


DOCTOR = (Path(__file__).parents[3] / "docs" / "doctor.md").read_text(encoding="utf-8")


def rows(section: str) -> list[str]:
    """Return the first cells of the table of checks in a section of the documentation."""
    return re.findall(r"^\| ([A-Za-z_ ]+?) \|", section, re.MULTILINE)[1:]


def test_every_check_of_the_doctor_is_documented_in_order() -> None:
    section = DOCTOR.split("## Checks")[1].split("\n### ")[0]

    assert rows(section) == [check.name for check in plan(SOCKET_CHECKS, encryption_config=True)]


def test_every_check_of_the_probe_is_documented() -> None:
    names = [found.check for found in prober.probe(Path("@none"), count=2)]

    assert sorted(rows(DOCTOR.split("## Probe")[1])) == sorted(names)
