"""The real promtool for the tests of rules, dashboard and documentation."""

from __future__ import annotations

import pytest

from testbed.promtool import Promtool


@pytest.fixture(scope="session")
def promtool() -> Promtool:
    """The program, built before the first test that needs it."""
    return Promtool()
