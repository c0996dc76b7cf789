"""The socket's place in the file system: who owns it, what is replaced, what is left alone."""

from __future__ import annotations

import fcntl
import grp
import os
import shutil
import socket as sockets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from keycore.errors import SettingsError, SocketInUseError, UnavailableError
from keycore.settings import SOCKET_PATH_BYTES_MAX, ProviderSettings
from keyplugin import endpoint
from keyplugin.endpoint import SocketClaim, Standing, claim_socket, is_abandoned
from tests.fakes.installation import FakeInstallation
from tests.integration.keyplugin.client import KmsClient
from tests.integration.keyplugin.serving import served

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="giving files to a group needs root")


@pytest.fixture
def listening() -> Iterator[list[sockets.socket]]:
    """Sockets that a test has bound; they are closed after it."""
    bound: list[sockets.socket] = []
    yield bound
    for one in bound:
        one.close()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused starts are told at once; nobody here holds a lock for a moment only."""
    monkeypatch.setattr(endpoint, "PATIENCE_SECONDS", 0.0)


def listen(address: str, bound: list[sockets.socket]) -> None:
    """Bind as grpcio does with an address like ``unix:/run/…``."""
    one = sockets.socket(sockets.AF_UNIX)
    bound.append(one)
    one.bind(address.removeprefix("unix:"))
    one.listen()


def settings_for(socket: Path, **others: str) -> ProviderSettings:
    return ProviderSettings(socket=socket, **others)  # type: ignore[arg-type]


LOCK_FILES = {"kms.sock.lock", "kms.sock.next"}


def names_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@contextmanager
def shown(
    socket: Path, listening: list[sockets.socket], *, takeover: bool = False
) -> Iterator[SocketClaim]:
    """A claim whose socket is served at the path."""
    with claim_socket(settings_for(socket), takeover=takeover) as claim:
        claim.bind(lambda address: listen(address, listening))
        claim.publish()
        yield claim


def is_served(path: Path) -> bool:
    with sockets.socket(sockets.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def a_group() -> grp.struct_group:
    """Return a group that is not the process's own."""
    return next(group for group in grp.getgrall() if group.gr_gid not in (0, os.getegid()))


# --- making the socket --------------------------------------------------------


@pytest.mark.parametrize("mode", ["0600", "0660"])
def test_the_socket_has_its_mode_and_owner_from_the_moment_it_is_bound(
    socket: Path, listening: list[sockets.socket], mode: str
) -> None:
    """No chmod afterwards: between bind and chmod anybody could connect."""
    seen: list[int] = []

    def bind(address: str) -> None:
        listen(address, listening)
        seen.append(permissions(Path(address.removeprefix("unix:"))))

    with claim_socket(settings_for(socket, socket_mode=mode)) as claim:
        claim.bind(bind)
        claim.publish()

        assert seen == [int(mode, 8)]
        assert permissions(socket) == int(mode, 8)
        assert socket.stat().st_uid == os.geteuid()


def test_nothing_is_at_the_public_path_before_the_server_runs(
    socket: Path, listening: list[sockets.socket]
) -> None:
    with claim_socket(settings_for(socket)) as claim:
        claim.bind(lambda address: listen(address, listening))

        assert not socket.exists()


def test_the_umask_is_what_it_was(socket: Path, listening: list[sockets.socket]) -> None:
    before = os.umask(0o022)
    try:
        with claim_socket(settings_for(socket)) as claim:
            claim.bind(lambda address: listen(address, listening))

        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


@needs_root
def test_the_socket_and_a_new_directory_belong_to_the_group(
    tmp_path: Path, listening: list[sockets.socket]
) -> None:
    group = a_group()
    socket = tmp_path / "run" / "kms.sock"

    with claim_socket(
        settings_for(socket, socket_mode="0660", socket_group=group.gr_name)
    ) as claim:
        claim.bind(lambda address: listen(address, listening))
        claim.publish()

        assert (socket.stat().st_gid, permissions(socket)) == (group.gr_gid, 0o660)
        assert (socket.parent.stat().st_gid, permissions(socket.parent)) == (group.gr_gid, 0o750)


