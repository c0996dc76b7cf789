"""The load of the API server's own client counts what an API server would see."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from keycore.service.creation import NewKey
from testbed.errors import ControlPlaneError
from testbed.kms_client import KmsLoad, kms_client_program
from testbed.waiting import wait_until
from tests.fakes.installation import CALLER, FakeInstallation, fake_installation
from tests.integration.keyplugin.serving import served

# Building the client takes two minutes where no Go module was ever compiled.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module", autouse=True)
def program() -> Path:
    """The client, built before the first test."""
    return kms_client_program()


@pytest.fixture
def here() -> FakeInstallation:
    installation = fake_installation()
    _bind_a_new_key(installation)
    return installation


@pytest.fixture
def socket(here: FakeInstallation, tmp_path: Path) -> Iterator[Path]:
    socket = tmp_path / "kms.sock"
    with served(here.core.kms, socket):
        yield socket


def _bind_a_new_key(installation: FakeInstallation) -> str:
    core = installation.core
    key = core.keys.create(CALLER, installation.instance.id, NewKey("etcd"))
    core.providers.bind(CALLER, core.settings.provider.name, key.id)
    core.kms.refresh()
    return core.kms.outlook().key_id


@pytest.mark.parametrize("mode", ["encrypt", "decrypt", "mixed", "status"])
def test_a_bounded_load_makes_exactly_so_many_calls(
    mode: str, socket: Path, tmp_path: Path
) -> None:
    load = KmsLoad(socket, directory=tmp_path, mode=mode, calls=40, seeds=3)  # type: ignore[arg-type]

    with load:
        result = load.result()

    assert (result.load.calls, result.failures, result.load.texts) == (40, 0, ())
    assert 0 < result.load.latency.p50 <= result.load.latency.p99 <= result.load.latency.max


def test_a_load_without_bounds_runs_until_it_is_stopped(socket: Path, tmp_path: Path) -> None:
    with KmsLoad(socket, directory=tmp_path, pause_seconds=0.005) as load:
        load.wait_for(50)

    assert load.result().load.calls >= 50
    assert load.result().failures == 0


def test_status_is_polled_beside_the_load(
    here: FakeInstallation, socket: Path, tmp_path: Path
) -> None:
    options = {"status_every_seconds": 0.005, "pause_seconds": 0.005}
    with KmsLoad(socket, directory=tmp_path, **options) as load:  # type: ignore[arg-type]
        load.wait_for(50)

    result = load.result()
    assert result.status is not None
    assert result.status.calls > 0
    assert result.health == ("ok",)
    assert result.key_ids == (here.core.kms.outlook().key_id,)


def test_a_change_of_the_key_shows_in_its_order(
    here: FakeInstallation, socket: Path, tmp_path: Path
) -> None:
    before = here.core.kms.outlook().key_id
    with KmsLoad(socket, directory=tmp_path, mode="status", pause_seconds=0.005) as load:
        after = _bind_a_new_key(here)
        load.wait_for(20)

    assert load.result().key_ids == (before, after)


def test_what_fails_is_counted_and_quoted(
    here: FakeInstallation, socket: Path, tmp_path: Path
) -> None:
    with KmsLoad(socket, directory=tmp_path, mode="encrypt", pause_seconds=0.005) as load:
        here.token.lost = True
        wait_until(lambda: load.failed() > 0, what="a call fails", within_seconds=20)

    result = load.result()
    assert result.failures > 0
    assert "Unavailable" in result.load.texts[0]


def test_a_load_that_can_prepare_nothing_tells_why(tmp_path: Path) -> None:
    load = KmsLoad(
        tmp_path / "nobody.sock", directory=tmp_path, mode="decrypt", timeout_seconds=0.2
    )

    with pytest.raises(ControlPlaneError, match="no ciphertext to decrypt"):
        load.start()
