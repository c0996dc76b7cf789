"""A KMS v2 server of this process on fakes, with a real gRPC channel on a real socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from keycore.adapters.pkcs11_token import Pkcs11Token
from keycore.service.creation import NewKey
from keycore.settings import Settings
from tests.fakes.installation import CALLER, FakeInstallation, fake_installation
from tests.integration.keyplugin.client import KmsClient
from tests.integration.keyplugin.faulty_site import FaultySite, bind_a_key
from tests.integration.keyplugin.serving import served


@pytest.fixture(scope="module")
def bound(
    softhsm_settings: Settings,
    softhsm_token: Pkcs11Token,
    tmp_path_factory: pytest.TempPathFactory,
) -> Settings:
    """An installation whose provider has a key, for copies of it."""
    template = FaultySite(softhsm_settings, tmp_path_factory.mktemp("bound") / "state")
    bind_a_key(template.settings, softhsm_token)
    return template.settings.model_copy(update={"token": softhsm_settings.token})


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