def test_a_new_directory_is_for_the_owner_alone(tmp_path: Path) -> None:
    socket = tmp_path / "deep" / "run" / "kms.sock"

    with claim_socket(settings_for(socket)):
        assert permissions(socket.parent) == 0o700


def test_the_permissions_of_an_existing_directory_stay(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)

    with claim_socket(settings_for(tmp_path / "kms.sock")):
        assert permissions(tmp_path) == 0o755


def test_the_longest_path_that_settings_allow_can_be_served(
    here: FakeInstallation, tmp_path: Path
) -> None:
    # A short name in a long directory, because the private name stands beside it.
    directory = tmp_path / ("d" * (SOCKET_PATH_BYTES_MAX - len(os.fsencode(tmp_path)) - 3))
    socket = directory / "s"
    assert len(os.fsencode(socket)) == SOCKET_PATH_BYTES_MAX

    with served(here.core.kms, socket), KmsClient(socket) as client:
        assert client.status().healthz == "ok"


@pytest.mark.parametrize("name", ["a b", "50%25", "q?x#y", "ü"])
def test_a_directory_may_have_any_name(here: FakeInstallation, tmp_path: Path, name: str) -> None:
    """A path becomes part of a URI for gRPC; a "%25" in it must not become "%"."""
    directory = tmp_path / name
    directory.mkdir()

    with served(here.core.kms, directory / "kms.sock"):
        assert stat.S_ISSOCK((directory / "kms.sock").stat().st_mode)


# --- refusing -----------------------------------------------------------------


def test_a_second_owner_is_refused_and_the_first_still_serves(
    here: FakeInstallation, socket: Path, client: KmsClient
) -> None:
    with pytest.raises(SocketInUseError), claim_socket(settings_for(socket)):
        pass

    assert client.status().healthz == "ok"
    with KmsClient(socket) as another:
        assert another.status().healthz == "ok"


def test_a_path_is_claimed_before_its_socket_is_there(socket: Path) -> None:
    """Two processes that start together must not both get as far as binding."""
    with (
        claim_socket(settings_for(socket)),
        pytest.raises(SocketInUseError, match="another keyplane process"),
        claim_socket(settings_for(socket)),
    ):
        pass


def test_a_live_socket_of_another_program_is_left_alone(
    socket: Path, listening: list[sockets.socket]
) -> None:
    """It takes no lock of ours, so only its answer tells that it lives."""
    listen(str(socket), listening)
    inode = socket.stat().st_ino

    with (
        pytest.raises(SocketInUseError, match="another program"),
        claim_socket(settings_for(socket)),
    ):
        pass

    assert socket.stat().st_ino == inode


def test_a_regular_file_is_left_alone(socket: Path) -> None:
    socket.write_text("precious")

    with pytest.raises(SocketInUseError), claim_socket(settings_for(socket)):
        pass

    assert socket.read_text() == "precious"


def test_a_directory_is_left_alone(socket: Path) -> None:
    socket.mkdir()

    with pytest.raises(SocketInUseError), claim_socket(settings_for(socket)):
        pass

    assert socket.is_dir()


@pytest.mark.parametrize("there", [True, False], ids=["to a file", "to nothing"])
def test_a_symbolic_link_is_left_alone(tmp_path: Path, socket: Path, there: bool) -> None:
    target = tmp_path / "target"
    if there:
        target.write_text("precious")
    socket.symlink_to(target)

    with pytest.raises(SocketInUseError), claim_socket(settings_for(socket)):
        pass

    assert socket.readlink() == target
    assert target.exists() is there


def test_a_lock_file_that_is_a_link_is_not_followed(tmp_path: Path, socket: Path) -> None:
    (tmp_path / "kms.sock.lock").symlink_to(tmp_path / "made-by-a-stranger")

    with pytest.raises(SettingsError), claim_socket(settings_for(socket)):
        pass

    assert not (tmp_path / "made-by-a-stranger").exists()


def test_a_directory_that_everybody_may_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)

    with (
        pytest.raises(SettingsError, match="everybody"),
        claim_socket(settings_for(tmp_path / "kms.sock")),
    ):
        pass


def test_a_directory_where_everybody_may_only_add_files_will_do(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)

    with claim_socket(settings_for(tmp_path / "kms.sock")):
        pass


