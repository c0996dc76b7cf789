"""What the README promises first: the demo works, and beside another copy of itself."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from testbed.binaries import Binaries
from testbed.processes import ChildProcess

pytestmark = pytest.mark.e2e

DEMO_SECONDS_MAX = 300


@pytest.mark.timeout(DEMO_SECONDS_MAX + 60)
def test_two_demos_at_once_show_every_step_and_leave_nothing_behind(
    binaries: Binaries, tmp_path: Path
) -> None:
    demos = [
        ChildProcess(name, (sys.executable, "-m", "testbed.demo", "--check"), directory=tmp_path)
        for name in ("first", "second")
    ]
    for demo in demos:
        demo.start()

    for demo in demos:
        demo.wait_for_exit(within_seconds=DEMO_SECONDS_MAX)

    logs = "\n".join(demo.log_tail(40) for demo in demos)
    assert [demo.exit_code for demo in demos] == [0, 0], logs
    for demo in demos:
        assert "every step showed what it must" in demo.log.read_text()
