"""What a KMS v2 provider in Python costs beside one in Go: on one token, with one client.

`python -m benchmarks.kms` starts keyplane's provider as an administrator would, with
SoftHSM2, SQLite and the audit file, and a plain plugin in Go on the same token. A client on
kube-apiserver's own code drives each socket over one connection, as an API server does, and
in turns. Ratios hold within one run; absolute figures depend on the machine, whose cores
client and provider share.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.kms_plugins import Plugin, Token
from benchmarks.kms_storm import storm
from keyplugin.kmsapi.api_pb2 import DecryptRequest, EncryptRequest
from keyplugin.kmsapi.api_pb2_grpc import KeyManagementServiceStub
from testbed.kms_client import KmsLoad, LoadResult, Mode

CONCURRENCY: Final = (1, 8, 32)
DELAYS_MILLISECONDS: Final = (1, 5, 20)
PARALLELISM: Final = (1, 16)
MODES: Final[tuple[Mode, ...]] = ("encrypt", "decrypt")

ROUNDS: Final = 5
SECONDS: Final = 2.0
WARM_UP_SECONDS: Final = 0.3
COLD_STARTS: Final = 5
SECRETS: Final = 5_000
STATUS_EVERY_SECONDS: Final = 0.005

_WIDTH: Final = 100
_SEED: Final = bytes(32)
_COLUMNS: Final = ("per s", "of Go", "p50 ms", "p99 ms", "Status p99", "failed")


@dataclass(frozen=True, slots=True)
class Plan:
    """How long it is measured."""

    rounds: int
    seconds: float
    directory: Path
    console: Console


@dataclass(frozen=True, slots=True)
class Figures:
    """One line of a table; latencies in milliseconds, medians of the rounds."""

    rate: float
    p50: float
    p99: float
    status_p99: float
    failed: int

    @classmethod
    def of(cls, results: Sequence[LoadResult]) -> Figures:
        """Sum up the rounds of one provider."""
        polls = [one.status.latency.p99 for one in results if one.status]
        return cls(
            statistics.median(one.rps for one in results),
            statistics.median(one.load.latency.p50 for one in results) / 1000,
            statistics.median(one.load.latency.p99 for one in results) / 1000,
            statistics.median(polls) / 1000 if polls else 0,
            sum(one.failures for one in results),
        )

    def cells(self, go: Figures) -> tuple[str, ...]:
        """Return the cells below ``_COLUMNS``."""
        status = f"{self.status_p99:.1f}" if self.status_p99 else ""
        latencies = (f"{self.p50:.2f}", f"{self.p99:.2f}", status)
        return (f"{self.rate:.0f}", f"{self.rate / go.rate:.2f}", *latencies, f"{self.failed}")


def compare(
    plan: Plan, plugins: Sequence[Plugin], mode: Mode, concurrency: int, *, status: bool = False
) -> list[Figures]:
    """Load each provider in every round, and return the figures of each."""

    def load(plugin: Plugin) -> LoadResult:
        with KmsLoad(
            plugin.socket,
            directory=plan.directory / "logs",
            mode=mode,
            concurrency=concurrency,
            seconds=plan.seconds,
            warm_up_seconds=WARM_UP_SECONDS,
            status_every_seconds=STATUS_EVERY_SECONDS if status else 0,
        ) as running:
            return running.result()

    rounds = [[load(plugin) for plugin in plugins] for _ in range(plan.rounds)]
    return [Figures.of(column) for column in zip(*rounds, strict=True)]


def beside(plan: Plan, title: str, pair: tuple[Plugin, Plugin], cases: Sequence[Case]) -> Table:
    """Measure keyplane and the Go plugin in each case, and return the table."""
    table = Table("work", "at once", "provider", *_COLUMNS, title=title)
    with ExitStack() as stack:
        for plugin in pair:
            stack.enter_context(plugin.serving())
        for case in track(cases, title, console=plan.console):
            case.prepare()
            figures = compare(plan, pair, case.mode, case.concurrency, status=case.status)
            for plugin, one in zip(pair, figures, strict=True):
                cells = one.cells(figures[-1])
                table.add_row(case.name, f"{case.concurrency}", plugin.name, *cells)
    return table


@dataclass(frozen=True, slots=True)
class Case:
    """One comparison."""

    name: str
    mode: Mode
    concurrency: int
    status: bool = False
    prepare: Callable[[], None] = lambda: None


def local_cases(connections: Sequence[int]) -> list[Case]:
    """Return what is compared on SoftHSM2 itself."""
    calls = [Case(mode.title(), mode, count) for count in connections for mode in MODES]
    return [*calls, Case("Decrypt + Status", "decrypt", max(connections), status=True)]


def slow_cases(token: Token, connections: Sequence[int]) -> list[Case]:
    """Return what is compared on a token that takes its time, as one behind a network does."""
    return [
        Case(
            f"{mode.title()}, {delay} ms",
            mode,
            count,
            prepare=lambda delay=delay: token.delay(delay),  # type: ignore[misc]
        )
        for delay in DELAYS_MILLISECONDS
        for count in connections
        for mode in MODES
    ]


def cold_starts(token: Token) -> Table:
    """Measure from the start of the process to the first answer of Decrypt."""
    table = Table("provider", "socket after s", "first Decrypt after s", title="Cold start")
    for plugin in (token.keyplane(), token.go()):
        request = _sealed_by(plugin)
        times = [_cold_start(plugin, request) for _ in range(COLD_STARTS)]
        medians = (statistics.median(column) for column in zip(*times, strict=True))
        table.add_row(plugin.name, *(f"{one:.3f}" for one in medians))
    return table


def _sealed_by(plugin: Plugin) -> DecryptRequest:
    with plugin.serving(), grpc.insecure_channel(f"unix:{plugin.socket}") as channel:
        answer = _stub(channel).Encrypt(EncryptRequest(plaintext=_SEED))
        return DecryptRequest(ciphertext=answer.ciphertext, key_id=answer.key_id)


def _cold_start(plugin: Plugin, request: DecryptRequest) -> tuple[float, float]:
    started = time.perf_counter()
    # A pool of its own, since a shared connection remembers that nobody answered.
    options = [("grpc.use_local_subchannel_pool", 1)]
    with (
        plugin.serving() as until_socket,
        grpc.insecure_channel(f"unix:{plugin.socket}", options) as channel,
    ):
        _stub(channel).Decrypt(request)
        return until_socket, time.perf_counter() - started


def _stub(channel: grpc.Channel) -> KeyManagementServiceStub:
    return KeyManagementServiceStub(channel)  # type: ignore[no-untyped-call]


def storms(directory: Path, objects: int) -> Table:
    """Restart a real API server over so many seeds."""
    seen = storm(directory, objects)
    table = Table("what", "figure", title="Decrypt storm of a real API server's start")
    table.add_row("different seeds in etcd", f"{seen.seeds}")
    table.add_row("Decrypts of the API server, failed", f"{seen.decrypts}, {seen.failed}")
    table.add_row("from the first Decrypt to the last, s", f"{seen.served_seconds:.2f}")
    table.add_row("p50, p99 by the API server's histogram, ms", _at_most(seen.p50, seen.p99))
    table.add_row("from the start of the process to ready, s", f"{seen.ready_seconds:.1f}")
    table.add_row("LIST of everything after that, s", f"{seen.list_seconds:.2f}")
    return table


def _at_most(*seconds: float) -> str:
    return ", ".join(f"at most {one * 1000:.1f}" for one in seconds)


def main() -> None:
    """Measure everything and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--concurrency", type=int, nargs="*", default=CONCURRENCY)
    parser.add_argument("--secrets", type=int, default=SECRETS, help="0: no API server is started")
    parser.add_argument("--only", choices=["local", "slow", "cold", "storm"])
    chosen = parser.parse_args()
    console, tables = Console(stderr=True), []

    def wanted(name: str) -> bool:
        return chosen.only in (None, name)

    with tempfile.TemporaryDirectory(prefix="kp-") as name:
        directory = Path(name)
        token = Token(directory)
        plan = Plan(chosen.rounds, chosen.seconds, directory, console)
        if wanted("local"):
            cases = local_cases(chosen.concurrency)
            tables.append(beside(plan, "SoftHSM2", (token.keyplane(), token.go()), cases))
        # A slow token makes all rounds alike, so one is enough.
        plan = Plan(1, chosen.seconds, directory, console)
        for count in PARALLELISM if wanted("slow") else ():
            pair = (
                token.keyplane(parallelism=count, slow=True),
                token.go(sessions=count, slow=True),
            )
            cases = slow_cases(token, chosen.concurrency)
            tables.append(beside(plan, f"A slow token, {count} calls of it at once", pair, cases))
        if wanted("cold"):
            tables.append(cold_starts(token))
    if chosen.secrets and wanted("storm"):
        with tempfile.TemporaryDirectory(prefix="kp-") as name:
            tables.append(storms(Path(name), chosen.secrets))
    # In a pipe the tables would be cut to a width that nobody has chosen.
    output = Console(width=None if sys.stdout.isatty() else _WIDTH)
    for table in tables:
        output.print(table)


if __name__ == "__main__":
    main()
