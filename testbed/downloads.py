"""What tests fetch from package registries: once, retried, and kept in the user's cache.

Everything lies below `${XDG_CACHE_HOME:-~/.cache}/keyplane/`, in a directory whose name
has the hash of what it was made from. So a changed lock file makes a new directory, and
an old one is never half of something else.
"""

import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from testbed.errors import BinaryUnavailableError, DeadlineExceededError
from testbed.processes import ChildProcess
from testbed.progress import BuildProgress

_PAUSE_SECONDS_MAX: Final = 20.0
_REPOSITORY: Final = Path(__file__).resolve().parent.parent
_TEMPORARY_PREFIX: Final = ".making-"


def cache_directory() -> Path:
    """Name the directory below which everything is kept; it may not exist yet."""
    # An empty or relative XDG_CACHE_HOME is invalid by its specification.
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".cache") / "keyplane"


def keep(
    name: str, made_from: Iterable[Path | str], make: Callable[[Path, BuildProgress], None]
) -> Path:
    """Return a directory of the cache, after making it if it is not there yet.

    Several processes may call it at once: one makes it, the others wait for it.

    Args:
        name: Path below the cache, such as `peers/go`.
        made_from: Files whose content, and texts that, decide whether what is there
            can be used.
        make: Fills an empty directory; the result appears only if it succeeds.

    Returns:
        The directory, which nobody may change.

    Raises:
        BinaryUnavailableError: `make` could not fetch or build something.
    """
    place = cache_directory() / f"{name}-{_digest(made_from)}"
    if place.is_dir():
        return place
    progress = BuildProgress()
    with exclusive(place.with_name(f".{place.name}.lock"), progress):
        if not place.is_dir():
            _make_aside(place, lambda directory: make(directory, progress))
    return place


@contextmanager
def exclusive(path: Path, progress: BuildProgress, *, busy: str = "") -> Iterator[None]:
    """Hold an exclusive lock; the kernel frees it when the process ends.

    Args:
        path: The file that is locked; made when missing, and left there.
        progress: Told when another process has the lock.
        busy: What it is told then; empty names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say(busy or f"Another process holds {path}; waiting for it.")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def python_installer() -> tuple[str, ...]:
    """Return the beginning of a command that installs Python packages: uv's, or pip's.

    Hashes are required, and dependencies are not followed.
    """
    options = ("install", "--no-deps", "--require-hashes")
    uv = shutil.which("uv") or shutil.which("uv", path=_REPOSITORY / ".cache" / "uv" / "bin")
    if uv:
        return (uv, "pip", *options, "--python", sys.executable)
    return (sys.executable, "-m", "pip", *options)


def fetch(
    command: tuple[str | Path, ...],
    title: str,
    *,
    log_directory: Path,
    progress: BuildProgress,
    environment: Mapping[str, str] | None = None,
    working_directory: Path | None = None,
    within_seconds: float = 300.0,
    attempts: int = 3,
) -> None:
    """Run a program that downloads something, and try again when it fails.

    Args:
        command: Program and arguments; it must be fit to be run again.
        title: What it does, for people: "Installing keyprotect 3.0.1".
        log_directory: Where its output is written.
        progress: Told about it.
        environment: The whole environment; None passes on our own.
        working_directory: None passes on our own.
        within_seconds: How long one attempt may take.
        attempts: How often it is run at most, with pauses of 2 to 20 s between.

    Raises:
        BinaryUnavailableError: It failed each time, or did not end; the message
            quotes its last lines.
    """
    child = ChildProcess(
        title.lower().replace(" ", "-"),
        command,
        directory=log_directory,
        environment=environment,
        working_directory=working_directory,
    )
    again = Retrying(
        stop=stop_after_attempt(attempts),
        wait=wait_exponential(multiplier=2, max=_PAUSE_SECONDS_MAX),
        retry=retry_if_exception_type(BinaryUnavailableError),
        reraise=True,
    )
    with progress.step(title, "lines of output") as report:

        def attempt() -> None:
            child.log.unlink(missing_ok=True)
            _run_once(child, title, within_seconds, lambda: report(child.count_log_lines()))

        again(attempt)


def _run_once(
    child: ChildProcess, title: str, within_seconds: float, meanwhile: Callable[[], None]
) -> None:
    with child:
        try:
            child.wait_for_exit(within_seconds=within_seconds, meanwhile=meanwhile)
        except DeadlineExceededError as fault:
            raise BinaryUnavailableError(
                f"{title} did not end within {within_seconds:g} s.\n{child.describe_log()}"
            ) from fault
        if child.exit_code != 0:
            raise BinaryUnavailableError(
                f"{title} failed: check the network and the package registries that this "
                f"machine is set up for, and try again.\n{child.describe_log()}"
            )


def _digest(made_from: Iterable[Path | str]) -> str:
    digest = hashlib.sha256()
    for part in made_from:
        content = part.encode() if isinstance(part, str) else part.read_bytes()
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()[:16]


def _make_aside(place: Path, make: Callable[[Path], None]) -> None:
    """Fill a directory beside its place, so that nobody ever sees half of it."""
    prefix = f"{_TEMPORARY_PREFIX}{place.name}-"
    for leftover in place.parent.glob(f"{prefix}*"):
        # Of a process that was killed: whoever holds the lock is alone here.
        shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=place.parent) as temporary:
        directory = Path(temporary, "made")
        directory.mkdir()
        make(directory)
        directory.rename(place)
