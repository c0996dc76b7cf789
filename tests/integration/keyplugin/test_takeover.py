"""One provider process after another on one socket, and what their clients see of it.

The load is kube-apiserver's own client code. What a failed takeover leaves behind is
found out by killing: the new process before each of its steps, the former one while it
goes. Rules that need no process are in ``test_endpoint`` and ``test_handover``.
"""

from __future__ import annotations

import shutil
import signal
import socket as sockets
from collections.abc import Iterator
from pathlib import Path

import pytest

from keycore.settings import Settings, TokenSettings
from keyplugin.bounds import STUCK_EXIT_CODE
from testbed.faulty_module import ALWAYS, Code
from testbed.kms_client import KmsLoad
from testbed.waiting import wait_until
from tests.integration.keyplugin import killed_process
from tests.integration.keyplugin.client import SEED, KmsClient
from tests.integration.keyplugin.faulty_site import (
    Calls,
    FaultySite,
)
from tests.integration.keyplugin.provider_process import ProviderProcess

TAKEOVER = ("--takeover",)
WITHIN_SECONDS = 30.0
STEPS_MAX = 40

TAKEN_OVER = "another process has taken the socket over; calls that still come are answered"
PUT_BACK = (
    "somebody had removed or replaced the socket, and it was put back; "
    "find out who changes files in its directory"
)
CUT_OFF = "connections that do not end are cut off"
STANDING_BY = "standing by, until nobody serves the socket any more"
STUCK = (
    "a call inside the HSM does not return, and the process ends without it; "
    "check the HSM before the next start"
)


class Site(FaultySite):
    """An installation of one test whose processes follow each other on one socket."""

    def __init__(self, original: Settings, state_dir: Path) -> None:
        super().__init__(original, state_dir / "state")
        self.socket = state_dir / "run" / "kms.sock"
        provider = self.settings.provider.model_copy(update={"socket": self.socket})
        self.settings = self.settings.model_copy(update={"provider": provider})
        self.made: list[ProviderProcess] = []

    def start(self, *options: str, killed_at: int = 0, well: bool = True) -> ProviderProcess:
        """Start a process, on the real module if it is to be ``well``, and do not wait for it."""
        program = ["-m", "keycli.main"]
        if killed_at:
            program = [killed_process.__file__, str(killed_at), str(self.socket.parent)]
        settings = self.settings
        if well:
            settings = settings.model_copy(update={"token": TokenSettings()})
        made = ProviderProcess(
            settings,
            f"process-{len(self.made)}",
            options=options,
            program=program,
            environment={} if well else self._environment,
        )
        self.made.append(made)
        return made

    def serve(self, *options: str, well: bool = True) -> ProviderProcess:
        """Start a process and wait until it serves."""
        process = self.start(*options, well=well)
        wait_until(
            lambda: process.serves or process.process.poll() is not None,
            what="the process serves",
            within_seconds=WITHIN_SECONDS,
        )
        assert process.serves, process.output()
        return process

    def end(self) -> None:
        """Leave no process behind."""
        for process in self.made:
            process.process.kill()
            process.process.wait()

    @property
    def inode(self) -> int:
        return self.socket.lstat().st_ino


@pytest.fixture
def site(bound: Settings, tmp_path: Path) -> Iterator[Site]:
    site = Site(bound, tmp_path)
    yield site
    site.end()


