"""Threads that run beside a process's work for as long as it lives."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable


def start_daemon(target: Callable[[], None], name: str) -> threading.Thread:
    """Start a thread that never keeps the process alive and never gets a signal.

    Args:
        target: what it runs.
        name: shown by debuggers.
    """
    thread = threading.Thread(target=target, name=name, daemon=True)
    # A signal belongs to the main thread, which may not have blocked it yet.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        thread.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return thread
