"""One etcd, and a look at the raw bytes that lie in it."""

import base64
import json
from http import HTTPStatus
from pathlib import Path
from typing import Final

from testbed.errors import ControlPlaneError
from testbed.loopback import HOST, free_port, request
from testbed.processes import ChildProcess

_READY_SECONDS_MAX: Final = 60.0


class Etcd:
    """A single-member etcd on the loopback address, with its own data directory."""

    def __init__(self, directory: Path, binary: Path) -> None:
        """Choose its port without starting it.

        Args:
            directory: Holds `etcd/`, the data, and `etcd.log`.
            binary: The etcd program.
        """
        self.url = f"http://{HOST}:{free_port()}"
        self.process = ChildProcess(
            "etcd",
            (
                binary,
                "--name=testbed",
                f"--data-dir={directory / 'etcd'}",
                f"--listen-client-urls={self.url}",
                f"--advertise-client-urls={self.url}",
                # Port 0: no peer will ever come, so the number matters to nobody.
                f"--listen-peer-urls=http://{HOST}:0",
                # The data need not survive a power cut, and tests are twice as fast.
                "--unsafe-no-fsync",
            ),
            directory=directory,
        )

    def start(self) -> None:
        """Start it and wait until it is healthy.

        Raises:
            ProcessDiedError: It ended instead.
            DeadlineExceededError: It was not healthy within 60 s.
        """
        self.process.start()
        self.process.wait_until(
            self._is_healthy, what="etcd is healthy", within_seconds=_READY_SECONDS_MAX
        )

    def stop(self) -> None:
        """Stop it; the data stay."""
        self.process.stop()

    def _is_healthy(self) -> bool:
        try:
            status, _ = request(f"{self.url}/health")
        except OSError:
            return False
        return status == HTTPStatus.OK

    def get(self, prefix: str) -> dict[str, bytes]:
        """Read every value below a prefix, as it lies on the disk.

        Args:
            prefix: Such as `/registry/secrets/`; not empty, ASCII.

        Returns:
            Raw values by key; empty when there are none.

        Raises:
            ControlPlaneError: etcd refused the request.
        """
        first = prefix.encode("ascii")
        # etcd's idiom for a prefix: up to the next string of the same length.
        after_last = first[:-1] + bytes([first[-1] + 1])
        query = {"key": _base64(first), "range_end": _base64(after_last)}
        status, body = request(f"{self.url}/v3/kv/range", body=json.dumps(query).encode())
        if status != HTTPStatus.OK:
            raise ControlPlaneError(f"etcd answered {status} to a range request for {prefix}.")
        pairs = json.loads(body).get("kvs", [])
        return {
            base64.b64decode(pair["key"]).decode(): base64.b64decode(pair.get("value", ""))
            for pair in pairs
        }


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
