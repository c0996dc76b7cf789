"""Fixtures of the KMS v2 face's unit tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from keycore.domain.keys import Key
from keycore.service.creation import NewKey
from tests.fakes.installation import CALLER, FakeInstallation, fake_installation

BindKey = Callable[[], Key]


@pytest.fixture
def here() -> FakeInstallation:
    """A fresh installation on fakes, its provider unbound."""
    return fake_installation()


@pytest.fixture
def bind_key(here: FakeInstallation) -> BindKey:
    """A function that makes a key, binds the provider to it, and returns it."""

    def bind() -> Key:
        key = here.core.keys.create(CALLER, here.instance.id, NewKey("etcd"))
        here.core.providers.bind(CALLER, here.core.settings.provider.name, key.id)
        return key

    return bind
