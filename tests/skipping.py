"""Tests that need something of the machine that not every machine has."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def cannot_run(reason: str) -> NoReturn:
    """Skip the test that asks, but fail it where everything must be there: with ``CI=true``.

    Args:
        reason: what is missing and how to get it.
    """
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(f"{reason}; with CI=true nothing is skipped")
    pytest.skip(reason)
