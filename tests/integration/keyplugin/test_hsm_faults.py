"""A token that misbehaves below a running provider: what the API server sees of it.

The token is SoftHSM2 behind the test bed's faulty module, and the provider a real process.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from grpc import StatusCode

from keycore.service.kms_health import PROBE_SECONDS
from keycore.settings import Settings
from keyplugin.kmsapi.api_pb2 import EncryptResponse
from keyplugin.server import GRACE_SECONDS
from testbed.faulty_module import ALL, Action, Code, FaultyModule
from testbed.waiting import wait_until
from tests.integration.keyplugin.client import SEED, KmsClient
from tests.integration.keyplugin.faulty_site import (
    WITHIN_SECONDS,
    Calls,
    FaultySite,
)
from tests.integration.keyplugin.provider_process import ProviderProcess

Order = Callable[[FaultyModule], None]

LANES = 8

PATIENT = timedelta(seconds=10)
"""A deadline for tests that are not about it, on a machine that may be busy."""

SHORT = timedelta(seconds=1)
"""A deadline for tests that wait for it to pass."""


@pytest.fixture
def site(bound: Settings, tmp_path: Path) -> FaultySite:
    """An installation of one test."""
    return FaultySite(bound, tmp_path / "state", deadline=SHORT)


@pytest.fixture(scope="module", params=[1, LANES], ids=lambda lanes: f"parallelism-{lanes}")
def running(
    request: pytest.FixtureRequest, bound: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FaultySite]:
    """A site whose process runs through many tests, as it does through many faults."""
    state_dir = tmp_path_factory.mktemp("running") / "state"
    running = FaultySite(bound, state_dir, parallelism=request.param, deadline=PATIENT)
    with running.process():
        yield running


@pytest.fixture
def module(running: FaultySite) -> Iterator[FaultyModule]:
    """The module below that process, well again after each test."""
    yield running.module
    running.module.reset()
    with KmsClient(running.settings.provider.socket) as client:
        await_health(client, within_seconds=WITHIN_SECONDS)


@pytest.fixture
def client(running: FaultySite) -> Iterator[KmsClient]:
    with KmsClient(running.settings.provider.socket) as client:
        yield client


def await_health(client: KmsClient, *, within_seconds: float) -> None:
    wait_until(
        lambda: client.status().healthz == "ok",
        what="Status says ok",
        within_seconds=within_seconds,
    )


def await_sickness(client: KmsClient, *, within_seconds: float) -> str:
    wait_until(
        lambda: client.status().healthz != "ok",
        what="Status says what is wrong",
        within_seconds=within_seconds,
    )
    return client.status().healthz


def await_inside(module: FaultyModule, name: str, threads: int) -> None:
    wait_until(
        lambda: module.inside(name) == threads,
        what=f"{threads} calls are inside {name}",
        within_seconds=WITHIN_SECONDS,
    )


# --- faults that pass ---------------------------------------------------------


@pytest.mark.parametrize(
    "order",
    [
        pytest.param(lambda m: m.act("C_DecryptInit", Action.CLOSE_SESSIONS), id="closed-decrypt"),
        pytest.param(lambda m: m.act("C_EncryptInit", Action.CLOSE_SESSIONS), id="closed-encrypt"),
        pytest.param(lambda m: m.act("C_DecryptInit", Action.LOGOUT), id="logged-out-decrypt"),
        pytest.param(lambda m: m.act("C_EncryptInit", Action.LOGOUT), id="logged-out-encrypt"),
        pytest.param(lambda m: m.act("C_DecryptInit", Action.STRAND), id="stranded-decrypt"),
        pytest.param(lambda m: m.act("C_EncryptInit", Action.STRAND), id="stranded-encrypt"),
        pytest.param(lambda m: m.fail("C_Decrypt", Code.DEVICE_ERROR), id="device-error"),
        pytest.param(lambda m: m.fail("C_GenerateRandom", Code.DEVICE_ERROR), id="no-nonce"),
        pytest.param(lambda m: m.fail("C_Decrypt", Code.GENERAL_ERROR), id="general-error"),
        pytest.param(
            lambda m: m.fail("C_DecryptInit", Code.OBJECT_HANDLE_INVALID), id="lost-object"
        ),
        pytest.param(lambda m: m.fail("C_EncryptInit", Code.KEY_HANDLE_INVALID), id="lost-key"),
    ],
)
def test_a_passing_fault_is_healed_and_no_call_fails(
    running: FaultySite, module: FaultyModule, client: KmsClient, order: Order
) -> None:
    with Calls(running.settings.provider.socket, clients=4) as calls:
        calls.go_on()
        order(module)
        calls.go_on()

    assert (calls.failures, calls.wrong, module.outstanding(ALL)) == ([], 0, 0)
    assert client.status().healthz == "ok"


def test_the_same_call_failing_again_and_again_is_told_once_and_healed(
    running: FaultySite, module: FaultyModule, client: KmsClient
) -> None:
    """A call is tried twice, so of three faults in a row two can meet the same call."""
    with Calls(running.settings.provider.socket) as calls:
        calls.go_on()
        module.fail("C_Decrypt", Code.DEVICE_ERROR, times=3)
        calls.go_on()

    assert [code for code, _ in calls.failures] in ([], [StatusCode.UNAVAILABLE])
    assert (calls.wrong, module.outstanding(ALL)) == (0, 0)
    await_health(client, within_seconds=5)


def test_a_probe_that_failed_is_repeated_before_the_api_server_asks_again(
    running: FaultySite, module: FaultyModule, client: KmsClient
) -> None:
    """The API server asks a sick provider every ten seconds."""
    module.fail("C_SignInit", Code.DEVICE_ERROR, times=2)
    await_sickness(client, within_seconds=PROBE_SECONDS + 5)

    await_health(client, within_seconds=5)


def test_a_ciphertext_that_does_not_open_is_no_fault_of_the_token(
    running: FaultySite, module: FaultyModule, client: KmsClient
) -> None:
    closed = client.encrypt()
    spoilt = client.encrypt()
    spoilt.ciphertext = spoilt.ciphertext[:-1] + bytes([spoilt.ciphertext[-1] ^ 1])
    module.reset()

    with pytest.raises(grpc.RpcError) as refused:
        client.decrypt(spoilt)

    assert refused.value.code() is StatusCode.INVALID_ARGUMENT
    assert module.calls("C_OpenSession") == 0
    assert client.decrypt(closed) == SEED


# --- a token that was away ----------------------------------------------------


@pytest.mark.parametrize("parallelism", [1, LANES])
def test_a_token_that_was_away_is_coasted_over_and_taken_back_without_a_restart(
    bound: Settings, tmp_path: Path, parallelism: int
) -> None:
    site = FaultySite(bound, tmp_path / "state", parallelism=parallelism, deadline=PATIENT)
    away = site.tokens.with_name("away")
    with site.process() as process, KmsClient(process.socket) as client:
        key_id = client.status().key_id
        with Calls(process.socket, clients=4) as calls:
            calls.go_on()
            site.tokens.rename(away)
            fault = await_sickness(client, within_seconds=PROBE_SECONDS + 5)
            told = client.status().key_id
            calls.go_on()
            away.rename(site.tokens)
            await_health(client, within_seconds=10)
            calls.go_on()

    assert "check that the HSM is connected and its token present" in fault
    assert told == key_id
    assert (calls.failures, calls.wrong) == ([], 0)


# --- a slow token -------------------------------------------------------------


@pytest.mark.parametrize("milliseconds", [1, 5, 20])
def test_a_slow_token_serves_every_call(
    running: FaultySite, module: FaultyModule, milliseconds: int
) -> None:
    for name in ("C_Encrypt", "C_Decrypt"):
        module.delay(name, milliseconds)

    with Calls(running.settings.provider.socket, clients=8) as calls:
        calls.go_on(2)

    assert (calls.failures, calls.wrong) == ([], 0)
    assert module.inside_most("C_Decrypt") <= running.settings.token.parallelism


def test_as_many_calls_are_inside_at_once_as_the_settings_say(
    running: FaultySite, module: FaultyModule, client: KmsClient
) -> None:
    lanes = running.settings.token.parallelism
    closed = client.encrypt()
    module.hang("C_Decrypt")

    calls = [client.start_decrypt(closed) for _ in range(LANES)]
    await_inside(module, "C_Decrypt", lanes)
    module.release("C_Decrypt")

    assert {call.result().plaintext for call in calls} == {SEED}
    assert module.inside_most("C_Decrypt") == lanes


# --- a call that never returns ------------------------------------------------


@dataclass(frozen=True)
class Hanging:
    """A provider with one Decrypt in the module that does not return."""

    site: FaultySite
    process: ProviderProcess
    client: KmsClient
    closed: EncryptResponse


@contextmanager
def hanging_provider(site: FaultySite) -> Iterator[Hanging]:
    with site.process() as process, KmsClient(process.socket) as client:
        closed = client.encrypt()
        site.module.hang("C_Decrypt", times=1)
        call = client.start_decrypt(closed)
        await_inside(site.module, "C_Decrypt", 1)
        # Whoever gives up a future of grpc cancels its call.
        assert call.is_active()
        yield Hanging(site, process, client, closed)


@pytest.fixture(scope="module")
def hanging(bound: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hanging]:
    """For tests that leave it hanging, longer than its deadline already."""
    site = FaultySite(bound, tmp_path_factory.mktemp("hanging") / "state", deadline=SHORT)
    with hanging_provider(site) as hanging:
        await_sickness(hanging.client, within_seconds=WITHIN_SECONDS)
        yield hanging


def test_calls_behind_one_that_hangs_are_refused_by_the_deadline(site: FaultySite) -> None:
    with hanging_provider(site) as hanging:
        began = time.monotonic()
        calls = [hanging.client.start_decrypt(hanging.closed) for _ in range(20)]

        codes = {call.exception().code() for call in calls}
        waited = time.monotonic() - began

    assert codes == {StatusCode.UNAVAILABLE}
    assert waited < SHORT.total_seconds() + 1


def test_once_a_call_hangs_every_further_one_is_refused_at_once(hanging: Hanging) -> None:
    began = time.monotonic()
    calls = [hanging.client.start_decrypt(hanging.closed) for _ in range(20)]
    errors = [call.exception() for call in calls]

    assert time.monotonic() - began < SHORT.total_seconds() / 2
    assert {error.code() for error in errors} == {StatusCode.UNAVAILABLE}
    assert all("restarting this process" in error.details() for error in errors)


def test_status_names_the_fix_for_a_call_that_hangs(hanging: Hanging) -> None:
    status = hanging.client.status()

    assert "check the HSM, then restart" in status.healthz
    assert status.key_id == hanging.closed.key_id


def test_status_answers_while_calls_hang_and_wait(
    hanging: Hanging, record_testsuite_property: Callable[[str, object], None]
) -> None:
    """The aim is 5 ms; how much of more is this machine's business is only recorded."""
    milliseconds = []
    for _ in range(200):
        call = hanging.client.start_decrypt(hanging.closed)
        began = time.perf_counter()
        hanging.client.status()
        milliseconds.append(1000 * (time.perf_counter() - began))
        call.exception()

    p99 = sorted(milliseconds)[197]
    record_testsuite_property("status_p99_ms", round(p99, 2))
    assert p99 < 100


