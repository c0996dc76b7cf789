"""``keyplane serve rest`` as processes: one, several, and what happens when one of them ends."""

from __future__ import annotations

import os
import re
import signal
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.loopback import HOST
from testbed.processes import ChildProcess
from testbed.rest import RestService
from testbed.waiting import wait_until
from tests.integration.keyrest.crowd import Crowd
from tests.integration.keyrest.raw_client import RawClient, get

SECONDS_MAX = 30


def workers_of(process: ChildProcess) -> list[int]:
    """Return the process ids of the children."""
    pid = process.process_id
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def address_of(service: RestService) -> tuple[str, int]:
    return HOST, int(service.root_url.rpartition(":")[2])


def tls_of(service: RestService) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=service.ca_file)


def ready(service: RestService) -> list[str]:
    """Return the log lines of processes that have begun to serve."""
    return re.findall(r"serving REST .*", service.process.log.read_text())


def load(service: RestService) -> Crowd:
    return Crowd(address_of(service), tls_of(service), get("/livez"), size=4)


def wait_for_answers(crowd: Crowd, count: int = 100) -> None:
    """Wait until so many more requests have been answered."""
    wanted = crowd.answered + count
    wait_until(lambda: crowd.answered >= wanted, what="answers", within_seconds=SECONDS_MAX)


def two_workers(directory: Path) -> Iterator[RestService]:
    with RestService(directory, options={"workers": 2}) as service:
        wait_for_ready(service, 2)
        yield service


def wait_for_ready(service: RestService, count: int) -> None:
    """Wait until so many processes have begun to serve since the first start."""
    wait_until(
        lambda: len(ready(service)) >= count, what="all are ready", within_seconds=SECONDS_MAX
    )


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short path, because a unix socket's is part of the settings."""
    with tempfile.TemporaryDirectory(prefix="kp-") as directory:
        yield Path(directory)


@pytest.fixture
def single(directory: Path) -> Iterator[RestService]:
    with RestService(directory) as service:
        yield service


@pytest.fixture
def pair(directory: Path) -> Iterator[RestService]:
    """A service with two workers, which the test may end."""
    yield from two_workers(directory)


@pytest.fixture(scope="module")
def shared() -> Iterator[RestService]:
    """The same for all tests that leave two workers running."""
    with tempfile.TemporaryDirectory(prefix="kp-") as directory:
        yield from two_workers(Path(directory))


# --- one process -----------------------------------------------------------------


def test_no_request_is_lost_when_a_single_process_is_restarted(single: RestService) -> None:
    pid = single.process.process_id
    assert pid is not None
    with load(single) as crowd:
        wait_for_answers(crowd)
        os.kill(pid, signal.SIGTERM)
        # Who sends callers here shall send them elsewhere, while these are answered.
        wait_until(lambda: says_running(single) == "failed", what="the end", within_seconds=5)
        assert single.process.stop() == 0
        single.process.start()
        wait_for_answers(crowd)

    assert crowd.lost == []


def says_running(service: RestService) -> str:
    with RawClient(address_of(service), tls_of(service)) as client:
        return str(client.ask(get("/readyz")).json["checks"]["running"])


def test_a_second_instance_by_mistake_is_refused_and_takes_nothing(single: RestService) -> None:
    with ChildProcess("second", single.process.command, directory=single.directory) as second:
        second.wait_for_exit(within_seconds=SECONDS_MAX)

        assert second.exit_code == 2
        assert f"another process listens on port {address_of(single)[1]}" in second.log_tail()
        assert "rest.port" in second.log_tail()
    assert single.is_ready()

    pid = single.process.process_id
    assert pid is not None
    os.kill(pid, signal.SIGINT)
    single.process.wait_for_exit(within_seconds=SECONDS_MAX)
    assert single.process.exit_code == 0


def test_port_0_takes_a_free_one_and_the_log_names_it(directory: Path) -> None:
    service = RestService(directory, options={"port": 0})
    service._install()
    with service.process:
        wait_for_ready(service, 1)
        [line] = ready(service)
        found = re.search(r"url=https://127\.0\.0\.1:(\d+)", line)
        assert found is not None
        with RawClient((HOST, int(found[1])), tls_of(service)) as client:
            assert client.ask(get("/livez")).status == 200


