"""SoftHSM2 under threads: with the guard nothing happens, without it the process dies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from keycore.settings import Settings

HAMMER = Path(__file__).with_name("thread_hammer.py")


def hammer(settings: Settings, mode: str, seconds: float) -> int:
    """Return the exit code of the hammer; negative for death by a signal."""
    return subprocess.run(
        [sys.executable, HAMMER, settings.state_dir, mode, str(seconds)],
        capture_output=True,
        check=False,
        timeout=120,
    ).returncode


def test_eight_threads_on_one_token_work_under_the_guard(softhsm_settings: Settings) -> None:
    assert hammer(softhsm_settings, "guarded", 4) == 0


def test_eight_sessions_at_once_work_in_a_module_that_locks_by_itself(
    softhsm_settings: Settings,
) -> None:
    """SoftHSM2 answers one in some 130,000 of these calls with a fault, which is healed."""
    assert hammer(softhsm_settings, "parallel", 4) == 0


def test_without_the_guard_the_process_dies(softhsm_settings: Settings) -> None:
    """The guard is not decoration: python-pkcs11 and SoftHSM2 do not survive without it."""
    codes = (hammer(softhsm_settings, "unguarded", 20) for _ in range(5))

    assert any(code < 0 for code in codes)