def test_a_probe_that_hangs_shows_in_status_as_soon(site: FaultySite) -> None:
    with site.process() as process, KmsClient(process.socket) as client:
        site.module.hang("C_SignInit", times=1)
        await_inside(site.module, "C_SignInit", 1)

        fault = await_sickness(client, within_seconds=SHORT.total_seconds() + 1)

    assert "check the HSM, then restart" in fault


def test_a_call_that_hangs_does_not_keep_the_process_from_ending(site: FaultySite) -> None:
    with hanging_provider(site) as hanging:
        began = time.monotonic()
        hanging.process.end(signal.SIGTERM)
        seconds = time.monotonic() - began
        site.module.reset()

        with site.process(), KmsClient(hanging.process.socket) as client:
            assert client.status(wait=True).healthz == "ok"
            assert client.decrypt(hanging.closed) == SEED

    assert seconds < GRACE_SECONDS + 5


def test_a_call_that_hangs_stops_only_its_own_lane(bound: Settings, tmp_path: Path) -> None:
    site = FaultySite(bound, tmp_path / "state", parallelism=2, deadline=SHORT)
    with hanging_provider(site) as hanging:
        fault = await_sickness(hanging.client, within_seconds=WITHIN_SECONDS)

        assert {hanging.client.decrypt(hanging.closed) for _ in range(50)} == {SEED}
        assert "has not returned" in fault


# --- what is not asked of the token -------------------------------------------


def test_status_makes_no_call_of_the_module(
    running: FaultySite, module: FaultyModule, client: KmsClient
) -> None:
    """Only a window into which no probe falls tells: Status alone would fill every one."""

    def calls_beside_status() -> int:
        before = module.total_calls()
        for _ in range(1000):
            client.status()
        return module.total_calls() - before

    assert min(calls_beside_status() for _ in range(3)) == 0


def test_a_wrong_pin_is_tried_once(site: FaultySite) -> None:
    right = site.settings.pin_file.read_text(encoding="utf-8")
    site.settings.pin_file.write_text("wrong-pin", encoding="utf-8")
    codes = [site.process().wait() for _ in range(3)]
    logins = site.module.calls("C_Login")
    site.settings.pin_file.write_text(right, encoding="utf-8")
    with site.process() as process, KmsClient(process.socket) as client:
        assert client.status().healthz == "ok"

    assert codes == [2, 2, 2]
    assert (logins, site.module.calls("C_Login")) == (1, 2)
