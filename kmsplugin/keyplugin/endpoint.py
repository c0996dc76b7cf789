"""The unix socket's place in the file system: one owner, no gap, no race.

Whoever can open the socket can decrypt, and whoever can replace it is sent new
seeds. grpcio binds over a live socket without a word, and later unlinks whatever
lies at the path that it had bound. So a lock decides who may serve a path, grpcio
binds a private name beside it, and a rename shows the finished socket at once.
"""

from __future__ import annotations

import fcntl
import grp
import os
import secrets
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from keycore.errors import SettingsError, SocketInUseError
from keycore.settings import ProviderSettings

_PROBE_SECONDS = 1.0


class SocketClaim:
    """The right to serve one path, for as long as the lock is held."""

    def __init__(self, path: Path, mode: int, group_id: int | None) -> None:
        """Serve ``path`` with permissions ``mode`` and, unless ``None``, that group."""
        self._path = path
        self._mode = mode
        self._group_id = group_id
        # Seven bytes, so that it is never too long where the public name fits.
        self._private = path.with_name(f".{secrets.token_hex(3)}")
        self._identity: tuple[int, int] | None = None

    def bind(self, bind: Callable[[str], object]) -> None:
        """Bind under a private name, with the final permissions from the first moment.

        The process's umask is changed meanwhile, so no other thread may be making files.

        Args:
            bind: ``add_insecure_port`` of a gRPC server that has not been started.

        Raises:
            SettingsError: the directory or the group does not allow it.
        """
        umask = os.umask(0o777 & ~self._mode)
        try:
            # gRPC takes the path for part of a URI, where "%" and "?" mean something.
            bind(f"unix:{quote(str(self._private))}")
        except RuntimeError:
            raise SettingsError(
                f"no socket can be made in {self._path.parent}",
                hint="check that the directory is writable, or set provider.socket",
            ) from None
        finally:
            os.umask(umask)
        self._identity = _identity(self._private)
        if self._group_id is not None:
            _give(self._private, self._group_id)

    def publish(self) -> None:
        """Show the bound socket at the public path, in place of one left by a crash."""
        self._private.rename(self._path)

    def withdraw(self) -> None:
        """Remove our socket, and nothing that has taken its place."""
        for path in (self._private, self._path):
            if self._identity is not None and _identity(path) == self._identity:
                path.unlink()


@contextmanager
def claim_socket(settings: ProviderSettings) -> Iterator[SocketClaim]:
    """Take the right to serve ``settings.socket``, and remove the socket in the end.

    A missing directory is made for this process alone, or for it and the group.
    The lock file beside the socket stays: removing it would let two processes hold
    locks on two files of one name.

    Raises:
        SocketInUseError: another process serves the path, or no socket lies there.
        SettingsError: the directory or the group cannot be used.
    """
    path = settings.socket
    group_id = None if settings.socket_group is None else _group_id(settings.socket_group)
    _ensure_directory(path.parent, group_id)
    lock = _locked(path)
    try:
        _ensure_replaceable(path)
        claim = SocketClaim(path, int(settings.socket_mode, 8), group_id)
        try:
            yield claim
        finally:
            claim.withdraw()
    finally:
        os.close(lock)


def _group_id(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise SettingsError(
            f"the group {name} of provider.socket_group does not exist",
            hint=f"make it (groupadd {name}), or leave provider.socket_group away",
        ) from None


def _ensure_directory(directory: Path, group_id: int | None) -> None:
    try:
        if not directory.is_dir():
            directory.mkdir(mode=0o700, parents=True)
            if group_id is not None:
                os.chown(directory, -1, group_id)
                directory.chmod(0o750)
        mode = directory.stat().st_mode
    except OSError as error:
        raise SettingsError(
            f"the socket's directory {directory} cannot be made: {error.strerror}",
            hint=f"make it for uid {os.geteuid()}, or set provider.socket",
        ) from None
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise SettingsError(
            f"everybody may replace files in {directory}, the socket among them",
            hint=f"chmod o-w {directory}",
        )


def _locked(path: Path) -> int:
    lock_path = path.with_name(f"{path.name}.lock")
    try:
        lock = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise SettingsError(
            f"the lock file {lock_path} cannot be opened: {error.strerror}",
            hint=f"check that uid {os.geteuid()} may write in {path.parent}",
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise SocketInUseError(
            f"another keyplane process serves {path}",
            hint="stop it first, or set another provider.socket",
        ) from None
    return lock


def _ensure_replaceable(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SocketInUseError(
            f"{path} is not a socket and was left as it is",
            hint="remove it, or set another provider.socket",
        )
    if _is_served(path):
        raise SocketInUseError(
            f"another program serves {path}",
            hint="stop it first, or set another provider.socket",
        )


def _is_served(path: Path) -> bool:
    """Tell whether somebody listens, who then does not know of our lock."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_PROBE_SECONDS)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            # Not allowed, too busy or another kind of socket: not ours to replace.
            return True
    return True


def _give(path: Path, group_id: int) -> None:
    try:
        os.chown(path, -1, group_id)
    except OSError as error:
        raise SettingsError(
            f"the socket cannot be given to group {group_id}: {error.strerror}",
            hint=f"make uid {os.geteuid()} a member of provider.socket_group",
        ) from None


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