@needs_root
@pytest.mark.parametrize("owner", [(65534, 0), (0, 65534)], ids=["another user", "a group"])
def test_a_directory_in_which_others_may_replace_files_is_refused(
    tmp_path: Path, owner: tuple[int, int]
) -> None:
    os.chown(tmp_path, *owner)
    tmp_path.chmod(0o770)

    with (
        pytest.raises(SettingsError, match="may replace"),
        claim_socket(settings_for(tmp_path / "kms.sock")),
    ):
        pass


@needs_root
def test_the_sockets_group_may_write_in_the_directory(tmp_path: Path) -> None:
    """Its members may decrypt anyway."""
    group = a_group()
    os.chown(tmp_path, -1, group.gr_gid)
    tmp_path.chmod(0o770)

    with claim_socket(settings_for(tmp_path / "kms.sock", socket_group=group.gr_name)):
        pass


def test_a_directory_that_cannot_be_made_is_a_settings_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with (
        pytest.raises(SettingsError, match="cannot be made"),
        claim_socket(settings_for(tmp_path / "file" / "kms.sock")),
    ):
        pass


def test_an_unknown_group_is_a_settings_error(socket: Path) -> None:
    with (
        pytest.raises(SettingsError, match="no-such-group"),
        claim_socket(settings_for(socket, socket_group="no-such-group")),
    ):
        pass


def test_a_server_that_cannot_bind_is_a_settings_error(socket: Path) -> None:
    def fail(_: str) -> None:
        raise RuntimeError("Failed to bind")

    with claim_socket(settings_for(socket)) as claim, pytest.raises(SettingsError):
        claim.bind(fail)


# --- replacing and removing ---------------------------------------------------


def test_a_stale_socket_is_replaced(
    here: FakeInstallation, socket: Path, listening: list[sockets.socket]
) -> None:
    listen(str(socket), listening)
    listening[0].close()

    with served(here.core.kms, socket), KmsClient(socket) as client:
        assert client.status().healthz == "ok"


def test_stopping_removes_the_socket_and_keeps_the_lock_files(
    here: FakeInstallation, tmp_path: Path, socket: Path
) -> None:
    with served(here.core.kms, socket):
        pass

    assert names_in(tmp_path) == LOCK_FILES


def test_stopping_leaves_what_has_taken_the_sockets_place(
    here: FakeInstallation, socket: Path, listening: list[sockets.socket]
) -> None:
    with served(here.core.kms, socket):
        socket.unlink()
        listen(str(socket), listening)
        inode = socket.stat().st_ino

    assert socket.stat().st_ino == inode


def test_the_path_can_be_served_again_after_stopping(here: FakeInstallation, socket: Path) -> None:
    for _ in range(3):
        with served(here.core.kms, socket), KmsClient(socket) as client:
            assert client.status().healthz == "ok"


def test_a_start_that_fails_leaves_no_private_socket(
    tmp_path: Path, socket: Path, listening: list[sockets.socket]
) -> None:
    def start() -> None:
        with claim_socket(settings_for(socket)) as claim:
            claim.bind(lambda address: listen(address, listening))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        start()

    assert names_in(tmp_path) == LOCK_FILES


