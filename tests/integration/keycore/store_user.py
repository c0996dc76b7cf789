"""A process that works on the store of an installation, one order for each line it reads.

Its settings come from the environment, as those of every process do. An order is a JSON
object with the name of a method of :class:`Worker` and its arguments; the answer is one too,
with what it returned or the name of the error, and how many seconds it took.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from keycore.bootstrap import Core, open_core
from keycore.domain.ids import InstanceId, KeyId, new_uuid
from keycore.errors import KeyplaneError
from keycore.initialise import initialise
from keycore.ports import KeyFilter
from keycore.service.caller import Caller
from keycore.service.creation import NewKey
from keycore.settings import Settings

CALLER = Caller("rest", "issuer:alice")

RETRY_SECONDS = 0.05

ROUNDS_OF_A_DELETION = 4
"""One key of so many is deleted under load."""


def main() -> None:
    """Make an installation, or open it and do as told until standard input ends."""
    # Standard output belongs to the answers.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    settings = Settings()
    if sys.argv[1:] == ["init"]:
        initialise(settings, Caller("cli", "tests"))
        return
    with open_core(settings, "rest") as core:
        worker = Worker(core)
        answer({"ready": True})
        for line in sys.stdin:
            answer(worker.obey(json.loads(line)))


def answer(facts: dict[str, Any]) -> None:
    """Write one line."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


class Worker:
    """What the process can do."""

    def __init__(self, core: Core) -> None:
        """Work in the installation's one instance."""
        self._core = core
        self._home: InstanceId = core.instances.all()[0].id
        self._load: Load | None = None

    def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        """Carry out one order."""
        started = time.monotonic()
        try:
            answer = {"value": getattr(self, order.pop("do"))(**order)}
        except KeyplaneError as error:
            answer = {"error": type(error).__name__}
        return {**answer, "seconds": time.monotonic() - started}

    def create(self, idempotency_key: str | None = None) -> str:
        """Make a key."""
        return str(
            self._core.keys.create(
                CALLER, self._home, NewKey("name"), idempotency_key=idempotency_key
            ).id
        )

    def rotate(self, key_id: str, marker: str | None = None, times: int = 1) -> None:
        """Rotate a key, perhaps several times."""
        for _ in range(times):
            self._core.keys.rotate(CALLER, KeyId(key_id), marker=marker)

    def suspend(self, key_id: str) -> None:
        """Suspend a key."""
        self._core.keys.suspend(CALLER, KeyId(key_id))

    def delete(self, key_id: str) -> None:
        """Delete a key."""
        self._core.keys.delete(CALLER, KeyId(key_id))

    def wrap(self, key_id: str) -> str:
        """Wrap the key's id under the key."""
        wrapped = self._core.wrapping.wrap(CALLER, self._home, KeyId(key_id), key_id.encode())
        return wrapped.ciphertext.hex()

    def unwrap(self, key_id: str, ciphertext: str) -> str:
        """Unwrap it again; returns the version that it was wrapped under."""
        opened = self._core.wrapping.unwrap(
            CALLER, self._home, KeyId(key_id), bytes.fromhex(ciphertext)
        )
        assert opened.plaintext == key_id.encode()
        return str(opened.version.id)

    def version_of(self, key_id: str) -> str:
        """The version that a key wraps under now, as this process sees it."""
        wrapped = self._core.wrapping.wrap(CALLER, self._home, KeyId(key_id))
        return str(wrapped.version.id)

    def wrap_for(self, key_id: str, seconds: float) -> int:
        """Wrap without a pause for so long; returns how often."""
        end, count = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            self.wrap(key_id)
            count += 1
        return count

    def versions(self, key_id: str) -> list[str]:
        """The ids of a key's versions, as the store has them now."""
        return [str(version.id) for version in self._core.keys.get(CALLER, KeyId(key_id)).versions]

    def count(self) -> int:
        """How many keys there are, deleted ones excepted."""
        return self._core.keys.count(CALLER, KeyFilter())

    def load(self, threads: int) -> None:
        """Begin to make, use, rotate and delete keys in so many threads."""
        self._load = Load(self, threads)

    def progress(self) -> int:
        """How many rounds of the load have been completed."""
        assert self._load
        return self._load.rounds

    def halt(self) -> dict[str, Any]:
        """End the load; returns what was acknowledged, and how long calls took."""
        assert self._load
        return self._load.halt()

    def broken(self, acknowledged: dict[str, Any]) -> list[str]:
        """Look for everything that was acknowledged; returns what is not there."""
        return [
            f"{fact}: {key_id}"
            for key_id, kept in acknowledged.items()
            for fact, holds in self._facts(key_id, kept)
            if not holds
        ]

    def _facts(self, key_id: str, kept: dict[str, Any]) -> Iterator[tuple[str, bool]]:
        if kept["deleted"]:
            yield "deleted", self._error_of(self.wrap, key_id) == "KeyDeletedError"
            return
        for ciphertext in kept["ciphertexts"]:
            yield "opens", self._error_of(self.unwrap, key_id, ciphertext) is None
        if kept["rotations"]:
            yield "rotated", len(self.versions(key_id)) > kept["rotations"]

    def _error_of(self, call: Callable[..., Any], *arguments: Any) -> str | None:
        try:
            call(*arguments)
        except KeyplaneError as error:
            return type(error).__name__
        return None


class Load:
    """Threads that use keys, and remember what was promised to them."""

    def __init__(self, worker: Worker, threads: int) -> None:
        self.rounds = 0
        self._worker = worker
        self._halted = threading.Event()
        self._never = threading.Event()
        self._lock = threading.Lock()
        self._keys: dict[str, dict[str, Any]] = {}
        self._slowest = 0.0
        self._errors: dict[str, int] = {}
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def halt(self) -> dict[str, Any]:
        """End it; a round that was begun is completed, so the store must be there."""
        self._halted.set()
        for thread in self._threads:
            thread.join()
        return {"keys": self._keys, "slowest": self._slowest, "errors": self._errors}

    def _run(self) -> None:
        while not self._halted.is_set():
            self._round()
            with self._lock:
                self.rounds += 1

    def _round(self) -> None:
        """The life of one key. An order without an answer is repeated, as a caller would."""
        worker, name = self._worker, new_uuid()
        key_id = self._insist(lambda: worker.create(idempotency_key=name))
        kept: dict[str, Any] = {"ciphertexts": [], "rotations": 0, "deleted": False}
        with self._lock:
            self._keys[key_id] = kept
        kept["ciphertexts"].append(self._insist(lambda: worker.wrap(key_id)))
        self._insist(lambda: worker.rotate(key_id, marker="once"))
        kept["rotations"] += 1
        kept["ciphertexts"].append(self._insist(lambda: worker.wrap(key_id)))
        self._insist(lambda: worker.unwrap(key_id, kept["ciphertexts"][0]))
        if len(self._keys) % ROUNDS_OF_A_DELETION == 0:
            self._insist(lambda: worker.delete(key_id), done="KeyDeletedError")
            kept["deleted"] = True

    def _insist(self, call: Callable[[], Any], done: str = "") -> Any:
        while True:
            with self._timed():
                try:
                    return call()
                except KeyplaneError as error:
                    name = type(error).__name__
            if name == done:
                return None
            with self._lock:
                self._errors[name] = self._errors.get(name, 0) + 1
            # Whoever repeats at once is a storm.
            self._never.wait(RETRY_SECONDS)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        started = time.monotonic()
        yield
        self._slowest = max(self._slowest, time.monotonic() - started)


if __name__ == "__main__":
    main()
