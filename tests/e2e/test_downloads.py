"""What is fetched from registries is made once, whole or not at all, and retried."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from testbed import downloads
from testbed.downloads import cache_directory, fetch, keep
from testbed.errors import BinaryUnavailableError
from testbed.progress import BuildProgress

pytestmark = pytest.mark.e2e


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no pauses between attempts."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(downloads, "_PAUSE_SECONDS_MAX", 0.0)
    return tmp_path / "cache" / "keyplane"


def _write(directory: Path, _: BuildProgress) -> None:
    with (directory / "made").open("x") as file:
        file.write("once")


def test_what_was_made_is_found_again(cache: Path) -> None:
    first = keep("peers/one", ("text",), _write)

    again = keep("peers/one", ("text",), lambda *_: pytest.fail("it was made twice"))

    assert first == again
    assert first.parent == cache / "peers"
    assert (first / "made").read_text() == "once"


def test_another_input_makes_another_directory(tmp_path: Path) -> None:
    lock_file = tmp_path / "lock"
    lock_file.write_text("one")
    first = keep("one", (lock_file,), _write)
    lock_file.write_text("two")

    assert keep("one", (lock_file,), _write) != first
    # Where one input ends and the next begins makes a difference.
    assert keep("one", ("a", "bc"), _write) != keep("one", ("ab", "c"), _write)


def test_a_failure_leaves_nothing_that_could_be_taken_for_the_whole() -> None:
    def fail(directory: Path, _: BuildProgress) -> None:
        (directory / "half").touch()
        raise BinaryUnavailableError("no network")

    with pytest.raises(BinaryUnavailableError, match="no network"):
        keep("one", ("text",), fail)

    assert not [path for path in cache_directory().iterdir() if path.is_dir()]
    assert (keep("one", ("text",), _write) / "made").exists()


def test_of_several_at_once_one_makes_it_and_the_others_wait() -> None:
    made = []

    def make(directory: Path, progress: BuildProgress) -> None:
        made.append(directory)
        _write(directory, progress)

    with ThreadPoolExecutor(4) as threads:
        places = set(threads.map(lambda _: keep("one", ("text",), make), range(4)))

    assert len(places) == len(made) == 1


def _attempts(log_directory: Path, *, succeed_at: int) -> tuple[str, ...]:
    """A command that fails until it is run for the so-many-eth time."""
    program = (
        "import pathlib, sys; count = pathlib.Path(sys.argv[1]); "
        "tries = int(count.read_text()) + 1 if count.exists() else 1; "
        "count.write_text(str(tries)); print('try', tries); "
        "sys.exit(tries < int(sys.argv[2]))"
    )
    return (sys.executable, "-c", program, str(log_directory / "count"), str(succeed_at))


def test_a_download_that_fails_is_tried_again(tmp_path: Path) -> None:
    command = _attempts(tmp_path, succeed_at=3)

    fetch(command, "Fetching", log_directory=tmp_path, progress=BuildProgress())

    assert (tmp_path / "count").read_text() == "3"


def test_the_last_failure_of_a_download_is_told_with_its_output(tmp_path: Path) -> None:
    command = _attempts(tmp_path, succeed_at=9)

    with pytest.raises(BinaryUnavailableError, match=r"Fetching failed: .*\n(.*\n)*try 3"):
        fetch(command, "Fetching", log_directory=tmp_path, progress=BuildProgress())


def test_a_download_that_hangs_is_ended(tmp_path: Path) -> None:
    command = (sys.executable, "-c", "import time; time.sleep(60)")

    with pytest.raises(BinaryUnavailableError, match="did not end within"):
        fetch(
            command,
            "Fetching",
            log_directory=tmp_path,
            progress=BuildProgress(),
            within_seconds=0.5,
            attempts=1,
        )
