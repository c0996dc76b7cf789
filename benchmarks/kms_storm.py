"""A storm of Decrypts: a real API server starts and finds thousands of different seeds.

An API server asks for one Decrypt for each seed that it has not in memory, and after its
start it has none. An API server that runs makes few seeds, so here every object is given
one of its own beforehand, by the API server's own envelope code.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
from kubernetes.client import CoreV1Api, V1ObjectMeta, V1Secret

from testbed.audit import audit_files
from testbed.binaries import find_or_build
from testbed.cluster import Cluster
from testbed.keyplane import KeyplaneInstallation
from testbed.kms_client import reseed

_NAMESPACE: Final = "default"
_CREATORS: Final = 8
_METRIC: Final = "apiserver_envelope_encryption_kms_operations_latency_seconds"
_DECRYPT: Final = "/v2.KeyManagementService/Decrypt"


@dataclass(frozen=True, slots=True)
class Storm:
    """What one start of an API server asked for, and what it got.

    Attributes:
        seeds: how many different seeds lay in etcd.
        decrypts: Decrypts that the API server has counted since its start.
        failed: those of them that failed.
        ready_seconds: from the start of the process until it was ready.
        served_seconds: from the first Decrypt to the last one in keyplane's audit.
        list_seconds: how long one LIST of everything took after that.
        p50, p99: upper bounds of the API server's own histogram, in seconds.
    """

    seeds: int
    decrypts: int
    failed: int
    ready_seconds: float
    served_seconds: float
    list_seconds: float
    p50: float
    p99: float


def storm(directory: Path, objects: int) -> Storm:
    """Fill etcd with Secrets under as many seeds, restart the API server, and look.

    Args:
        directory: For everything; a short path.
        objects: How many Secrets and seeds.
    """
    with _node(directory) as (cluster, keyplane):
        _create(cluster, objects)
        reseed(
            keyplane.socket,
            etcd_url=cluster.etcd_url,
            prefix=f"/registry/secrets/{_NAMESPACE}/",
        )
        (audit,) = audit_files(directory / "state", "provider")
        seen = audit.stat().st_size
        cluster.apiservers[0].stop()
        started = time.perf_counter()
        cluster.apiservers[0].start()
        ready = time.perf_counter()
        listed = _list(cluster)
        done = time.perf_counter()
        if listed < objects:
            raise RuntimeError(f"{listed} of {objects} Secrets were listed")
        counts = decrypts(cluster.apiservers[0].get("/metrics")[1])
        return Storm(
            seeds=objects,
            decrypts=counts.total,
            failed=counts.failed,
            ready_seconds=ready - started,
            served_seconds=_served_seconds(audit, seen),
            list_seconds=done - ready,
            p50=counts.quantile(0.5),
            p99=counts.quantile(0.99),
        )


@contextmanager
def _node(directory: Path) -> Iterator[tuple[Cluster, KeyplaneInstallation]]:
    """Run keyplane and a control plane that encrypts Secrets with it."""
    config = directory / "encryption-config.yaml"
    cluster = Cluster(
        directory / "cluster", find_or_build(), encryption_config=config, controller_manager=False
    )
    keyplane = KeyplaneInstallation(directory, cluster.kubeconfig)
    keyplane.run("init")
    config.write_text(keyplane.run("encryption-config"), encoding="utf-8")
    key_id = keyplane.run_json("keys", "create", "etcd-root")["id"]
    keyplane.run("provider", "set", "keyplane", "--key", key_id)
    with keyplane.face("provider") as provider:
        provider.wait_until(keyplane.socket.exists, what="the socket", within_seconds=30)
        with cluster:
            yield cluster, keyplane


def _create(cluster: Cluster, objects: int) -> None:
    def create(numbers: range) -> None:
        with cluster.client() as client:
            secrets = CoreV1Api(client)
            for number in numbers:
                body = V1Secret(
                    metadata=V1ObjectMeta(name=f"storm-{number}"), string_data={"text": "planted"}
                )
                secrets.create_namespaced_secret(_NAMESPACE, body)

    with ThreadPoolExecutor(_CREATORS) as pool:
        list(pool.map(create, (range(first, objects, _CREATORS) for first in range(_CREATORS))))


def _list(cluster: Cluster) -> int:
    with cluster.client() as client:
        answer: Any = CoreV1Api(client).list_namespaced_secret(_NAMESPACE, _preload_content=False)
        return len(orjson.loads(answer.data)["items"])


def _served_seconds(audit: Path, offset: int) -> float:
    """Return the time from the first Decrypt in the audit after ``offset`` to the last one."""
    with audit.open("rb") as file:
        file.seek(offset)
        lines = [orjson.loads(line) for line in file]
    times = sorted(line["time"] for line in lines if line["operation"] == "kms.decrypt")
    return _seconds(times[-1]) - _seconds(times[0])


def _seconds(moment: str) -> float:
    hours, minutes, seconds = moment.partition("T")[2].rstrip("Z").split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


@dataclass(frozen=True, slots=True)
class Decrypts:
    """The API server's histogram of Decrypts: cumulated counts by upper bound in seconds."""

    total: int
    failed: int
    buckets: dict[float, int]

    def quantile(self, share: float) -> float:
        """Return the upper bound of the bucket in which a quantile lies."""
        enough = (
            bound for bound, count in sorted(self.buckets.items()) if count >= share * self.total
        )
        return next(enough, float("inf"))


def decrypts(metrics: str) -> Decrypts:
    """Read the API server's own count of its Decrypts from its metrics."""
    buckets: dict[float, int] = defaultdict(int)
    total = failed = 0
    pattern = rf'^{_METRIC}_(bucket|count){{(.*method_name="{re.escape(_DECRYPT)}".*)}} (\S+)$'
    for kind, labels, value in re.findall(pattern, metrics, re.MULTILINE):
        if kind == "bucket":
            bound = re.search(r'le="([^"]+)"', labels)
            buckets[float(bound[1].replace("+Inf", "inf")) if bound else 0] += int(float(value))
        else:
            total += int(float(value))
            failed += 0 if 'grpc_status_code="OK"' in labels else int(float(value))
    return Decrypts(total, failed, buckets)
