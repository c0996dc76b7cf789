"""The provider as a real process on SoftHSM2: what the API server and the administrator see.

The test process is the administrator: it changes the same installation through
a core of its own, as ``keyplane`` commands do.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from grpc import StatusCode
from tenacity import retry, retry_if_result, stop_after_delay, wait_fixed

from keycore.adapters.pkcs11_token import Pkcs11Token
from keycore.adapters.sql_store import SqlStore
from keycore.adapters.system_clock import SystemClock
from keycore.bootstrap import Core, wire
from keycore.domain.keys import Key
from keycore.service.creation import NewKey
from keycore.settings import ProviderSettings, Settings
from testbed.audit import audit_lines
from tests.fakes.installation import CALLER
from tests.fakes.memory_audit import MemoryAuditLog
from tests.integration.keyplugin.client import SEED, KmsClient
from tests.integration.keyplugin.provider_process import ProviderProcess

PROVIDER = "keyplane"

CHANGE_SECONDS_MAX = 1.0
"""Changes by other processes are seen within one second (``design``, processes)."""

within_deadline = retry(
    retry=retry_if_result(lambda reached: not reached),
    stop=stop_after_delay(20),
    wait=wait_fixed(0.02),
)


@dataclass(frozen=True)
class Installation:
    """An installation of its own with the administrator's view of it."""

    settings: Settings
    core: Core

    def key(self) -> Key:
        """Make a key in the default instance."""
        instance = self.core.instances.all()[0]
        return self.core.keys.create(CALLER, instance.id, NewKey("etcd"))

    def bind(self, key: Key) -> None:
        """Bind the provider to a key."""
        self.core.providers.bind(CALLER, PROVIDER, key.id)

    def audit(self, operation: str) -> list[dict[str, str]]:
        """Return the provider's audit lines of one operation."""
        lines = audit_lines(self.settings.state_dir, "provider")
        return [line for line in lines if line["operation"] == operation]


@dataclass(frozen=True)
class Shared:
    """A provider process that many tests use, with everything around it."""

    installation: Installation
    process: ProviderProcess
    client: KmsClient

    def rotate(self) -> None:
        """Rotate the key that the provider is bound to."""
        core = self.installation.core
        core.keys.rotate(CALLER, core.providers.overview(PROVIDER).provider.key_id)


def copied(softhsm: Settings, state_dir: Path, token: Pkcs11Token) -> Iterator[Installation]:
    """Copy the installation of the test process; the copy's store is its own."""
    shutil.copytree(softhsm.state_dir, state_dir)
    provider = ProviderSettings(socket=state_dir / "kms.sock", node="node-a")
    settings = Settings(state_dir=state_dir, provider=provider)
    store = SqlStore.open(settings.database)
    yield Installation(settings, wire(settings, store, token, MemoryAuditLog(), SystemClock()))
    store.close()


@pytest.fixture
def installation(
    softhsm_settings: Settings, softhsm_token: Pkcs11Token, tmp_path: Path
) -> Iterator[Installation]:
    """An installation of one test."""
    yield from copied(softhsm_settings, tmp_path / "state", softhsm_token)


@pytest.fixture
def provider(installation: Installation) -> Iterator[ProviderProcess]:
    """A process of one test, which may end it; its provider is bound to a key."""
    installation.bind(installation.key())
    with ProviderProcess(installation.settings) as process:
        yield process


@pytest.fixture
def client(provider: ProviderProcess) -> Iterator[KmsClient]:
    with KmsClient(provider.socket) as client:
        yield client


@pytest.fixture
def socket(installation: Installation) -> Path:
    return installation.settings.provider.socket


@pytest.fixture(scope="module")
def shared(
    softhsm_settings: Settings,
    softhsm_token: Pkcs11Token,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Shared]:
    """A running provider for tests that leave it running, whatever its key is then."""
    state_dir = tmp_path_factory.mktemp("shared") / "state"
    for installation in copied(softhsm_settings, state_dir, softhsm_token):
        installation.bind(installation.key())
        with (
            ProviderProcess(installation.settings) as process,
            KmsClient(process.socket) as client,
        ):
            yield Shared(installation, process, client)


def await_key_id_other_than(client: KmsClient, known: str) -> str:
    @within_deadline
    def poll() -> str | None:
        key_id = client.status().key_id
        return key_id if key_id not in ("", known) else None

    return str(poll())


# --- serving ------------------------------------------------------------------


