"""The provider as Prometheus and kubelet see it: on a real server, and as a real process."""

from __future__ import annotations

import hashlib
import json
import socket as sockets
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from keycore.adapters.pkcs11_token import Pkcs11Token
from keycore.settings import Settings
from keyplugin.metrics import ProviderMetrics
from keyplugin.outside import seen_from_outside
from testbed.loopback import HOST, free_port, request
from testbed.waiting import wait_until
from tests.fakes.installation import FakeInstallation
from tests.integration.keyplugin.client import SEED, KmsClient
from tests.integration.keyplugin.faulty_site import FaultySite, bind_a_key
from tests.integration.keyplugin.provider_process import ProviderProcess
from tests.integration.keyplugin.serving import served
from tests.scraping import Scraped

CALLS = "keyplane_kms_calls_total"

ANSWER_SECONDS_MAX = 1.0
"""What kubelet gives a probe by default."""


def value_of(text: str, name: str, **labels: str) -> float:
    """Return the sum of the samples of this name that have these labels."""
    return Scraped(text).sum(name, **labels)


# --- calls are counted --------------------------------------------------------


@dataclass(frozen=True)
class Counted:
    """A server whose calls are counted, and its client."""

    metrics: ProviderMetrics
    client: KmsClient

    def calls(self, method: str, code: str) -> float:
        return value_of(self.metrics.render().decode(), CALLS, method=method, code=code)

    def await_calls(self, count: int, method: str, code: str) -> None:
        # The client may have its answer before the server's thread has counted the call.
        wait_until(
            lambda: self.calls(method, code) == count,
            what=f"{count} {method} with {code}",
            within_seconds=10,
        )


@pytest.fixture
def counted(here: FakeInstallation, socket: Path) -> Iterator[Counted]:
    """A server with room for three calls that need the token."""
    metrics = ProviderMetrics()
    with (
        served(here.core.kms, socket, token_calls_max=3, metrics=metrics),
        KmsClient(socket) as client,
    ):
        yield Counted(metrics, client)


