"""``keyplane node-files``: systemd and ``keyplane doctor`` take what it writes."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.keycli.site import Ended, Site

UNIT = "etc/systemd/system/keyplane-provider.service"
DIRECTORIES = "etc/tmpfiles.d/keyplane.conf"
ENCRYPTION = "etc/kubernetes/keyplane/encryption-config.yaml"

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None or shutil.which("systemd-tmpfiles") is None,
    reason="systemd is not installed here",
)


def systemd(*command: str | Path) -> str:
    """Run one of systemd's own tools, and return everything that it says."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return (done.stdout + done.stderr).strip()


@needs_systemd
def test_systemd_finds_nothing_wrong_with_the_unit(site: Site, tmp_path: Path) -> None:
    program = Path(sys.prefix) / "bin" / "keyplane"
    site.run("node-files", "--user", "28674", "--program", str(program), str(tmp_path))

    told = systemd("systemd-analyze", "verify", "--man=no", tmp_path / UNIT)

    assert "keyplane" not in told


@needs_systemd
@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives directories away")
def test_the_directories_are_made_with_owner_and_mode(empty: Site, tmp_path: Path) -> None:
    empty.run("node-files", "--user", "28674", str(tmp_path))

    systemd("systemd-tmpfiles", "--create", tmp_path / DIRECTORIES)
    status = empty.state.stat()

    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (28674, 28674, 0o700)


def outcome_of_configuration(ended: Ended) -> set[str]:
    """Return what ``doctor`` says about the EncryptionConfiguration."""
    return {
        finding["outcome"]
        for finding in ended.json["findings"]
        if "encryption" in finding["check"].lower()
    }


def test_doctor_accepts_the_encryption_configuration(site: Site, tmp_path: Path) -> None:
    site.run("node-files", str(tmp_path))

    ended = site.run("doctor", "--encryption-config", str(tmp_path / ENCRYPTION), "-o", "json")

    # The warning is about identity, which reads what was stored before.
    assert outcome_of_configuration(ended) == {"warning"}
