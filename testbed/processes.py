"""Child processes with a log file, a deadline and a sure end.

Used for every server of the control plane, for the Go builds, and by tests that
run a part of the product as a process.
"""

import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from testbed.errors import ControlPlaneError, ProcessDiedError
from testbed.startable import Startable
from testbed.waiting import wait_until

_TAIL_LINES: Final = 15

# A child dies when its parent does, even by SIGKILL: the kernel sends it the
# signal named by PR_SET_PDEATHSIG. `setpriv` (util-linux, on every Debian and
# Ubuntu) sets it and then becomes the program by exec, so the process id is
# the program's. That is safe with threads in the parent, gRPC's included,
# because no Python code runs between fork and exec, as preexec_fn would.
_DIE_WITH_PARENT: Final = ("setpriv", "--pdeathsig", "KILL", "--")

# The kernel's "parent" is the *thread* that started the child. All children
# are therefore started by one thread that lives as long as the interpreter; a
# cluster started from a short-lived thread would otherwise die with it.
_SPAWNER: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="testbed-spawner")


class ChildProcess(Startable):
    """One program, run as a child that cannot outlive this process.

    It is stopped at the end of a `with` block, by SIGTERM first. A stopped one
    can be started again; it then continues the same log file.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        directory: Path,
        environment: Mapping[str, str] | None = None,
        working_directory: Path | None = None,
    ) -> None:
        """Describe the process without starting it.

        Args:
            name: What people call it; also the stem of the log file's name.
            command: Program and arguments. No secret may be in it: every user
                of the machine can read it.
            directory: Where `<name>.log` is written; made when missing.
            environment: The whole environment; None passes on our own.
            working_directory: None passes on our own.
        """
        self.name = name
        self.command = tuple(str(part) for part in command)
        self.log = directory / f"{name}.log"
        self._environment = dict(environment) if environment is not None else None
        self._working_directory = working_directory
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process_id(self) -> int | None:
        """The process id, or None when it was not started or was stopped."""
        return self._process.pid if self._process else None

    @property
    def exit_code(self) -> int | None:
        """The exit code (negative: the signal), or None while it runs."""
        return self._process.poll() if self._process else None

    @property
    def is_running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process; its output is appended to the log file.

        Raises:
            ControlPlaneError: It already runs, or `setpriv` is missing.
        """
        if self.is_running:
            raise ControlPlaneError(f"{self.name} already runs.")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._process = _SPAWNER.submit(self._spawn).result()

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as output:
            try:
                return subprocess.Popen(
                    (*_DIE_WITH_PARENT, *self.command),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=self._environment,
                    cwd=self._working_directory,
                    # Ctrl-C must reach only us, so that children stop in order.
                    start_new_session=True,
                )
            except FileNotFoundError as fault:
                raise ControlPlaneError(
                    f"Cannot start {self.name}: {fault}. `setpriv` is in util-linux."
                ) from fault

    def require_running(self) -> None:
        """Do nothing as long as the process runs.

        Raises:
            ProcessDiedError: It was never started, was stopped, or ended.
        """
        if self._process is None:
            raise ProcessDiedError(f"{self.name} is not started.")
        code = self._process.poll()
        if code is not None:
            raise ProcessDiedError(
                f"{self.name} ended with exit code {code}.\n{self.describe_log()}"
            )

    def wait_until(
        self, condition: Callable[[], bool], *, what: str, within_seconds: float
    ) -> None:
        """Wait until a condition holds, and fail at once if this process ends.

        Args:
            condition: See `testbed.waiting.wait_until`.
            what: The condition in words.
            within_seconds: The deadline, counted from now.

        Raises:
            ProcessDiedError: The process ended.
            DeadlineExceededError: The condition still does not hold.
        """
        wait_until(condition, what=what, within_seconds=within_seconds, watch=(self,))

    def wait_for_exit(
        self, *, within_seconds: float, meanwhile: Callable[[], None] | None = None
    ) -> None:
        """Wait until the process ends by itself; `exit_code` then tells how.

        Args:
            within_seconds: The deadline, counted from now.
            meanwhile: Called every 0.1 s and once at the end, for progress.

        Raises:
            DeadlineExceededError: It still runs.
        """

        def has_ended() -> bool:
            is_running = self.is_running
            if meanwhile:
                meanwhile()
            return not is_running

        wait_until(has_ended, what=f"{self.name} ends", within_seconds=within_seconds)

    def stop(self, *, grace_seconds: float = 15.0) -> int | None:
        """Ask the process to end by SIGTERM, and kill it if it does not.

        Args:
            grace_seconds: How long it may take to end in order.

        Returns:
            The exit code (negative: the signal); None when it was not started.
        """
        if self._process is None:
            return None
        self._process.terminate()
        try:
            self._process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
        return self._forget()

    def kill(self) -> int | None:
        """End the process at once by SIGKILL, as a crash would.

        Returns:
            The exit code; None when it was not started.
        """
        if self._process is None:
            return None
        self._process.kill()
        return self._forget()

    def _forget(self) -> int | None:
        process, self._process = self._process, None
        return process.wait() if process else None

    def log_tail(self, lines: int = _TAIL_LINES) -> str:
        """Read the last lines of the log.

        Args:
            lines: How many at most.

        Returns:
            The lines, or an empty string when there is no log yet.
        """
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def count_log_lines(self) -> int:
        """Count the lines written so far, as a measure of progress."""
        return self.log.read_bytes().count(b"\n") if self.log.exists() else 0

    def describe_log(self) -> str:
        """Name the log file and quote its last lines, for an error message."""
        return f"Last lines of {self.log}:\n{self.log_tail() or '(empty)'}"
