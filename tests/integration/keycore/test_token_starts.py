"""Processes that start at the same time all find the token."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from keycore.settings import Settings

HAMMER = Path(__file__).with_name("login_hammer.py")
PROCESSES = 3
TIMES = 100


def test_a_token_is_found_while_other_processes_log_in(softhsm_settings: Settings) -> None:
    """SoftHSM2 writes the token's file at each login, and others read half of it."""
    command = [sys.executable, str(HAMMER), str(softhsm_settings.state_dir), str(TIMES)]
    started = [
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(PROCESSES)
    ]
    ended = [process.communicate(timeout=60)[1] for process in started]

    assert ended == [""] * PROCESSES