def test_a_seed_makes_the_round_trip_through_the_token(shared: Shared) -> None:
    client = shared.client
    status = client.status()
    closed = client.encrypt()

    assert (status.version, status.healthz) == ("v2", "ok")
    assert closed.key_id == status.key_id
    assert len(closed.ciphertext) == len(SEED) + 46
    assert dict(closed.annotations) == {}
    assert client.decrypt(closed) == SEED


def test_what_the_api_server_may_not_do_is_refused(shared: Shared) -> None:
    client = shared.client
    closed = client.encrypt()
    closed.key_id = "another"

    with pytest.raises(grpc.RpcError) as other_key_id:
        client.decrypt(closed)
    with pytest.raises(grpc.RpcError) as too_long:
        client.encrypt(bytes(979))

    assert other_key_id.value.code() is StatusCode.INVALID_ARGUMENT
    assert too_long.value.code() is StatusCode.INVALID_ARGUMENT


def test_an_unbound_provider_names_the_fix_and_reports_no_key_id(
    installation: Installation,
) -> None:
    with (
        ProviderProcess(installation.settings) as provider,
        KmsClient(provider.socket) as client,
    ):
        status = client.status()
        with pytest.raises(grpc.RpcError) as refused:
            client.encrypt()

    assert status.key_id == ""
    assert "run: keyplane provider set keyplane --key <key id>" in status.healthz
    assert refused.value.code() is StatusCode.FAILED_PRECONDITION


def test_a_provider_that_is_bound_while_it_runs_becomes_healthy(
    installation: Installation,
) -> None:
    """The order of bootstrapping a node does not matter."""
    with (
        ProviderProcess(installation.settings) as provider,
        KmsClient(provider.socket) as client,
    ):
        installation.bind(installation.key())

        assert await_key_id_other_than(client, "")
        assert client.status().healthz == "ok"
        assert client.decrypt(client.encrypt()) == SEED


