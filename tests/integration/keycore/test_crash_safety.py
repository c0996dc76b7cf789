"""A process killed at any step loses nothing that was acknowledged and leaves nothing half-done.

``crash_walk.py`` kills the use case at its first step, then at its second, and
so on, each time on a fresh copy of the same state, and checks the use case's
promises after a restart.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

WALK = Path(__file__).with_name("crash_walk.py")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("use_case", "steps_min"),
    [
        ("create", 15),
        ("create-repeatably", 15),
        ("import", 15),
        ("rotate", 20),
        ("rotate-bound", 60),
        ("adopt", 12),
        ("delete", 15),
        ("provider-set", 40),
        ("init", 60),
    ],
)
def test_a_process_killed_at_any_step_keeps_its_promises(
    use_case: str, steps_min: int, tmp_path: Path
) -> None:
    walked = subprocess.run(
        [sys.executable, WALK, use_case, tmp_path],
        capture_output=True,
        text=True,
        check=False,
        timeout=590,
    )

    assert walked.returncode == 0, walked.stderr
    result = json.loads(walked.stdout)
    assert result["broken"] == [], walked.stderr[-4000:]
    # Fewer steps than there can be would mean that the walk does not see them.
    assert result["steps"] >= steps_min
