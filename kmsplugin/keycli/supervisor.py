"""Keeps one child process for each face, or for each worker, running until a signal ends all.

Every child is a program of its own, started afresh: a PKCS#11 module must be
loaded after a fork, and one face's fault must not stop the other.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from keycli.errors import ExitCode

DELAY_SECONDS_MAX = 30.0
"""Longest pause before a face is started again."""

STEADY_SECONDS = 60.0
"""A face that ran this long starts with the shortest pause again."""

STOP_SECONDS = 75.0
"""How long a face may take to end after a signal; the operator takes up to 60."""

_PR_SET_PDEATHSIG = 1

_log = structlog.get_logger(__name__)


def supervise(
    commands: Mapping[str, Sequence[str]],
    *,
    listeners: Sequence[socket.socket] = (),
    leader: str = "",
    patient: bool = False,
) -> int:
    """Run each command in a process of its own until SIGTERM or SIGINT.

    The option ``--parent PID`` is added, by which the child learns whose end is
    its own end.

    Args:
        commands: command lines by what they serve.
        listeners: as in :class:`Supervisor`.
        leader: as there.
        patient: as there.

    Returns:
        0 after a signal or a takeover of the leader, 2 when every child ended with 2: all
        must be mended by hand.
    """
    supervisor = Supervisor(commands, listeners=listeners, leader=leader, patient=patient)
    return asyncio.run(supervisor.run())


@dataclass
class Supervisor:
    """The children, and what keeps them running.

    Attributes:
        delay_seconds: first pause before a face is started again; it doubles each time.
        listeners: sockets that every child inherits, each under its own number here.
            Connections wait in them while a child is started again, and as soon as all
            end nobody shall wait any more, so they are closed then.
        leader: the child that ends all when it was taken over (exit code 76): another
            installation of the same faces has taken its place.
        patient: whether a setup that is wrong may be the former installation's doing,
            such as a port that it has not left yet. In the first minute every child is
            then started again, whatever its exit code.
    """

    commands: Mapping[str, Sequence[str]]
    delay_seconds: float = 1.0
    listeners: Sequence[socket.socket] = ()
    leader: str = ""
    patient: bool = False
    _began: float = field(default_factory=time.monotonic)
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _children: dict[str, Process] = field(default_factory=dict)

    async def run(self) -> int:
        """Run until a signal, a takeover of the leader, or a wrong setup of every child."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        await asyncio.gather(*(self._keep(face) for face in self.commands))
        return ExitCode.OK if self._stop.is_set() else ExitCode.SETUP

    async def _keep(self, face: str) -> None:
        failures = 0
        while not self._stop.is_set():
            started = time.monotonic()
            code = await self._run_once(face)
            if self._stop.is_set():
                return
            if face == self.leader and code == ExitCode.TAKEN_OVER:
                _log.info("its place was taken, so everything ends here", serves=face)
                self._end()
                return
            if code == ExitCode.SETUP and not self._may_pass():
                # A fault in the policy for REST must not keep etcd from being read.
                _log.error("must be mended by hand, and is not started again", serves=face)
                return
            steady = time.monotonic() - started >= STEADY_SECONDS
            failures = 0 if steady else failures + 1
            await self._pause(face, code, delay_after(failures, self.delay_seconds))

    async def _run_once(self, face: str) -> int:
        child = await asyncio.create_subprocess_exec(
            *self.commands[face],
            "--parent",
            str(os.getpid()),
            stdin=DEVNULL,
            pass_fds=[listener.fileno() for listener in self.listeners],
            # Ctrl-C then reaches this process alone, and each child gets one signal.
            process_group=0,
        )
        self._children[face] = child
        _log.info("started", serves=face, pid=child.pid)
        if self._stop.is_set():
            _signal(child, signal.SIGTERM)
        try:
            return await child.wait()
        finally:
            del self._children[face]

    async def _pause(self, face: str, code: int, seconds: float) -> None:
        _log.warning("ended and is started again", serves=face, exit_code=code, seconds=seconds)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    def _may_pass(self) -> bool:
        return self.patient and time.monotonic() - self._began < STEADY_SECONDS

    def _end(self) -> None:
        self._stop.set()
        for listener in self.listeners:
            listener.close()
        for child in self._children.values():
            _signal(child, signal.SIGTERM)
        asyncio.get_running_loop().call_later(STOP_SECONDS, self._kill)

    def _kill(self) -> None:
        for face, child in self._children.items():
            _log.error("did not end in time and is killed", serves=face, pid=child.pid)
            _signal(child, signal.SIGKILL)


def delay_after(failures: int, first: float) -> float:
    """Return the pause in seconds after so many failures in a row, 30 at most."""
    return min(first * 2.0 ** min(max(failures - 1, 0), 10), DELAY_SECONDS_MAX)


def end_with_parent(parent: int) -> None:
    """Let the kernel send SIGTERM to this process when its parent is gone (``prctl(2)``)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    # The parent may have died before the line above, and then no signal comes.
    if os.getppid() != parent:
        sys.exit(ExitCode.OK)


def _signal(child: Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        child.send_signal(number)
