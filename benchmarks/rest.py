"""What REST adds to its server and to the HSM: wrap and unwrap over TLS, with real parts.

`python -m benchmarks.rest` starts the REST face as an administrator would, with SoftHSM2,
SQLite, bearer credentials and the audit file, and a bare handler on the same server. A
client in Go keeps 1, 8 and 32 connections busy. Rounds are interleaved and their medians
shown: ratios hold within one run, absolute figures depend on the machine.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.hot_paths import CALLER, SEED, microseconds, raw_encryption
from keycore.bootstrap import Core, open_core
from keycore.domain.ids import InstanceId
from keycore.domain.keys import Key
from keycore.ports import KeyFilter
from keycore.service.creation import KeyMaker, NewKey
from keycore.service.records import Records
from keycore.settings import load_settings
from testbed.go import build_program
from testbed.loopback import HOST, free_port
from testbed.processes import ChildProcess
from testbed.rest import RestService

CONNECTIONS: Final = (1, 8, 32)
WORKERS: Final = (1, 2)
KEYS: Final = (1_000, 100_000)
USED_KEYS: Final = 500
"""Keys that the load touches; their working copies fit into every worker's token cache."""

ROUNDS: Final = 3
SECONDS: Final = 2.0
WARM_UP_SECONDS: Final = 0.5

_BATCH: Final = 1_000
_LONG: Final = timedelta(hours=6)


@dataclass(frozen=True)
class Target:
    """Something to send requests to."""

    name: str
    requests: Sequence[dict[str, str]]
    headers: dict[str, str]
    ca: Path


@dataclass(frozen=True)
class Figures:
    """One line of the result; latencies in milliseconds."""

    rate: float
    p50: float
    p99: float
    failed: int


def send(client: Path, target: Target, connections: int, *, seconds: float) -> Figures:
    """Send requests for a while and return what was measured."""
    plan = {
        "ca": str(target.ca),
        "headers": target.headers,
        "requests": target.requests,
        "connections": connections,
        "warm_up": WARM_UP_SECONDS,
        "seconds": seconds,
        "status": 200,
    }
    done = subprocess.run(  # noqa: S603 - a program of ours.
        (client,), input=json.dumps(plan), capture_output=True, text=True, check=True
    )
    report: dict[str, Any] = json.loads(done.stdout)
    return Figures(
        report["done"] / report["seconds"], report["p50"], report["p99"], report["failed"]
    )


def make_keys(core: Core, instance: InstanceId, count: int, console: Console) -> list[Key]:
    """Fill the store with root keys, many in a transaction, and return the first ones."""
    records, maker = Records(core.store, core.token), KeyMaker(core.token)
    used: list[Key] = []
    starts = range(0, count, _BATCH)
    for start in track(starts, f"making {count} keys", console=console):
        with records.writing() as unit:
            for _ in range(min(_BATCH, count - start)):
                key = maker.make(instance, NewKey("bench"), by="bench", now=core.clock.now())
                unit.save_key(key)
                if len(used) < USED_KEYS:
                    used.append(key)
    return used


def targets(service: RestService, count: int, console: Console) -> tuple[list[Target], float]:
    """Return wrap and unwrap on a store of ``count`` keys, and the raw HSM loop in µs."""
    with open_core(load_settings(service.installation.config), "cli") as core:
        instance = InstanceId(service.instance_id)
        present = core.keys.page(CALLER, KeyFilter(instance), limit=1).total
        used = make_keys(core, instance, count - present, console)
        sealed = [core.wrapping.wrap(CALLER, instance, key.id, SEED).ciphertext for key in used]
        raw = raw_encryption(core, used[0].versions[0])
        loop = statistics.median(microseconds(1_000, raw) for _ in range(9))
    headers = {
        "Authorization": f"Bearer {service.credential('bench', groups=['Viewer'], ttl=_LONG)}",
        "icp-instance": service.instance_id,
        "Content-Type": "application/json",
    }
    plaintext = json.dumps({"plaintext": base64.b64encode(SEED).decode()})
    wraps = [{"url": _url(service, key, "wrap"), "body": plaintext} for key in used]
    unwraps = [
        {
            "url": _url(service, key, "unwrap"),
            "body": json.dumps({"ciphertext": base64.b64encode(ciphertext).decode()}),
        }
        for key, ciphertext in zip(used, sealed, strict=True)
    ]
    ca = service.ca_file
    return [Target("wrap", wraps, headers, ca), Target("unwrap", unwraps, headers, ca)], loop


