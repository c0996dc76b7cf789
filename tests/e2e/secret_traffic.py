"""Clients that write and read Secrets all the time, and remember how each attempt ended."""

from __future__ import annotations

import base64
import json
import random
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from testbed.apiserver import ApiServer
from testbed.startable import Startable
from testbed.waiting import wait_until

_SECRETS = "/api/v1/namespaces/default/secrets"

_PAUSE_SECONDS = 0.4
"""Between two attempts of one client, so that several API servers fit on a small machine."""


@dataclass(frozen=True)
class Attempt:
    """One write or read.

    Attributes:
        at: when it began, in monotonic seconds.
        fault: what its caller was told; empty when it succeeded.
    """

    at: float
    name: str
    fault: str = ""


def between(attempts: Iterable[Attempt], first: float, last: float) -> list[Attempt]:
    """Return the attempts that began in this time."""
    return [attempt for attempt in attempts if first <= attempt.at <= last]


def failed(attempts: Iterable[Attempt]) -> list[Attempt]:
    """Return the attempts that failed."""
    return [attempt for attempt in attempts if attempt.fault]


class SecretTraffic(Startable):
    """One writer and one reader of one API server."""

    def __init__(self, apiserver: ApiServer, label: str, *, known: list[str]) -> None:
        """Prepare them.

        Args:
            apiserver: Whom they talk to.
            label: Begins the names of their Secrets.
            known: Names of all Secrets that were written, by whomever: the reader takes
                any of them, and the writer adds its own.
        """
        self.writes: list[Attempt] = []
        self.reads: list[Attempt] = []
        self._apiserver = apiserver
        self._label = label
        self._known = known
        self._stopping = threading.Event()
        self._threads = ThreadPoolExecutor(2, thread_name_prefix=label)

    def start(self) -> None:
        """Begin; the first Secret is there when this returns, if it can be written."""
        self.writes.append(self._write())
        self._threads.submit(self._repeat, self._write, self.writes)
        self._threads.submit(self._repeat, self._read, self.reads)

    def stop(self) -> None:
        """End when the running attempts have ended."""
        self._stopping.set()
        self._threads.shutdown()

    def await_write(self, *, after: float, within_seconds: float = 60) -> Attempt:
        """Wait for a write that began after a point in time and succeeded."""

        def newer() -> list[Attempt]:
            return [write for write in self.writes if write.at > after and not write.fault]

        wait_until(lambda: bool(newer()), what="a new Secret", within_seconds=within_seconds)
        return newer()[0]

    @property
    def newest(self) -> str:
        """The Secret that was written last."""
        return next(write.name for write in reversed(self.writes) if not write.fault)

    def await_reads(self, count: int, *, after: float) -> None:
        """Wait until so many reads have begun after a point in time."""
        wait_until(
            lambda: sum(read.at > after for read in self.reads) >= count,
            what=f"{count} reads",
            within_seconds=60,
        )

    def _repeat(self, attempt: Callable[[], Attempt], into: list[Attempt]) -> None:
        while not self._stopping.wait(_PAUSE_SECONDS):
            into.append(attempt())

    def _write(self) -> Attempt:
        name = f"{self._label}-{len(self.writes)}"
        at = time.monotonic()
        fault = _told(lambda: self._apiserver.post(_SECRETS, _secret(name)))
        if not fault:
            self._known.append(name)
        return Attempt(at, name, fault)

    def _read(self) -> Attempt:
        name = random.choice(self._known)
        at = time.monotonic()
        return Attempt(at, name, read_fault(self._apiserver, name))


def read_fault(apiserver: ApiServer, name: str) -> str:
    """Read a Secret and return what is wrong with the answer; empty for nothing."""
    return _told(lambda: apiserver.get(f"{_SECRETS}/{name}"), lambda body: _wrong_text(body, name))


def unreadable(apiserver: ApiServer, names: Iterable[str]) -> list[str]:
    """Return those of the Secrets that are not in the API server's list as they were written."""
    status, body = apiserver.get(_SECRETS)
    items = json.loads(body)["items"] if status == HTTPStatus.OK else []
    texts = {item["metadata"]["name"]: _text_of(item) for item in items}
    return [name for name in names if texts.get(name) != name]


def _wrong_text(body: str, name: str) -> str:
    text = _text_of(json.loads(body))
    return "" if text == name else f"holds {text}"


def _text_of(secret: Any) -> str:
    return base64.b64decode(secret["data"]["text"]).decode()


def _right(_body: str) -> str:
    return ""


def _told(call: Callable[[], tuple[int, str]], check: Callable[[str], str] = _right) -> str:
    try:
        status, body = call()
    except OSError as fault:
        return repr(fault)
    return check(body) if status in (HTTPStatus.OK, HTTPStatus.CREATED) else f"{status}: {body}"


def _secret(name: str) -> dict[str, object]:
    """Return a Secret whose text is its own name, so that a wrong one would be noticed."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "stringData": {"text": name},
    }
