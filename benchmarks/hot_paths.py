"""What the core adds to the HSM: each use case beside a raw loop on the same token.

`make bench` prints microseconds and the ratio to the raw loop. Rounds of both are
interleaved, and the median of the rounds is shown: ratios hold within one run,
absolute figures depend on the machine.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pkcs11 import GCMParams, Mechanism
from rich.console import Console
from rich.progress import track
from rich.table import Table

from keycore.adapters.pkcs11_token import Pkcs11Token
from keycore.bootstrap import Core, open_core
from keycore.initialise import initialise
from keycore.ports import WrappedKey
from keycore.service.caller import Caller
from keycore.service.creation import NewKey
from keycore.settings import Settings

ROUNDS = 9
CALLS = 1_000
CREATED = 50
"""Calls in one round of a use case that waits for the disk."""

SEED = bytes(32)
CALLER = Caller("cli", "benchmark")

Case = tuple[str, int, Callable[[], object]]


def cases(core: Core) -> list[Case]:
    """Return what is measured, the baseline first."""
    instance = core.instances.all()[0].id
    key = core.keys.create(CALLER, instance, NewKey("benchmark"))
    core.providers.bind(CALLER, core.settings.provider.name, key.id)
    core.kms.refresh()
    wrapped = core.wrapping.wrap(CALLER, instance, key.id, SEED)
    sealed, key_id = core.kms.encrypt(CALLER, SEED)
    return [
        ("raw HSM loop: nonce, AES-256-GCM", CALLS, raw_encryption(core, key.versions[0])),
        ("wrap", CALLS, lambda: core.wrapping.wrap(CALLER, instance, key.id, SEED)),
        (
            "unwrap",
            CALLS,
            lambda: core.wrapping.unwrap(CALLER, instance, key.id, wrapped.ciphertext),
        ),
        ("KMS Encrypt, without gRPC", CALLS, lambda: core.kms.encrypt(CALLER, SEED)),
        ("KMS Decrypt, without gRPC", CALLS, lambda: core.kms.decrypt(CALLER, sealed, key_id)),
        ("KMS Status, without gRPC", CALLS, core.kms.status),
        ("create a root key", CREATED, lambda: core.keys.create(CALLER, instance, NewKey("many"))),
    ]


def raw_encryption(core: Core, version: object) -> Callable[[], object]:
    """Return one encryption with python-pkcs11 alone, on the token's own handle."""
    token = core.token
    assert isinstance(token, Pkcs11Token)  # noqa: S101  (the benchmark knows what it opened)
    lanes = token._lanes  # noqa: SLF001
    lane = lanes.take()
    assert lane.login is not None  # noqa: S101  (nobody has taken the token away)
    session = lane.login.session
    handle = lane.working_copy(lane.login, WrappedKey(version.id, version.wrapped))  # type: ignore[attr-defined]
    lanes.give_back(lane)

    def encrypt() -> object:
        nonce = session.generate_random(96)
        parameters = GCMParams(nonce, b"", 128)
        return handle.encrypt(SEED, mechanism=Mechanism.AES_GCM, mechanism_param=parameters)

    return encrypt


def microseconds(calls: int, call: Callable[[], object]) -> float:
    """Return the mean time of one call in one round."""
    started = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - started) / calls * 1e6


def main() -> None:
    """Measure everything and print the table."""
    console = Console()
    with tempfile.TemporaryDirectory(prefix="keyplane-bench-") as directory:
        settings = Settings(state_dir=Path(directory) / "state")
        initialise(settings, CALLER)
        with open_core(settings, "cli") as core:
            measured = cases(core)
            rounds = [
                [microseconds(calls, call) for _, calls, call in measured]
                for _ in track(range(ROUNDS), "measuring", console=Console(stderr=True))
            ]
    medians = [statistics.median(column) for column in zip(*rounds, strict=True)]
    table = Table("work", "µs", "times the raw loop")
    for (name, _, _), median in zip(measured, medians, strict=True):
        table.add_row(name, f"{median:.1f}", f"{median / medians[0]:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