def _set_workers(service: RestService, workers: int) -> None:
    config = service.installation.config
    text = config.read_text(encoding="utf-8")
    config.write_text(re.sub(r"workers = \d+", f"workers = {workers}", text), encoding="utf-8")


def _url(service: RestService, key: Key, action: str) -> str:
    return f"{service.base_url}/api/v2/keys/{key.id}?action={action}"


@contextmanager
def bare(directory: Path, workers: int, like: Target) -> Iterator[Target]:
    """Serve a bare handler, and yield the target with the requests of ``like``."""
    port = free_port()
    ca = directory / "tls" / "tls.crt"
    server = ChildProcess(
        "bare-server",
        (
            *(sys.executable, "-m", "benchmarks.bare_server"),
            *(str(port), str(workers), directory),
        ),
        directory=directory,
    )
    with server:
        url = f"https://{HOST}:{port}/kms/api/v2/keys/x?action=wrap"
        requests = [{"url": url, "body": like.requests[0]["body"]}]
        server.wait_until(ca.exists, what="the bare server has a certificate", within_seconds=20)
        time.sleep(0.5)
        yield Target("bare handler", requests, like.headers, ca)


def measure(
    client: Path, rows: Sequence[Target], connections: int, *, seconds: float, rounds: int
) -> list[Figures]:
    """Measure each target in every round, and return the medians."""
    measured: list[list[Figures]] = [
        [send(client, target, connections, seconds=seconds) for target in rows]
        for _ in range(rounds)
    ]
    return [
        Figures(
            statistics.median(one.rate for one in column),
            statistics.median(one.p50 for one in column),
            statistics.median(one.p99 for one in column),
            sum(one.failed for one in column),
        )
        for column in zip(*measured, strict=True)
    ]


def main() -> None:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, nargs="*", default=KEYS, help="sizes of the store")
    parser.add_argument("--workers", type=int, nargs="*", default=WORKERS)
    parser.add_argument("--connections", type=int, nargs="*", default=CONNECTIONS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    chosen = parser.parse_args()
    console = Console(stderr=True)
    client = build_program("loadclient", Path(__file__).parent / "loadclient")
    table = Table(
        "keys",
        "workers",
        "connections",
        "work",
        "per second",
        "of bare",
        "p50 ms",
        "p99 ms",
        "failed",
    )
    with tempfile.TemporaryDirectory(prefix="kp-") as directory:
        service = RestService(Path(directory), options={"workers": 1})
        with service:
            pass
        loops = []
        for count in chosen.keys:
            rows, loop = targets(service, count, console)
            loops.append(loop)
            for workers in chosen.workers:
                beside = Path(directory) / f"bare-{count}-{workers}"
                beside.mkdir()
                _set_workers(service, workers)
                with service, bare(beside, workers, rows[0]) as nothing:
                    everything = [nothing, *rows]
                    for connections in track(
                        chosen.connections, f"{count} keys, {workers} workers", console=console
                    ):
                        figures = measure(
                            client,
                            everything,
                            connections,
                            seconds=chosen.seconds,
                            rounds=chosen.rounds,
                        )
                        for target, one in zip(everything, figures, strict=True):
                            table.add_row(
                                f"{count}",
                                f"{workers}",
                                f"{connections}",
                                target.name,
                                f"{one.rate:.0f}",
                                f"{one.rate / figures[0].rate:.2f}",
                                f"{one.p50:.2f}",
                                f"{one.p99:.2f}",
                                f"{one.failed}",
                            )
    Console().print(table)
    loop = statistics.median(loops)
    Console().print(f"raw HSM loop: {loop:.1f} µs, {1e6 / loop:.0f} per second on one thread")


if __name__ == "__main__":
    main()