def test_the_socket_belongs_to_the_process_and_to_nobody_else(shared: Shared) -> None:
    status = shared.process.socket.stat()

    assert stat.S_ISSOCK(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert status.st_uid == os.geteuid()


def test_the_log_tells_what_is_served_and_hides_what_must_be_hidden(
    provider: ProviderProcess, client: KmsClient, socket: Path
) -> None:
    key_id = client.status().key_id
    client.decrypt(client.encrypt(b"a seed that nobody may read 1234"))
    provider.end()

    serving = provider.logged("serving KMS v2")
    expected = "sha256:" + hashlib.sha256(key_id.encode()).hexdigest()
    assert [(line["key_id_hash"], line["socket"], line["provider"]) for line in serving] == [
        (expected, str(socket), PROVIDER)
    ]
    # The store is read before the first caller can come.
    assert [line["healthz"] for line in serving] == ["ok"]
    assert key_id not in provider.output()
    assert "a seed that nobody" not in provider.output()


def test_every_call_leaves_an_audit_line_with_the_api_servers_uid(shared: Shared) -> None:
    shared.client.decrypt(shared.client.encrypt(uid="e-1"), uid="d-1")

    assert shared.installation.audit("kms.encrypt")[-1]["correlation_id"] == "e-1"
    assert shared.installation.audit("kms.decrypt")[-1]["correlation_id"] == "d-1"


# --- starting and stopping ----------------------------------------------------


def test_a_second_process_is_refused_and_the_first_still_serves(shared: Shared) -> None:
    client, socket = shared.client, shared.process.socket
    second = ProviderProcess(shared.installation.settings, "second")

    assert second.wait() == 2
    assert f"another keyplane process serves {socket}" in second.output()
    with KmsClient(socket) as another:
        assert another.status().healthz == "ok"
    assert client.decrypt(client.encrypt()) == SEED


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_and_removes_the_socket(
    provider: ProviderProcess, socket: Path, number: signal.Signals
) -> None:
    assert provider.end(number) == 0
    assert not socket.exists()
    assert len(provider.logged("stopped")) == 1


def test_sigterm_loses_no_answer_to_a_call_that_was_made_before(
    installation: Installation, provider: ProviderProcess, client: KmsClient
) -> None:
    closed = client.encrypt()
    calls = [client.start_decrypt(closed) for _ in range(500)]
    calls[0].result()

    code = provider.end(signal.SIGTERM)

    assert code == 0
    assert {call.result().plaintext for call in calls} == {SEED}
    assert len(installation.audit("kms.decrypt")) == 500


def test_a_killed_process_leaves_a_socket_that_the_next_one_replaces(
    installation: Installation, provider: ProviderProcess, client: KmsClient, socket: Path
) -> None:
    key_id, closed = client.status().key_id, client.encrypt()

    assert provider.end(signal.SIGKILL) == -signal.SIGKILL
    assert stat.S_ISSOCK(socket.lstat().st_mode)
    with ProviderProcess(installation.settings, "second"), KmsClient(socket) as fresh:
        assert fresh.status().key_id == key_id
        assert fresh.decrypt(closed) == SEED


def test_a_client_finds_the_next_process_on_its_old_channel(
    installation: Installation, provider: ProviderProcess, client: KmsClient
) -> None:
    closed = client.encrypt()

    provider.end()
    with ProviderProcess(installation.settings, "second"):
        assert client.status(wait=True).healthz == "ok"
        assert client.decrypt(closed) == SEED


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_socket_is_never_removed(
    installation: Installation, tmp_path: Path, socket: Path, kind: str
) -> None:
    target = tmp_path / "precious"
    target.write_text("precious")
    if kind == "file":
        socket.write_text("precious")
    else:
        socket.symlink_to(target)

    process = ProviderProcess(installation.settings)

    assert process.wait() == 2
    assert "is not a socket" in process.output()
    assert socket.read_text() == "precious"
    assert socket.is_symlink() is (kind == "link")


def test_a_node_name_that_kubernetes_cannot_have_is_refused_at_the_start(
    installation: Installation,
) -> None:
    # A copy is not validated, so the wrong name reaches the process's own configuration.
    named = installation.settings.provider.model_copy(update={"node": "node_1"})
    settings = installation.settings.model_copy(update={"provider": named})

    process = ProviderProcess(settings)

    assert process.wait() == 2
    assert "provider.node: a node name has" in process.output()


def test_a_directory_without_installation_is_refused_and_left_empty(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    state_dir.mkdir()
    provider = ProviderSettings(socket=tmp_path / "run" / "kms.sock", node="node-a")

    process = ProviderProcess(Settings(state_dir=state_dir, provider=provider))

    assert process.wait() == 2
    assert not (tmp_path / "run").exists()


# --- rotation and outages -----------------------------------------------------


def test_a_rotation_by_another_process_is_in_status_within_a_second(shared: Shared) -> None:
    client = shared.client
    key_id, closed = client.status().key_id, client.encrypt()

    shared.rotate()
    rotated_at = time.monotonic()
    rotated = await_key_id_other_than(client, key_id)
    seconds = time.monotonic() - rotated_at

    assert seconds < CHANGE_SECONDS_MAX
    assert client.decrypt(closed) == SEED
    fresh = client.encrypt()
    assert fresh.key_id == rotated
    assert client.decrypt(fresh) == SEED


def test_encrypt_keeps_the_activation_that_status_last_reported(shared: Shared) -> None:
    """The API server would throw the ciphertext away, and call the plugin unhealthy."""
    client = shared.client
    key_id = client.status().key_id
    told = len(shared.process.logged("key_id changed"))

    shared.rotate()
    within_deadline(lambda: len(shared.process.logged("key_id changed")) > told)()

    assert client.encrypt().key_id == key_id
    rotated = client.status().key_id
    assert rotated != key_id
    assert client.encrypt().key_id == rotated


def test_binding_a_then_b_then_a_gives_three_key_ids(shared: Shared) -> None:
    installation, client = shared.installation, shared.client
    first = installation.core.providers.overview(PROVIDER).provider.key_id
    closed = [client.encrypt()]
    key_ids = [client.status().key_id]

    for key in (installation.key(), installation.core.keys.get(CALLER, first)):
        installation.bind(key)
        key_ids.append(await_key_id_other_than(client, key_ids[-1]))
        closed.append(client.encrypt())

    assert len(set(key_ids)) == 3
    assert [one.key_id for one in closed] == key_ids
    assert [client.decrypt(one) for one in closed] == [SEED] * 3


def test_a_locked_store_stops_a_rotation_and_nothing_else(shared: Shared) -> None:
    """Nor does it turn healthz red: the API server needs nothing that the store has."""
    client, database = shared.client, shared.installation.settings.database
    key_id, closed = client.status().key_id, client.encrypt()

    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        shared.rotate()
        other.execute("BEGIN IMMEDIATE")

        assert (client.status().healthz, client.status().key_id) == ("ok", key_id)
        assert client.decrypt(closed) == SEED
        assert client.decrypt(client.encrypt()) == SEED
        other.execute("ROLLBACK")

    assert await_key_id_other_than(client, key_id)
    within_deadline(lambda: client.status().healthz == "ok")()
