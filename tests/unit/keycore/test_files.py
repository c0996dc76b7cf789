"""Files that survive a power cut."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from keycore.files import replace_durably


def test_content_and_name_reach_the_disk_in_this_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that was not written back can be the old file again after a power cut."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    seen: list[tuple[bool, bytes]] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        seen.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), path.read_bytes()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)

    replace_durably(path, b"new", mode=0o600)

    assert seen == [(False, b"old"), (True, b"new")]


def test_the_mode_holds_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o644)

    replace_durably(path, b"new", mode=0o600)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