def is_served(path: Path) -> bool:
    with sockets.socket(sockets.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def assert_served(site: Site) -> None:
    """A client that comes now is served."""
    with KmsClient(site.socket) as client:
        assert client.status(wait=True).healthz == "ok"
        assert client.decrypt(client.encrypt()) == SEED


# --- zero failed calls --------------------------------------------------------


def test_no_call_of_an_api_server_fails_over_three_takeovers(site: Site, tmp_path: Path) -> None:
    served = [site.serve()]

    with KmsLoad(
        site.socket,
        directory=tmp_path,
        concurrency=8,
        pause_seconds=0.005,
        status_every_seconds=0.05,
    ) as load:
        for _ in range(3):
            load.wait_for(20)
            served.append(site.serve(*TAKEOVER))
        codes = [former.wait() for former in served[:-1]]
        load.wait_for(20)
        result = load.result()

    assert (result.failures, result.load.texts) == (0, ())
    assert result.health == ("ok",)
    assert len(result.key_ids) == 1
    assert codes == [0, 0, 0]
    assert not any(former.logged(CUT_OFF) for former in served)


def test_an_ordinary_restart_fails_no_call_but_those_on_their_way(
    site: Site, tmp_path: Path
) -> None:
    """A stopping server refuses what reaches it in its last moment; the rest waits."""
    first, callers = site.serve(), 8

    with KmsLoad(
        site.socket,
        directory=tmp_path,
        concurrency=callers,
        pause_seconds=0.005,
        timeout_seconds=WITHIN_SECONDS,
    ) as load:
        load.wait_for(20)
        assert first.end() == 0
        site.serve()
        load.wait_for(20)
        result = load.result()

    assert result.failures <= callers


# --- a takeover that must not happen ------------------------------------------


def test_a_process_that_cannot_log_in_does_not_take_over(site: Site) -> None:
    former = site.serve()
    inode = site.inode
    (site.settings.state_dir / "pins" / "user.pin").write_text("8091726354\n")

    assert site.start(*TAKEOVER).wait() == 2

    assert (site.inode, former.process.poll()) == (inode, None)
    assert_served(site)


def test_a_process_whose_token_does_not_encrypt_does_not_take_over(site: Site) -> None:
    former = site.serve()
    inode = site.inode
    site.module.fail("C_Encrypt", Code.DEVICE_ERROR, times=ALWAYS)

    refused = site.start(*TAKEOVER, well=False)

    assert refused.wait() == 3
    assert "was not replaced" in refused.output()
    assert (site.inode, former.process.poll()) == (inode, None)
    assert_served(site)


# --- processes that are killed ------------------------------------------------


def kill_at(site: Site, step: int) -> None:
    """Start a takeover that is killed at a step, and wait for its end."""
    assert site.start(*TAKEOVER, killed_at=step).wait() == -signal.SIGKILL


def test_a_process_that_is_killed_at_any_step_leaves_a_socket_that_is_served_or_replaced(
    site: Site,
) -> None:
    """Until it has shown its own, nothing is to be seen of it, and no call fails.

    Then the former process puts its socket back; and when that one has given up the
    lock already, the next start replaces what is left.
    """
    former = site.serve()
    inode = site.inode

    with Calls(site.socket) as calls:
        for step in range(1, STEPS_MAX):
            kill_at(site, step)
            wait_until(
                lambda: bool(former.logged(TAKEN_OVER)) or is_served(site.socket),
                what="the socket is served, or left to the next process",
                within_seconds=WITHIN_SECONDS,
            )
            if former.logged(TAKEN_OVER):
                break
            if not former.logged(PUT_BACK):
                calls.go_on(5)
                assert calls.failures == []
            assert site.inode == inode
            assert_served(site)

    assert step > 5
    # Which of both it is at the last step depends on when the former one looks.
    assert former.logged(PUT_BACK) or former.logged(TAKEN_OVER)
    site.serve()
    assert_served(site)


def test_a_former_process_that_is_killed_while_it_goes_takes_nothing_with_it(site: Site) -> None:
    former, second = site.serve(), site.serve(*TAKEOVER)
    wait_until(
        lambda: bool(former.logged(TAKEN_OVER)),
        what="the former process has seen it",
        within_seconds=WITHIN_SECONDS,
    )

    former.end(signal.SIGKILL)

    assert_served(site)
    site.serve(*TAKEOVER)
    assert second.wait() == 0
    assert_served(site)


# --- how a process ends -------------------------------------------------------


def test_a_process_that_stands_by_waits_for_the_signal(site: Site) -> None:
    former = site.serve("--standby")
    site.serve(*TAKEOVER)
    wait_until(
        lambda: bool(former.logged(STANDING_BY)),
        what="the former process stands by",
        within_seconds=WITHIN_SECONDS,
    )

    assert former.end() == 0


def test_a_process_that_stands_by_ends_to_be_started_again_when_it_is_needed(site: Site) -> None:
    former = site.serve("--standby")
    second = site.serve(*TAKEOVER)
    wait_until(
        lambda: bool(former.logged(STANDING_BY)),
        what="the former process stands by",
        within_seconds=WITHIN_SECONDS,
    )

    second.end(signal.SIGKILL)

    assert former.wait() == 3


def test_a_call_that_hangs_in_the_hsm_does_not_keep_a_process_alive(site: Site) -> None:
    process = site.serve(well=False)
    with KmsClient(site.socket) as client:
        closed = client.encrypt()
        site.module.hang("C_Decrypt")
        # Kept, because a call whose future nobody has is cancelled.
        hanging = client.start_decrypt(closed)
        wait_until(
            lambda: site.module.inside("C_Decrypt") > 0,
            what="a call hangs",
            within_seconds=WITHIN_SECONDS,
        )

        assert process.end() == STUCK_EXIT_CODE
        assert hanging.exception() is not None

    assert process.logged(STUCK)


# --- the socket's path --------------------------------------------------------


def test_a_socket_that_somebody_removes_is_put_back(site: Site) -> None:
    process = site.serve()
    inode = site.inode

    site.socket.unlink()
    wait_until(site.socket.exists, what="the socket is back", within_seconds=WITHIN_SECONDS)

    assert site.inode == inode
    assert_served(site)
    assert process.logged(PUT_BACK)


def test_a_socket_whose_directory_is_gone_ends_the_process_to_be_started_again(
    site: Site,
) -> None:
    process = site.serve()

    shutil.rmtree(site.socket.parent)

    assert process.wait() == 3
    assert "cannot be put back" in process.output()
    site.serve()
    assert_served(site)
