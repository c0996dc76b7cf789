"""A KMS v2 server of this process on fakes, with a real gRPC channel on a real socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from keycore.service.creation import NewKey
from tests.fakes.installation import CALLER, FakeInstallation, fake_installation
from tests.integration.keyplugin.client import KmsClient
from tests.integration.keyplugin.serving import served


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    """Where the tests' provider is served; the directory is there."""
    return tmp_path / "kms.sock"


@pytest.fixture
def here() -> FakeInstallation:
    """An installation on fakes whose provider has a key."""
    installation = fake_installation()
    core = installation.core
    key = core.keys.create(CALLER, installation.instance.id, NewKey("etcd"))
    core.providers.bind(CALLER, core.settings.provider.name, key.id)
    core.kms.refresh()
    return installation


@pytest.fixture
def client(here: FakeInstallation, socket: Path) -> Iterator[KmsClient]:
    """A client of that provider, served in this process."""
    with served(here.core.kms, socket), KmsClient(socket) as client:
        yield client
