"""The socket's place in the file system: who owns it, what is replaced, what is left alone."""

from __future__ import annotations

import fcntl
import grp
import os
import socket as sockets
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from keycore.errors import SettingsError, SocketInUseError
from keycore.settings import SOCKET_PATH_BYTES_MAX, ProviderSettings
from keyplugin import endpoint
from keyplugin.endpoint import claim_socket
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


def listen(address: str, bound: list[sockets.socket]) -> None:
    """Bind as grpcio does with an address like ``unix:/run/…``."""
    one = sockets.socket(sockets.AF_UNIX)
    bound.append(one)
    one.bind(address.removeprefix("unix:"))
    one.listen()


def settings_for(socket: Path, **others: str) -> ProviderSettings:
    return ProviderSettings(socket=socket, **others)  # type: ignore[arg-type]


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


def test_stopping_removes_the_socket_and_keeps_the_lock_file(
    here: FakeInstallation, tmp_path: Path, socket: Path
) -> None:
    with served(here.core.kms, socket):
        pass

    assert [path.name for path in tmp_path.iterdir()] == ["kms.sock.lock"]


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

    assert [path.name for path in tmp_path.iterdir()] == ["kms.sock.lock"]


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