@contextmanager
def hanging_token(here: FakeInstallation, patch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Make every decryption in the token wait until the block ends; yield its first sign."""
    release, entered = threading.Event(), threading.Event()
    decrypt = here.token.decrypt

    def wait(*arguments: Any) -> bytes:
        entered.set()
        release.wait()
        return decrypt(*arguments)

    with patch.context() as patched:
        patched.setattr(here.token, "decrypt", wait)
        try:
            yield entered
        finally:
            release.set()


def test_every_answered_call_is_counted_by_its_method(counted: Counted) -> None:
    closed = counted.client.encrypt()
    counted.client.decrypt(closed)
    counted.client.decrypt(closed)
    counted.client.status()

    counted.await_calls(1, "Encrypt", "OK")
    counted.await_calls(2, "Decrypt", "OK")
    counted.await_calls(1, "Status", "OK")


def test_a_failed_call_is_counted_by_the_code_that_its_caller_got(counted: Counted) -> None:
    with pytest.raises(grpc.RpcError, match="plaintext must have"):
        counted.client.encrypt(b"")

    counted.await_calls(1, "Encrypt", "INVALID_ARGUMENT")
    assert counted.calls("Encrypt", "OK") == 0


def test_calls_of_methods_that_do_not_exist_share_one_label(counted: Counted) -> None:
    """Otherwise whoever can open the socket could fill the process's memory."""
    for name in ("Encode", "Rotate"):
        with pytest.raises(grpc.RpcError):
            counted.client.call_raw(f"/v2.KeyManagementService/{name}", b"")

    assert counted.calls("unknown", "UNIMPLEMENTED") == 2
    assert "Encode" not in counted.metrics.render().decode()


def test_what_a_full_queue_refuses_is_counted_and_the_queue_can_be_seen(
    here: FakeInstallation, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = counted.client.encrypt()
    with hanging_token(here, monkeypatch) as entered:
        hanging = [counted.client.start_decrypt(closed) for _ in range(3)]
        assert entered.wait(10)
        with pytest.raises(grpc.RpcError):
            counted.client.decrypt(closed)
        text = counted.metrics.render().decode()

    counted.await_calls(1, "Decrypt", "RESOURCE_EXHAUSTED")
    assert value_of(text, "keyplane_kms_token_calls_unfinished") == 3
    assert {call.result().plaintext for call in hanging} == {SEED}


def test_an_answer_that_came_too_late_counts_as_cancelled(
    here: FakeInstallation, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = counted.client.encrypt()
    with hanging_token(here, monkeypatch) as entered:
        call = counted.client.start_decrypt(closed)
        assert entered.wait(10)
        call.cancel()
        # The server knows of it when it answers a call that came afterwards.
        counted.client.status()

    counted.await_calls(1, "Decrypt", "CANCELLED")
    assert counted.calls("Decrypt", "OK") == 0


def test_the_time_in_the_queue_is_part_of_a_call(
    here: FakeInstallation, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = counted.client.encrypt()
    with hanging_token(here, monkeypatch) as entered:
        started = time.monotonic()
        call = counted.client.start_decrypt(closed)
        assert entered.wait(10)
        wait_until(lambda: time.monotonic() - started > 0.3, what="some time", within_seconds=10)
    call.result()

    counted.await_calls(1, "Decrypt", "OK")
    text = counted.metrics.render().decode()
    assert value_of(text, "keyplane_kms_call_seconds_sum", method="Decrypt") >= 0.3


def test_counted_calls_still_wait_in_a_lane_of_their_own(
    here: FakeInstallation, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = counted.client.encrypt()
    names = []
    decrypt = here.token.decrypt

    def named(*arguments: Any) -> bytes:
        names.append(threading.current_thread().name)
        return decrypt(*arguments)

    monkeypatch.setattr(here.token, "decrypt", named)
    counted.client.decrypt(closed)

    assert names
    assert all(name.startswith("token") for name in names)


# --- a provider process -------------------------------------------------------


class Outside:
    """One provider process, looked at through its health address."""

    def __init__(self, site: FaultySite, process: ProviderProcess, address: str) -> None:
        self.site = site
        self.process = process
        self.address = address

    def metrics(self) -> str:
        status, body = request(f"http://{self.address}/metrics")
        assert status == 200
        return body.decode()

    def probe(self, path: str) -> tuple[int, dict[str, Any]]:
        """Probe as kubelet does, which does not wait long."""
        url = f"http://{self.address}{path}"
        status, body = request(url, timeout_seconds=ANSWER_SECONDS_MAX)
        return status, json.loads(body)

    def await_ready(self, status: int) -> dict[str, Any]:
        wait_until(
            lambda: self.probe("/readyz")[0] == status,
            what=f"/readyz answers {status}",
            within_seconds=30,
        )
        return self.probe("/readyz?verbose")[1]

    def await_store(self, outcome: str) -> None:
        wait_until(
            lambda: self.probe("/readyz")[1]["checks"]["store"] == outcome,
            what=f"the store is {outcome}",
            within_seconds=30,
        )


@pytest.fixture(scope="module")
def outside(
    softhsm_settings: Settings,
    softhsm_token: Pkcs11Token,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Outside]:
    """A provider process on a token that misbehaves on demand; tests leave it well."""
    site = FaultySite(softhsm_settings, tmp_path_factory.mktemp("outside") / "state")
    address = f"{HOST}:{free_port()}"
    with_health(site, address)
    bind_a_key(site.settings, softhsm_token)
    with site.process() as process:
        yield Outside(site, process, address)
        site.module.reset()


def with_health(site: FaultySite, address: str) -> None:
    provider = site.settings.provider.model_copy(update={"health_address": address})
    site.settings = site.settings.model_copy(update={"provider": provider})


def test_a_well_process_is_alive_and_ready_and_shows_the_hash_of_its_key_id(
    outside: Outside,
) -> None:
    with KmsClient(outside.process.socket) as client:
        key_id = client.encrypt().key_id
        expected = "sha256:" + hashlib.sha256(key_id.encode()).hexdigest()
        text = outside.metrics()

    assert outside.probe("/livez") == (200, {"status": "ok"})
    assert outside.probe("/readyz")[0] == 200
    assert value_of(text, "keyplane_kms_key_id_info", key_id_hash=expected) == 1
    assert value_of(text, "keyplane_kms_generations", state="active") == 1
    assert key_id not in text


def test_the_uses_of_the_token_are_seen_from_the_first_one_on(outside: Outside) -> None:
    with KmsClient(outside.process.socket) as client:
        before = value_of(outside.metrics(), "keyplane_token_calls_total", operation="encrypt")
        client.encrypt()
        after = value_of(outside.metrics(), "keyplane_token_calls_total", operation="encrypt")

    # The start verified records, and proved the key.
    assert value_of(outside.metrics(), "keyplane_token_calls_total", operation="verify") > 0
    assert after > before > 0


def test_scrapes_and_probes_make_no_call_of_the_module(outside: Outside) -> None:
    # Between two of the background's own calls, of which there are none for some seconds.
    def quiet() -> bool:
        before = outside.site.module.total_calls()
        for _ in range(20):
            outside.metrics()
            outside.probe("/readyz?verbose")
            outside.probe("/livez")
        return outside.site.module.total_calls() == before

    wait_until(quiet, what="60 requests without a call", within_seconds=20)


def test_everything_answers_at_once_while_the_module_hangs(outside: Outside) -> None:
    outside.site.module.hang("C_EncryptInit")
    try:
        document = outside.await_ready(503)
        alive = outside.probe("/livez")
        text = outside.metrics()
    finally:
        outside.site.module.release("C_EncryptInit")

    assert document["checks"]["token"] == "failed"
    assert document["reasons"]["token"]
    # A minute of it is what makes a restart worth while.
    assert alive[0] == 200
    assert value_of(text, "keyplane_token_stalled_seconds") > 1
    assert value_of(text, "keyplane_kms_healthy") == 0
    outside.await_ready(200)


def test_a_store_that_is_away_is_told_and_changes_nothing_else(outside: Outside) -> None:
    database = outside.site.settings.database
    away = database.with_suffix(".away")
    database.rename(away)
    try:
        outside.await_store("degraded")
        status, document = outside.probe("/readyz?verbose")
        text = outside.metrics()
    finally:
        away.rename(database)

    assert (status, document["status"]) == (200, "ok")
    assert document["reasons"]["store"]
    assert value_of(text, "keyplane_store_available") == 0
    outside.await_store("ok")


def test_an_address_in_use_does_not_stop_the_provider(
    softhsm_settings: Settings, softhsm_token: Pkcs11Token, tmp_path: Path
) -> None:
    site = FaultySite(softhsm_settings, tmp_path / "state")
    bind_a_key(site.settings, softhsm_token)
    with closing(sockets.create_server((HOST, 0))) as other:
        with_health(site, f"{HOST}:{other.getsockname()[1]}")
        with site.process() as process, KmsClient(process.socket) as client:
            assert client.decrypt(client.encrypt()) == SEED

    (line,) = process.logged("metrics and health are not served")
    assert line["reason"] == "Address already in use"


def test_nothing_is_served_for_an_empty_address(here: FakeInstallation) -> None:
    provider = here.core.settings.provider.model_copy(update={"health_address": ""})
    settings = here.core.settings.model_copy(update={"provider": provider})
    threads = threading.active_count()

    with seen_from_outside(replace(here.core, settings=settings), ProviderMetrics()) as address:
        assert address == ""
        assert threading.active_count() == threads
