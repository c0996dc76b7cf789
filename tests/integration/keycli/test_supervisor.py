"""``keyplane serve`` with several faces, on small programs instead of faces."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.loopback import free_port
from testbed.waiting import wait_until

SUPERVISOR = """
import asyncio, sys
from keycli.supervisor import Supervisor
given = iter(sys.argv[1:])
commands = {name: [sys.executable, "-c", program] for name, program in zip(given, given)}
sys.exit(asyncio.run(Supervisor(commands, delay_seconds=0.05).run()))
"""

TAKING_OVER = """
import asyncio, sys
from keycli.supervisor import Supervisor
given = iter(sys.argv[1:])
commands = {name: [sys.executable, "-c", program] for name, program in zip(given, given)}
supervisor = Supervisor(commands, delay_seconds=0.05, leader="provider", patient=True)
sys.exit(asyncio.run(supervisor.run()))
"""

FACE = """
import os, signal, sys, time
from keycli.supervisor import end_with_parent
end_with_parent(int(sys.argv[sys.argv.index("--parent") + 1]))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with open("{file}", "a") as pids:
    print(os.getpid(), file=pids)
while True:
    time.sleep(60)
"""

LISTENING_SUPERVISOR = """
import asyncio, socket, sys
from keycli.supervisor import Supervisor
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
command = [sys.executable, "-c", sys.argv[2], str(listener.fileno())]
supervisor = Supervisor({"worker": command}, delay_seconds=0.05, listeners=[listener])
sys.exit(asyncio.run(supervisor.run()))
"""

ONE_ANSWER = """
import os, socket, sys
accepted, _ = socket.socket(fileno=int(sys.argv[1])).accept()
accepted.sendall(str(os.getpid()).encode())
"""

SLOW_TO_END = """
import os, pathlib, signal, sys, time
listener, may_end = int(sys.argv[1]), pathlib.Path("{file}")
signal.signal(signal.SIGTERM, lambda *_: os.close(listener))
may_end.with_suffix(".up").touch()
while not may_end.exists():
    time.sleep(0.02)
"""

MISSING_SETUP = "import sys; sys.exit(2)"

ENDS_LATER = """
import pathlib, sys, time
while not pathlib.Path("{file}").exists():
    time.sleep(0.02)
sys.exit({code})
"""

SECONDS_MAX = 20


class Face:
    """A program that notes the process id of each of its runs."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.program = FACE.format(file=file)

    @property
    def pids(self) -> list[int]:
        return [int(pid) for pid in self._file.read_text().split()] if self._file.exists() else []

    @property
    def runs(self) -> bool:
        return bool(self.pids) and Path(f"/proc/{self.pids[-1]}").exists()


@pytest.fixture
def face(tmp_path: Path) -> Face:
    return Face(tmp_path / "face")


@pytest.fixture
def other(tmp_path: Path) -> Face:
    return Face(tmp_path / "other")


@pytest.fixture
def supervising(face: Face, other: Face) -> Iterator[subprocess.Popen[bytes]]:
    """A supervisor of two faces that run."""
    with start("face", face.program, "other", other.program) as supervisor:
        wait_for(lambda: face.runs and other.runs, "both faces")
        yield supervisor
        supervisor.kill()


def start(*names_and_programs: str, supervisor: str = SUPERVISOR) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", supervisor, *names_and_programs], stderr=subprocess.PIPE
    )


def wait_for(condition: object, what: str) -> None:
    wait_until(condition, what=what, within_seconds=SECONDS_MAX)  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_a_signal_ends_every_face_and_counts_as_an_orderly_end(
    supervising: subprocess.Popen[bytes], face: Face, other: Face, number: signal.Signals
) -> None:
    supervising.send_signal(number)

    assert supervising.wait(SECONDS_MAX) == 0
    assert not face.runs
    assert not other.runs


def test_a_face_that_dies_is_started_again_and_the_other_one_stays(
    supervising: subprocess.Popen[bytes], face: Face, other: Face
) -> None:
    os.kill(face.pids[0], signal.SIGKILL)

    wait_for(lambda: len(face.pids) == 2 and face.runs, "the second run")
    assert len(other.pids) == 1
    assert other.runs


def test_faces_end_with_the_supervisor_even_when_it_is_killed(
    supervising: subprocess.Popen[bytes], face: Face, other: Face
) -> None:
    supervising.kill()

    wait_for(lambda: not face.runs and not other.runs, "the end of both faces")


