"""Fixtures of the core's unit tests."""

from __future__ import annotations

import pytest
from hypothesis import settings

from keycore.domain.keys import Key
from keycore.service.kms import KmsProvider
from tests.fakes.installation import CALLER, FakeInstallation, fake_installation
from tests.unit.keycore.examples import root_key

# A busy machine is no failure: what a property costs is bounded by its examples.
settings.register_profile("unit", deadline=None)
settings.load_profile("unit")


@pytest.fixture
def here() -> FakeInstallation:
    """A fresh installation on fakes."""
    return fake_installation()


@pytest.fixture
def key(here: FakeInstallation) -> Key:
    """A key that the provider is bound to and that node-a has loaded."""
    key = root_key(here)
    here.core.providers.bind(CALLER, "keyplane", key.id)
    here.core.kms.refresh()
    return key


@pytest.fixture
def kms(here: FakeInstallation, key: Key) -> KmsProvider:
    """The bound provider on node-a."""
    return here.core.kms