# --- several workers ----------------------------------------------------------------


def test_workers_share_the_connections(shared: RestService) -> None:
    workers = workers_of(shared.process)
    before = [sockets_of(pid) for pid in workers]
    clients = [RawClient(address_of(shared), tls_of(shared)) for _ in range(40)]

    shares = [sockets_of(pid) - count for pid, count in zip(workers, before, strict=True)]

    for client in clients:
        client.close()
    # A fair coin gives one side less than 8 of 40 once in 20,000 times.
    assert min(shares) >= 8


def sockets_of(pid: int) -> int:
    links = Path(f"/proc/{pid}/fd").iterdir()
    return sum(str(link.readlink()).startswith("socket:") for link in links)


def test_no_request_is_lost_when_a_worker_is_restarted(shared: RestService) -> None:
    known, before = len(ready(shared)), workers_of(shared.process)
    with load(shared) as crowd:
        wait_for_answers(crowd)
        os.kill(before[0], signal.SIGTERM)
        wait_for_ready(shared, known + 1)
        wait_for_answers(crowd)

    assert crowd.lost == []
    assert len(set(workers_of(shared.process)) - set(before)) == 1


def test_nobody_waits_for_a_worker_that_hangs(shared: RestService) -> None:
    hung, _ = workers_of(shared.process)
    os.kill(hung, signal.SIGSTOP)
    try:
        # Half of these are dealt to the socket of the one that hangs.
        for _ in range(10):
            with RawClient(address_of(shared), tls_of(shared)) as client:
                assert client.ask(get("/livez")).status == 200
    finally:
        os.kill(hung, signal.SIGCONT)


def test_a_worker_that_dies_is_started_again(shared: RestService) -> None:
    known, (dead, alive) = len(ready(shared)), workers_of(shared.process)

    os.kill(dead, signal.SIGKILL)

    wait_for_ready(shared, known + 1)
    assert alive in workers_of(shared.process)
    assert len(workers_of(shared.process)) == 2


def test_all_workers_show_a_new_certificate_within_two_seconds(shared: RestService) -> None:
    old = shared.ca_file.read_bytes()
    (shared.state_dir / "tls" / "tls.key").unlink()

    wait_until(
        lambda: shared.ca_file.read_bytes() != old and all_are_trusted(shared),
        what="the new certificate",
        within_seconds=2,
    )


def all_are_trusted(service: RestService) -> bool:
    """Connect so often that every worker has its turn, trusting the file of now alone."""
    try:
        for _ in range(12):
            RawClient(address_of(service), tls_of(service)).close()
    except ssl.SSLCertVerificationError:
        return False
    return True


def test_a_second_instance_with_workers_is_refused_and_takes_nothing(shared: RestService) -> None:
    with ChildProcess("second", shared.process.command, directory=shared.directory) as second:
        second.wait_for_exit(within_seconds=SECONDS_MAX)

        assert second.exit_code == 2
        assert "another process listens on port" in second.log_tail()
    assert shared.is_ready()


def test_a_signal_ends_all_workers_in_order_and_no_request_is_lost(pair: RestService) -> None:
    workers = workers_of(pair.process)
    with load(pair) as crowd:
        wait_for_answers(crowd)
        assert pair.process.stop() == 0

    assert crowd.lost == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_the_port_is_free_again_soon_after_the_supervisor_was_killed(pair: RestService) -> None:
    """Else the next one would call its own orphans another process, and give up."""
    with load(pair) as crowd:
        wait_for_answers(crowd)
        pair.process.kill()
        wait_until(lambda: not is_listened_on(pair), what="a free port", within_seconds=5)

    assert crowd.lost == []
    pair.process.start()
    wait_for_ready(pair, 4)


def is_listened_on(service: RestService) -> bool:
    port = f":{address_of(service)[1]:04X} "
    lines = Path("/proc/net/tcp").read_text().splitlines()
    return any(port in line and " 0A " in line for line in lines)


def test_workers_whose_setup_is_wrong_end_everything_with_2(directory: Path) -> None:
    service = RestService(directory, options={"workers": 2})
    service._install()
    service.policy_file.unlink()
    with service.process as process:
        process.wait_for_exit(within_seconds=SECONDS_MAX)

        assert process.exit_code == 2
        assert "policy" in process.log_tail()
