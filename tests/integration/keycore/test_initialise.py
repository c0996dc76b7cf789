"""``init`` takes over no directory that belongs to something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from keycore.errors import SettingsError
from keycore.initialise import initialise
from keycore.service.caller import Caller
from keycore.settings import Settings


def test_a_directory_with_something_else_in_it_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    tmp_path.chmod(0o755)

    with pytest.raises(SettingsError, match="holds something else: precious"):
        initialise(Settings(state_dir=tmp_path), Caller("cli", "tests"))

    assert [path.name for path in tmp_path.iterdir()] == ["precious"]
    assert tmp_path.stat().st_mode & 0o777 == 0o755
