"""A whole core on fakes, as ``init`` would leave it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from keycore.bootstrap import Core, wire
from keycore.domain.envelope import AES_256_GCM, Suite
from keycore.domain.ids import InstanceId, new_uuid
from keycore.domain.instances import Installation, Instance
from keycore.service.caller import Caller
from keycore.service.records import Records
from keycore.settings import ProviderSettings, Settings
from tests.fakes.fixed_clock import FixedClock
from tests.fakes.memory_audit import MemoryAuditLog
from tests.fakes.memory_store import MemoryStore
from tests.fakes.memory_token import InsecureMemoryToken

CALLER = Caller("cli", "uid:0", "request-1")


@dataclass(frozen=True)
class FakeInstallation:
    """The core with the fakes below it, for tests to pull at."""

    core: Core
    instance: Instance
    store: MemoryStore
    token: InsecureMemoryToken
    clock: FixedClock
    audit: MemoryAuditLog

    def another_process(self, node: str = "node-b") -> Core:
        """Return a second core on the same store and token, as another process has it."""
        return wire(_settings(node), self.store, self.token, self.audit, self.clock)


def fake_installation(suite: Suite = AES_256_GCM) -> FakeInstallation:
    """Return a fresh installation with one instance, on a token of the kind that has ``suite``."""
    store, token, clock = MemoryStore(), InsecureMemoryToken(suite), FixedClock()
    audit = MemoryAuditLog()
    instance = Instance(InstanceId(new_uuid()), "default", "keyplane-system", clock.now())
    with Records(store, token).writing() as unit:
        unit.save_instance(instance)
        unit.save_installation(Installation(new_uuid(), "memory", "0", clock.now()))
    core = wire(_settings("node-a"), store, token, audit, clock)
    return FakeInstallation(core, instance, store, token, clock, audit)


def _settings(node: str) -> Settings:
    return Settings(state_dir=Path("/nonexistent"), provider=ProviderSettings(node=node))
