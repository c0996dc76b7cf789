"""Fixtures of the core's unit tests."""

from __future__ import annotations

import pytest
from hypothesis import settings

from tests.fakes.installation import FakeInstallation, fake_installation

# A busy machine is no failure: what a property costs is bounded by its examples.
settings.register_profile("unit", deadline=None)
settings.load_profile("unit")


@pytest.fixture
def here() -> FakeInstallation:
    """A fresh installation on fakes."""
    return fake_installation()
