"""An installation on a SoftHSM2 token and PostgreSQL, and the processes that work in it."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from testbed.postgresql import PostgreSql
from testbed.waiting import wait_until
from tests.integration.keycore import store_user

ANSWER_SECONDS = 30.0
"""How long a test waits for an answer; a process that takes longer hangs."""

CALL_SECONDS_MAX = 5.0
"""The deadline of two seconds; one more, so that the server's own word comes first; and the
two that the driver gives each host of a list at the least."""

TEMPLATE = "installed"

REPOSITORY = Path(__file__).parents[3]


class StoreUser:
    """One process of ``store_user.py``."""

    def __init__(self, environment: dict[str, str], *arguments: str) -> None:
        """Start it; :meth:`ready` waits until it has opened its store."""
        self.process = subprocess.Popen(
            [sys.executable, store_user.__file__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment, "PYTHONPATH": str(REPOSITORY)},
        )
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self.process.stdin
        assert self.process.stdout
        if kind is not None:
            self.process.kill()
        self.process.stdin.close()
        try:
            self.process.wait(ANSWER_SECONDS)
        finally:
            self.process.kill()
            self.process.wait()
            self._reader.join()
            self.process.stdout.close()

    def ready(self) -> Self:
        """Wait until it takes orders."""
        assert self.answer() == {"ready": True}
        return self

    def tell(self, order: str, **arguments: Any) -> None:
        """Give an order without waiting for its answer."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"do": order, **arguments}) + "\n")
        self.process.stdin.flush()

    def answer(self, within_seconds: float = ANSWER_SECONDS) -> dict[str, Any]:
        """Return the answer to the oldest order that has none yet."""
        line = self._answers.get(timeout=within_seconds)
        assert line, f"the process ended with {self.process.wait()}"
        return dict(json.loads(line))

    def try_to(self, order: str, **arguments: Any) -> dict[str, Any]:
        """Give an order; returns the answer, which may be an error."""
        self.tell(order, **arguments)
        return self.answer()

    def do(self, order: str, **arguments: Any) -> Any:
        """Give an order that must succeed; returns its value."""
        answer = self.try_to(order, **arguments)
        assert "error" not in answer, answer
        return answer["value"]

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._answers.put(line)
        self._answers.put("")


class Site:
    """A token with an installation, of which every database is a copy.

    Attributes:
        server: where its databases are.
        deadline_seconds: how long a process waits for an answer of the database.
    """

    def __init__(
        self, state_dir: Path, server: PostgreSql, *, deadline_seconds: float = 2.0
    ) -> None:
        """Make token and template."""
        self.server = server
        self.deadline_seconds = deadline_seconds
        self._state_dir = state_dir
        connection = server.create_database(TEMPLATE)
        with StoreUser(self.environment(connection), "init") as made:
            assert made.process.wait(ANSWER_SECONDS) == 0

    def environment(self, connection: str) -> dict[str, str]:
        """The settings of a process."""
        return {
            "KEYPLANE_STATE_DIR": str(self._state_dir),
            "KEYPLANE_STORE__POSTGRESQL": connection,
            "KEYPLANE_STORE__PASSWORD_FILE": str(self.server.password_file),
            "KEYPLANE_STORE__DEADLINE": f"PT{self.deadline_seconds:g}S",
        }

    def remove(self) -> None:
        """Give the template's name back to the server."""
        self.server.drop_database(TEMPLATE)

    @contextmanager
    def database(self, name: str) -> Iterator[str]:
        """The name of a fresh copy of the installation's database."""
        self.server.create_database(name, template=TEMPLATE)
        yield name
        self.server.drop_database(name)

    @contextmanager
    def users(self, connection: str, count: int) -> Iterator[list[StoreUser]]:
        """So many processes on one database."""
        with ExitStack() as stack:
            started = [
                stack.enter_context(StoreUser(self.environment(connection))) for _ in range(count)
            ]
            yield [user.ready() for user in started]


def at_once(users: Sequence[StoreUser], order: str, **arguments: Any) -> list[dict[str, Any]]:
    """Give several processes the same order; returns what each answered."""
    for user in users:
        user.tell(order, **arguments)
    return [user.answer() for user in users]


class LoadedSite:
    """Processes under load, and what they were promised.

    Attributes:
        users: the processes.
        keys_before: how many keys there were before.
        slowest: seconds that the slowest call took; after :meth:`halt`.
        errors: names of all errors; after :meth:`halt`.
    """

    def __init__(self, users: Sequence[StoreUser], *, threads: int = 3) -> None:
        """Begin the load, and wait until it runs."""
        self.users = users
        self.keys_before = int(users[0].do("count"))
        for user in users:
            user.do("load", threads=threads)
        self.wait_for_progress(what="the load runs")

    def wait_for_progress(
        self, *, what: str, rounds: int = 3, within_seconds: float = ANSWER_SECONDS
    ) -> None:
        """Wait until every process has completed some more rounds."""
        for user in self.users:
            wanted = user.do("progress") + rounds
            wait_until(_reached(user, wanted), what=what, within_seconds=within_seconds)

    def check_promises(self) -> None:
        """End the load, and look for everything that was acknowledged."""
        self.wait_for_progress(what="all processes go on")
        acknowledged = self.halt()
        for user in self.users:
            assert user.do("broken", acknowledged=acknowledged) == []
        living = [kept for kept in acknowledged.values() if not kept["deleted"]]
        # Whoever got no answer has asked again, and nothing was made twice.
        assert self.users[0].do("count") == self.keys_before + len(living)
        assert self.errors <= {"StoreUnavailableError", "StoreUnconfirmedError"}
        assert self.slowest < CALL_SECONDS_MAX

    def halt(self) -> dict[str, dict[str, Any]]:
        """End the load; returns what was acknowledged, by key."""
        halted = [answer["value"] for answer in at_once(self.users, "halt")]
        self.slowest = max(float(each["slowest"]) for each in halted)
        self.errors = {name for each in halted for name in each["errors"]}
        return {key_id: kept for each in halted for key_id, kept in each["keys"].items()}


def _reached(user: StoreUser, rounds: int) -> Callable[[], bool]:
    return lambda: user.do("progress") >= rounds
