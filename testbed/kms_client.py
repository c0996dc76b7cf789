"""A load on a KMS v2 provider, made by kube-apiserver's own client code.

It exists to count: what it counts as failed is what a real API server would have
seen fail during a takeover, a rotation or an outage.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

from testbed.errors import CommandFailedError, ControlPlaneError
from testbed.go import build_program
from testbed.processes import ChildProcess
from testbed.startable import Startable
from testbed.waiting import wait_until

Mode = Literal["encrypt", "decrypt", "mixed", "status"]
"""What is called; `mixed` encrypts and decrypts in turn."""

_MODULE: Final = Path(__file__).resolve().parent / "kmsclient"

_READY_SECONDS_MAX: Final = 30.0
_END_SECONDS_MAX: Final = 30.0
"""For the calls that are under way when the load ends; each has a deadline of its own."""

_COMMAND_SECONDS_MAX: Final = 300.0


def kms_client_program() -> Path:
    """Return the client, after building it if that was not done yet.

    Raises:
        BinaryUnavailableError: Go, a module or the program could not be had.
    """
    return build_program("kmsclient", _MODULE)


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles of the calls that were answered well, in microseconds."""

    p50: int
    p90: int
    p99: int
    max: int


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of the calls.

    Attributes:
        calls: how many were made, the failed ones among them; those of a warm-up
            count only when they failed.
        failures: how many were answered with an error, with another plaintext than
            was encrypted, or with what the API server would refuse.
        texts: up to five different errors.
    """

    calls: int
    failures: int
    texts: tuple[str, ...]
    latency: Latency

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Self:
        """Read what the client printed."""
        return cls(
            document["calls"],
            document["failures"],
            tuple(document["texts"]),
            Latency(**document["latency"]),
        )


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What a load saw from its beginning to its end.

    Attributes:
        load: the calls of the load itself.
        status: the Status polls beside it; None when there were none.
        health: each healthz text of Status, again when it came back after another.
        key_ids: each key_id of Status and Encrypt in the same way, so a provider that
            goes back to an old one shows.
        seconds: how long it took without the warm-up.
        rps: calls answered well in one second.
    """

    load: Tally
    status: Tally | None
    health: tuple[str, ...]
    key_ids: tuple[str, ...]
    seconds: float
    rps: float

    @property
    def failures(self) -> int:
        """Failed calls of the load and of the Status polls together."""
        return self.load.failures + (self.status.failures if self.status else 0)

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Self:
        """Read what the client printed."""
        status = document.get("status")
        return cls(
            Tally.parse(document),
            Tally.parse(status) if status else None,
            tuple(document["health"] or ()),
            tuple(document["key_ids"] or ()),
            document["seconds"],
            document["rps"],
        )


