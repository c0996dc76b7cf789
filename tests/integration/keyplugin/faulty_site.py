"""A provider process on a SoftHSM2 token that misbehaves on demand, and calls that go on."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from keycore.adapters.pkcs11_token import Pkcs11Token
from keycore.adapters.sql_store import SqlStore
from keycore.adapters.system_clock import SystemClock
from keycore.bootstrap import wire
from keycore.service.creation import NewKey
from keycore.settings import ProviderSettings, Settings, TokenSettings
from keyplugin.kmsapi.api_pb2 import EncryptResponse
from testbed.faulty_module import FaultyModule
from testbed.waiting import wait_until
from tests.fakes.installation import CALLER
from tests.fakes.memory_audit import MemoryAuditLog
from tests.integration.keyplugin.client import SEED, KmsClient
from tests.integration.keyplugin.provider_process import ProviderProcess

WITHIN_SECONDS = 20.0
"""For what must happen; a test that is about the time says its own."""


class FaultySite:
    """The copy of an installation, and what its provider processes are started with."""

    def __init__(
        self,
        original: Settings,
        state_dir: Path,
        *,
        parallelism: int = 1,
        deadline: timedelta = timedelta(seconds=2),
    ) -> None:
        """Copy the installation of ``original``, token included, and put the module before it."""
        shutil.copytree(original.state_dir, state_dir)
        configuration = state_dir / "softhsm2.conf"
        configuration.write_text(
            f"directories.tokendir = {state_dir}/tokens\nobjectstore.backend = file\n"
            "log.level = ERROR\nslots.removable = false\n"
        )
        self.module = FaultyModule(state_dir, original.module)
        token = TokenSettings(module=self.module.path, parallelism=parallelism, deadline=deadline)
        provider = ProviderSettings(socket=state_dir / "kms.sock", node="node-a")
        self.settings = Settings(state_dir=state_dir, token=token, provider=provider)
        self.tokens = state_dir / "tokens"
        self._environment = {**self.module.environment, "SOFTHSM2_CONF": str(configuration)}
        self._processes = 0

    def process(self) -> ProviderProcess:
        """Start a provider process."""
        self._processes += 1
        name = f"process-{self._processes}"
        return ProviderProcess(self.settings, name, environment=self._environment)


def bind_a_key(settings: Settings, token: Pkcs11Token) -> None:
    """Make a key and bind the provider to it."""
    with closing(SqlStore.open(settings.database)) as store:
        core = wire(settings, store, token, MemoryAuditLog(), SystemClock())
        key = core.keys.create(CALLER, core.instances.all()[0].id, NewKey("etcd"))
        core.providers.bind(CALLER, settings.provider.name, key.id)


class Calls:
    """Clients that encrypt and decrypt without a pause during a block.

    Attributes:
        failures: code and text of each call that failed.
        wrong: how many plaintexts were not what had been encrypted.
    """

    def __init__(self, socket: Path, *, clients: int = 1) -> None:
        """Call from ``clients`` threads; entering the block begins."""
        self.failures: list[tuple[grpc.StatusCode, str]] = []
        self.wrong = 0
        self._client = KmsClient(socket)
        self._rounds = [0] * clients
        self._ended = threading.Event()
        self._threads = ThreadPoolExecutor(clients)

    def __enter__(self) -> Self:
        known = self._client.encrypt()
        self._running = [
            self._threads.submit(self._call, one, known) for one in range(len(self._rounds))
        ]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let the running calls end, and tell what the threads met besides errors of calls."""
        self._ended.set()
        with self._client, self._threads:
            for running in self._running:
                running.result()

    def go_on(self, rounds: int = 20) -> None:
        """Wait until every client has made so many rounds more."""
        wanted = [made + rounds for made in self._rounds]
        wait_until(
            lambda: all(a >= b for a, b in zip(self._rounds, wanted, strict=True)),
            what=f"every client has made {rounds} rounds more",
            within_seconds=WITHIN_SECONDS,
        )

    def _call(self, one: int, known: EncryptResponse) -> None:
        while not self._ended.is_set():
            self._expect(SEED, partial(self._client.decrypt, known))
            fresh = os.urandom(32)
            self._expect(fresh, partial(self._round_trip, fresh))
            self._rounds[one] += 1

    def _round_trip(self, plaintext: bytes) -> bytes:
        return self._client.decrypt(self._client.encrypt(plaintext))

    def _expect(self, plaintext: bytes, call: Callable[[], bytes]) -> None:
        try:
            answer = call()
        except grpc.RpcError as error:
            self.failures.append((error.code(), error.details()))
        else:
            self.wrong += answer != plaintext