def test_a_start_that_fails_gives_the_lock_back(socket: Path) -> None:
    socket.write_text("in the way")
    with pytest.raises(SocketInUseError), claim_socket(settings_for(socket)):
        pass

    with socket.with_name("kms.sock.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


@needs_root
def test_a_group_that_may_not_be_given_is_a_settings_error(
    socket: Path, listening: list[sockets.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may give anything away, so the refusal that others meet is put in here."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    with claim_socket(settings_for(socket, socket_group=a_group().gr_name)) as claim:
        monkeypatch.setattr(endpoint.os, "chown", refuse)
        with pytest.raises(SettingsError, match="cannot be given"):
            claim.bind(lambda address: listen(address, listening))


def test_what_a_killed_process_has_left_is_removed(
    tmp_path: Path, socket: Path, listening: list[sockets.socket]
) -> None:
    with claim_socket(settings_for(socket)) as killed:
        listen(str(killed.private), listening)
    listening[0].close()
    assert names_in(tmp_path) == {killed.private.name, *LOCK_FILES}

    with claim_socket(settings_for(socket)):
        assert names_in(tmp_path) == LOCK_FILES


def test_a_private_socket_that_is_alive_is_left_alone(
    socket: Path, listening: list[sockets.socket]
) -> None:
    """A process that was taken over still answers on its own."""
    with claim_socket(settings_for(socket)) as other:
        listen(str(other.private), listening)

    with claim_socket(settings_for(socket)):
        assert is_served(other.private)


# --- keeping the path ---------------------------------------------------------


def test_a_socket_that_nobody_touches_stays_ours(
    socket: Path, listening: list[sockets.socket]
) -> None:
    with shown(socket, listening) as claim:
        assert claim.look() is Standing.OURS
        assert is_served(socket)


@pytest.mark.parametrize("mode", ["0600", "0660"])
def test_a_socket_that_somebody_removed_is_put_back_as_it_was(
    socket: Path, listening: list[sockets.socket], mode: str
) -> None:
    with claim_socket(settings_for(socket, socket_mode=mode)) as claim:
        claim.bind(lambda address: listen(address, listening))
        claim.publish()
        inode = socket.stat().st_ino
        socket.unlink()

        with capture_logs() as logs:
            assert claim.look() is Standing.OURS

        assert is_served(socket)
        assert (socket.stat().st_ino, permissions(socket)) == (inode, int(mode, 8))
    assert [line["log_level"] for line in logs] == ["error"]
    assert not socket.exists()


def test_a_dead_socket_in_the_place_of_ours_is_replaced(
    socket: Path, listening: list[sockets.socket]
) -> None:
    """A process that took over was killed before it had the lock."""
    with shown(socket, listening) as claim:
        socket.unlink()
        listen(str(socket), listening)
        listening[-1].close()

        assert claim.look() is Standing.OURS
        assert is_served(socket)


def test_a_strangers_live_socket_in_the_place_of_ours_stays_and_ends_us(
    socket: Path, listening: list[sockets.socket]
) -> None:
    with shown(socket, listening) as claim:
        socket.unlink()
        listen(str(socket), listening)
        inode = socket.stat().st_ino

        with pytest.raises(SocketInUseError, match="another program serves"):
            claim.look()

    assert socket.stat().st_ino == inode


def test_a_file_in_the_place_of_our_socket_stays_and_ends_us(
    socket: Path, listening: list[sockets.socket]
) -> None:
    with shown(socket, listening) as claim:
        socket.unlink()
        socket.write_text("precious")

        with pytest.raises(SocketInUseError, match="not a socket"):
            claim.look()

    assert socket.read_text() == "precious"


@pytest.mark.parametrize("what", ["all files", "the directory"])
def test_a_socket_that_cannot_be_put_back_ends_us(
    tmp_path: Path, listening: list[sockets.socket], what: str
) -> None:
    directory = tmp_path / "run"
    with shown(directory / "kms.sock", listening) as claim:
        shutil.rmtree(directory)
        if what == "all files":
            directory.mkdir(mode=0o700)

        with pytest.raises(UnavailableError, match="cannot be put back"):
            claim.look()


@pytest.mark.parametrize("name", sorted(LOCK_FILES))
def test_a_lock_file_that_somebody_removed_does_not_let_a_second_owner_in(
    tmp_path: Path, socket: Path, listening: list[sockets.socket], name: str
) -> None:
    with shown(socket, listening) as claim:
        (tmp_path / name).unlink()
        claim.look()

        with (
            pytest.raises(SocketInUseError, match="another keyplane process serves"),
            claim_socket(settings_for(socket)),
        ):
            pass


# --- taking over --------------------------------------------------------------


def test_a_takeover_where_nobody_serves_is_a_start(
    socket: Path, listening: list[sockets.socket]
) -> None:
    with shown(socket, listening, takeover=True) as claim:
        assert not claim.takes_over
        assert claim.look() is Standing.OURS
        assert is_served(socket)


def test_a_takeover_changes_nothing_before_it_is_published(
    socket: Path, listening: list[sockets.socket]
) -> None:
    with shown(socket, listening) as former:
        inode = socket.stat().st_ino
        with claim_socket(settings_for(socket), takeover=True) as claim:
            assert claim.takes_over
            claim.bind(lambda address: listen(address, listening))

            assert former.look() is Standing.OURS
            assert socket.stat().st_ino == inode
        # It failed, as far as the former one can see.
        assert former.look() is Standing.OURS
        assert is_served(socket)


def test_a_takeover_is_seen_by_the_former_owner_and_leaves_its_socket_to_the_new_one(
    socket: Path, listening: list[sockets.socket]
) -> None:
    with shown(socket, listening) as former, shown(socket, listening, takeover=True) as claim:
        inode = socket.stat().st_ino

        assert former.look() is Standing.TAKEN_OVER
        former.withdraw()
        assert claim.look() is Standing.OURS
        assert socket.stat().st_ino == inode
    assert not socket.exists()


def test_a_former_owner_that_ends_before_it_looks_does_not_remove_the_new_socket(
    socket: Path, listening: list[sockets.socket]
) -> None:
    with shown(socket, listening) as former, shown(socket, listening, takeover=True):
        inode = socket.stat().st_ino

        former.withdraw()

        assert socket.stat().st_ino == inode


def test_a_former_owner_that_ends_during_a_takeover_removes_nothing_at_the_path(
    socket: Path, listening: list[sockets.socket]
) -> None:
    """Between its look and its removal the new socket could have come."""
    with (
        shown(socket, listening) as former,
        claim_socket(settings_for(socket), takeover=True) as claim,
    ):
        claim.bind(lambda address: listen(address, listening))
        inode = socket.stat().st_ino

        former.withdraw()

        assert socket.stat().st_ino == inode
        claim.publish()
        assert socket.stat().st_ino != inode


def test_a_start_by_mistake_is_refused_at_every_moment_of_a_takeover(
    socket: Path, listening: list[sockets.socket]
) -> None:
    def start() -> None:
        with (
            pytest.raises(SocketInUseError, match="another keyplane process"),
            claim_socket(settings_for(socket)),
        ):
            pass

    with (
        shown(socket, listening) as former,
        claim_socket(settings_for(socket), takeover=True) as claim,
    ):
        start()
        claim.bind(lambda address: listen(address, listening))
        start()
        claim.publish()
        start()
        former.look()
        start()
        claim.look()
        start()
        assert is_served(socket)


@pytest.mark.parametrize("published", [False, True])
def test_of_two_takeovers_at_once_one_waits_and_then_fails_clearly(
    socket: Path,
    listening: list[sockets.socket],
    monkeypatch: pytest.MonkeyPatch,
    published: bool,
) -> None:
    monkeypatch.setattr(endpoint, "TAKEOVER_SECONDS_MAX", 0.2)
    with shown(socket, listening), claim_socket(settings_for(socket), takeover=True) as first:
        first.bind(lambda address: listen(address, listening))
        if published:
            first.publish()

        with (
            pytest.raises(SocketInUseError, match="about to serve"),
            claim_socket(settings_for(socket), takeover=True),
        ):
            pass


def test_a_finished_takeover_can_be_taken_over_in_turn(
    socket: Path, listening: list[sockets.socket]
) -> None:
    with shown(socket, listening) as first, shown(socket, listening, takeover=True) as second:
        first.look()
        second.look()

        with shown(socket, listening, takeover=True) as third:
            assert second.look() is Standing.TAKEN_OVER
            assert third.look() is Standing.OURS


def test_a_takeover_replaces_no_file(socket: Path, listening: list[sockets.socket]) -> None:
    with shown(socket, listening), claim_socket(settings_for(socket), takeover=True) as claim:
        claim.bind(lambda address: listen(address, listening))
        socket.unlink()
        socket.write_text("precious")

        with pytest.raises(SocketInUseError, match="not a socket"):
            claim.publish()

    assert socket.read_text() == "precious"


def test_a_path_is_abandoned_when_nobody_serves_it_nor_is_about_to(
    socket: Path, listening: list[sockets.socket]
) -> None:
    assert is_abandoned(socket)
    with claim_socket(settings_for(socket)):
        assert not is_abandoned(socket)
    with shown(socket, listening):
        assert not is_abandoned(socket)
    assert is_abandoned(socket)