class KmsLoad(Startable):
    """Calls a provider without a pause, from the beginning of a `with` block to its end.

    Its one connection and its deadlines are those of an API server. Calls that are
    under way at the end are waited for, so a call is never cut off by us.
    """

    def __init__(
        self,
        socket: Path,
        *,
        directory: Path,
        mode: Mode = "mixed",
        concurrency: int = 8,
        seconds: float = 0,
        calls: int = 0,
        warm_up_seconds: float = 0,
        seeds: int = 1,
        pause_seconds: float = 0,
        status_every_seconds: float = 0,
        timeout_seconds: float = 3,
        name: str = "kms-load",
    ) -> None:
        """Describe the load, without starting it.

        Args:
            socket: The provider's socket.
            directory: For the log `<name>.log`; what it held is removed at each start.
            mode: What is called.
            concurrency: Calls that are under way at any time.
            seconds: How long it lasts after the warm-up; 0: until it is stopped.
            calls: How many calls it makes at most; 0: no bound.
            warm_up_seconds: How long calls are made before their latency counts.
            seeds: How many ciphertexts `decrypt` takes turns in.
            pause_seconds: How long each of the concurrent callers rests after a call;
                a test that counts failures and measures nothing spares the machine so.
            status_every_seconds: How long to rest between polls of Status; 0: no polls.
            timeout_seconds: The deadline of one call; 3 is the API server's default.
            name: For messages and the log.
        """
        options: dict[str, object] = {
            "socket": socket.absolute(),
            "mode": mode,
            "concurrency": concurrency,
            "seconds": seconds,
            "calls": calls,
            "warm-up": warm_up_seconds,
            "seeds": seeds,
            "pause": f"{pause_seconds}s",
            "status-every": f"{status_every_seconds}s",
            "timeout": f"{timeout_seconds}s",
        }
        arguments = (f"--{option}={value}" for option, value in options.items())
        self._process = ChildProcess(
            name, (kms_client_program(), "load", *arguments), directory=directory
        )
        self._is_bounded = bool(seconds or calls)
        self._within_seconds = seconds + warm_up_seconds + timeout_seconds + _END_SECONDS_MAX
        if calls:
            self._within_seconds += _COMMAND_SECONDS_MAX

    def start(self) -> None:
        """Start calling, and wait until a call was answered well.

        Raises:
            ProcessDiedError: The client ended, because nothing could be encrypted.
            DeadlineExceededError: Nothing was answered within 30 s.
        """
        self._process.log.unlink(missing_ok=True)
        self._process.start()
        try:
            wait_until(
                lambda: self.answered() > 0 or not self._process.is_running,
                what=f"{self._process.name} has a call answered",
                within_seconds=_READY_SECONDS_MAX,
            )
            # A short load may be over by now, which is as good.
            if self._result() is None:
                self._process.require_running()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the load in order; the result stays."""
        self._process.stop(grace_seconds=_END_SECONDS_MAX)

    def answered(self) -> int:
        """Tell how many calls were answered well so far, up to 0.1 s ago."""
        return self._last_told("answered")

    def failed(self) -> int:
        """Tell how many calls of the load failed so far, up to 0.1 s ago."""
        return self._last_told("failed")

    def wait_for(self, calls: int, *, within_seconds: float = 30) -> None:
        """Wait until so many more calls were answered well, as a proof that things go on.

        Raises:
            ProcessDiedError: The load ended.
            DeadlineExceededError: They were not.
        """
        wanted = self.answered() + calls
        self._process.wait_until(
            lambda: self.answered() >= wanted,
            what=f"{calls} more calls are answered",
            within_seconds=within_seconds,
        )

    def result(self) -> LoadResult:
        """Return what was counted, at the end of a bounded load or by ending another one.

        Raises:
            DeadlineExceededError: A bounded load does not come to its end.
            ControlPlaneError: The client failed; the message quotes its log.
        """
        if self._process.is_running and self._is_bounded:
            self._process.wait_for_exit(within_seconds=self._within_seconds)
        self.stop()
        result = self._result()
        if result is None:
            raise ControlPlaneError(f"The load has no result.\n{self._process.describe_log()}")
        return result

    def _result(self) -> LoadResult | None:
        lines = [line for line in self._said().splitlines() if line.startswith("{")]
        return LoadResult.parse(json.loads(lines[-1])) if lines else None

    def _last_told(self, what: str) -> int:
        told = re.findall(r"^answered .*\n", self._said(), re.MULTILINE)
        match = re.search(rf"{what} (\d+)", told[-1]) if told else None
        return int(match[1]) if match else 0

    def _said(self) -> str:
        log = self._process.log
        return log.read_text(errors="replace") if log.exists() else ""


def reseed(socket: Path, *, etcd_url: str, prefix: str, provider: str = "keyplane") -> int:
    """Give every encrypted object below a prefix of etcd a seed of its own.

    An API server makes a new seed at its start and when the key changes. So this is
    what etcd holds after as many of those, made in seconds and by the same code.

    Args:
        socket: Of the provider that encrypted them, and encrypts the new seeds.
        etcd_url: On the loopback address.
        prefix: Such as `/registry/secrets/default/`.
        provider: Its name in the EncryptionConfiguration.

    Returns:
        How many objects were written.

    Raises:
        CommandFailedError: A call failed, or an object is not the provider's.
    """
    done = subprocess.run(
        (
            *(kms_client_program(), "reseed", f"--socket={socket.absolute()}"),
            *(f"--name={provider}", f"--etcd={etcd_url}", f"--prefix={prefix}"),
        ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        # A proxy of the environment must not stand before etcd on the loopback address.
        env={"PATH": os.environ.get("PATH", ""), "HOME": os.environ.get("HOME", "")},
        timeout=_COMMAND_SECONDS_MAX,
        check=False,
    )
    if done.returncode != 0:
        raise CommandFailedError(f"kmsclient reseed: {done.stderr.strip()}")
    objects: int = json.loads(done.stdout)["objects"]
    return objects