def test_a_face_whose_setup_is_wrong_stays_down_and_stops_no_other(
    face: Face, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    broken = f"import sys; print('run', file=open({str(runs)!r}, 'a')); sys.exit(2)"
    with start("broken", broken, "face", face.program) as supervisor:
        wait_for(lambda: runs.exists() and face.runs, "both faces")
        # The other one is started again meanwhile, after the pause that this one would have.
        for number in (2, 3):
            os.kill(face.pids[-1], signal.SIGKILL)
            wait_for(lambda number=number: len(face.pids) == number and face.runs, "another run")
        supervisor.send_signal(signal.SIGTERM)

        assert supervisor.wait(SECONDS_MAX) == 0

    assert runs.read_text() == "run\n"


def test_when_the_setup_of_all_is_wrong_it_ends_with_2() -> None:
    with start("one", MISSING_SETUP, "other", MISSING_SETUP) as supervisor:
        assert supervisor.wait(SECONDS_MAX) == 2


def test_a_face_that_lost_its_parent_before_it_looked_ends_at_once(face: Face) -> None:
    done = subprocess.run(
        [sys.executable, "-c", face.program, "--parent", "1"], timeout=SECONDS_MAX, check=False
    )

    assert done.returncode == 0
    assert face.pids == []


def test_when_the_provider_was_taken_over_all_end(face: Face, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    provider = ENDS_LATER.format(file=taken, code=76)
    with start("provider", provider, "face", face.program, supervisor=TAKING_OVER) as supervisor:
        wait_for(lambda: face.runs, "the face")
        taken.touch()

        assert supervisor.wait(SECONDS_MAX) == 0

    assert not face.runs


@pytest.mark.parametrize("code", [0, 75], ids=["in order", "a call hung"])
def test_a_provider_that_somebody_has_stopped_is_started_again(
    face: Face, tmp_path: Path, code: int
) -> None:
    stopped, runs = tmp_path / "stopped", tmp_path / "runs"
    provider = f"print('run', file=open({str(runs)!r}, 'a'))\n" + ENDS_LATER.format(
        file=stopped, code=code
    )
    with start("provider", provider, "face", face.program, supervisor=TAKING_OVER) as supervisor:
        wait_for(lambda: face.runs, "the face")
        stopped.touch()
        wait_for(lambda: runs.exists() and runs.read_text().count("run") > 1, "a second run")

        assert face.runs
        supervisor.terminate()
        assert supervisor.wait(SECONDS_MAX) == 0


def test_a_provider_that_dies_was_not_taken_over(face: Face, other: Face) -> None:
    programs = ("provider", face.program, "face", other.program)
    with start(*programs, supervisor=TAKING_OVER) as supervisor:
        wait_for(lambda: face.runs and other.runs, "both faces")
        os.kill(face.pids[0], signal.SIGKILL)

        wait_for(lambda: len(face.pids) == 2 and face.runs, "the second run")
        assert len(other.pids) == 1
        supervisor.terminate()
        assert supervisor.wait(SECONDS_MAX) == 0


def test_during_a_takeover_a_face_waits_for_what_the_former_one_still_has(
    face: Face, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    waiting = f"import sys; print('run', file=open({str(runs)!r}, 'a')); sys.exit(2)"
    programs = ("provider", face.program, "rest", waiting)
    with start(*programs, supervisor=TAKING_OVER) as supervisor:
        wait_for(lambda: runs.exists() and runs.read_text().count("run") > 2, "a third run")
        supervisor.terminate()

        assert supervisor.wait(SECONDS_MAX) == 0


@pytest.fixture
def port() -> int:
    return free_port()


def test_connections_wait_in_an_inherited_socket_for_the_next_run(port: int) -> None:
    """Each run answers one of them and ends."""
    with start_listening(port, ONE_ANSWER) as supervisor:
        wait_for(lambda: is_listened_on(port), "the socket")
        clients = [socket.create_connection(("127.0.0.1", port), SECONDS_MAX) for _ in range(3)]
        answers = {client.recv(100) for client in clients}
        for client in clients:
            client.close()
        supervisor.terminate()

        assert supervisor.wait(SECONDS_MAX) == 0

    assert len(answers) == 3


def test_nobody_waits_in_an_inherited_socket_once_the_end_has_begun(
    port: int, tmp_path: Path
) -> None:
    may_end = tmp_path / "may end"
    with start_listening(port, SLOW_TO_END.format(file=may_end)) as supervisor:
        wait_for(may_end.with_suffix(".up").exists, "the worker")
        assert is_listened_on(port)
        supervisor.terminate()

        wait_for(lambda: not is_listened_on(port), "the end of the socket")
        assert supervisor.poll() is None
        may_end.touch()
        assert supervisor.wait(SECONDS_MAX) == 0


def start_listening(port: int, program: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", LISTENING_SUPERVISOR, str(port), program], stderr=subprocess.DEVNULL
    )


def is_listened_on(port: int) -> bool:
    """Look without connecting, because a connection would be answered."""
    lines = Path("/proc/net/tcp").read_text().splitlines()
    return any(f":{port:04X} " in line and " 0A " in line for line in lines)
