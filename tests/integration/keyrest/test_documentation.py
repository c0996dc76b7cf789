"""docs/rest.md is right: its lines run as they stand, and its table of errors is complete."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyrest.errors import FAULTS, fault_of
from keyrest.rejections import REJECTIONS
from testbed.rest import RestService

DOCUMENT = Path(__file__).parents[3] / "docs" / "rest.md"

BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)

ROW = re.compile(r"^\| (\d{3}) \| `(\w+)` \|", re.MULTILINE)

SECONDS_MAX = 60


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestService]:
    """The REST face as a process, as a reader of the document has it."""
    with RestService(tmp_path_factory.mktemp("rest")) as service:
        yield service


@pytest.fixture(scope="module")
def transcript(
    service: RestService, tmp_path_factory: pytest.TempPathFactory
) -> subprocess.CompletedProcess[str]:
    """All lines of the document, run by one shell in their order."""
    directory = tmp_path_factory.mktemp("reader")
    # An answer of 400 or above ends the script, as its reader would stop there.
    (directory / ".curlrc").write_text("fail-with-body\n")
    script = "set -euo pipefail\n" + "\n".join(BLOCK.findall(DOCUMENT.read_text()))
    return subprocess.run(
        ["bash", "-c", script],
        cwd=directory,
        env={
            "PATH": os.environ["PATH"],
            "CURL_HOME": str(directory),
            "CURL_CA_BUNDLE": str(service.ca_file),
            "KMS": f"{service.base_url}/api/v2",
            "INSTANCE": service.instance_id,
            "CREDENTIAL": service.credential(),
        },
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )


def test_every_line_runs_as_it_stands(transcript: subprocess.CompletedProcess[str]) -> None:
    assert transcript.returncode == 0, transcript.stdout + transcript.stderr


def test_the_lines_perform_every_operation(
    service: RestService, transcript: subprocess.CompletedProcess[str]
) -> None:
    performed = {line["operation"] for line in service.audit_lines() if line["outcome"] == "ok"}

    assert performed >= {
        *("key.create", "key.import", "key.list", "key.count", "key.get", "key.delete_preview"),
        *("key.delete", "key.wrap", "key.unwrap", "key.rewrap", "key.rotate", "key.suspend"),
        *("key.resume", "key.add_alias", "key.remove_alias"),
    }


def test_the_shown_preview_is_what_a_fresh_key_answers(
    transcript: subprocess.CompletedProcess[str],
) -> None:
    shown = re.search(r'^\{"dryRun".*$', DOCUMENT.read_text(), re.MULTILINE)

    assert shown is not None
    assert re.sub(r"\s", "", shown[0]) in re.sub(r"\s", "", transcript.stdout)


def test_the_credential_is_in_no_output(transcript: subprocess.CompletedProcess[str]) -> None:
    assert "eyJ" not in transcript.stdout + transcript.stderr


def test_the_table_has_every_code_with_its_status_and_no_other() -> None:
    faults = {(fault.status, fault.code) for fault in (*FAULTS.values(), fault_of(Exception()))}
    rejections = {(rejection.status, rejection.code) for rejection in REJECTIONS}

    documented = {(int(status), code) for status, code in ROW.findall(DOCUMENT.read_text())}

    assert documented == faults | rejections
