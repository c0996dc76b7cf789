"""The unix socket's place in the file system: one owner, no gap, no race.

Whoever can open the socket can decrypt, and whoever can replace it is sent new
seeds. grpcio binds over a live socket without a word, and later unlinks whatever
lies at the path that it had bound. So locks decide who may show a socket
(:mod:`keyplugin.locks`), grpcio binds a private name beside it, and a rename of a
second link shows the finished socket at once. The private link stays, so that a
public name that somebody has removed can be put back.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from urllib.parse import quote

import structlog

from keycore.errors import SettingsError, SocketInUseError, UnavailableError
from keycore.settings import ProviderSettings
from keyplugin.directory import ensure_directory, group_id_of
from keyplugin.locks import PATIENCE_SECONDS, SocketLocks

TAKEOVER_SECONDS_MAX = 30.0
"""How long a takeover waits for another start or takeover to come to its end."""

_PROBE_SECONDS = 1.0

_log = structlog.get_logger(__name__)


class Standing(Enum):
    """What has become of the public path."""

    OURS = "ours"
    TAKEN_OVER = "taken over"


class SocketClaim:
    """One process's part in one path: it serves it, or is about to take it over."""

    def __init__(self, path: Path, mode: int, group_id: int | None, *, locks: SocketLocks) -> None:
        """Serve ``path`` with permissions ``mode`` and, unless ``None``, that group."""
        self._path = path
        self._mode = mode
        self._group_id = group_id
        self._locks = locks
        self._identity: tuple[int, int] | None = None
        self.private = _new_name(path)
        """What grpcio binds; every connection that it accepts is called after it."""

    @property
    def takes_over(self) -> bool:
        """Whether another process serves the path, and :meth:`publish` will replace it."""
        return not self._locks.owner.held

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
            bind(f"unix:{quote(str(self.private))}")
        except RuntimeError:
            raise SettingsError(
                f"no socket can be made in {self._path.parent}",
                hint="check that the directory is writable, or set provider.socket",
            ) from None
        finally:
            os.umask(umask)
        self._identity = _identity(self.private)
        if self._group_id is not None:
            _give(self.private, self._group_id)

    def publish(self) -> None:
        """Show the bound socket at the public path: in place of a dead one, or of a former owner's.

        Raises:
            SocketInUseError: something that may not be replaced lies there meanwhile.
            SettingsError: the directory does not allow it.
        """
        _ensure_replaceable(self._path, live_too=self.takes_over)
        self._show()
        if self._locks.owner.held:
            self._locks.next.release()

    def look(self) -> Standing:
        """See whether the path is still ours, and mend it where that is safe.

        It is to be called several times a second while the socket is served.

        Returns:
            ``TAKEN_OVER`` once another process has shown its live socket in a takeover;
            the right to serve the path is given up then.

        Raises:
            SocketInUseError: a stranger's socket or file is at the path.
            UnavailableError: our socket is gone for good; only a new start brings it back.
        """
        self._keep_locks()
        found = _identity(self._path)
        if found is not None and found == self._identity:
            return Standing.OURS
        with self._locks.turn() as turn:
            if turn:
                self._put_back()
            elif found is not None and _is_served(self._path):
                self._locks.owner.release()
                return Standing.TAKEN_OVER
        # Otherwise somebody is about to take over; the next look will tell.
        return Standing.OURS

    def withdraw(self) -> None:
        """Remove our socket, and nothing that has taken its place."""
        self._remove(self.private)
        with self._locks.turn() as turn:
            # Without the turn somebody is about to replace it, between a look and a removal.
            if turn:
                self._remove(self._path)

    def _keep_locks(self) -> None:
        try:
            self._locks.renew()
        except SettingsError:
            raise self._gone() from None
        owner = self._locks.owner
        if (owner.held or owner.take()) and self._locks.next.held:
            _log.info("the former provider has given up the socket")
            self._locks.next.release()

    def _put_back(self) -> None:
        # A lock is ours that every takeover needs, so nobody's live socket is replaced.
        if _identity(self._path) == self._identity:
            return
        _ensure_replaceable(self._path, live_too=False)
        try:
            self._show()
        except SettingsError:
            raise self._gone() from None
        _log.error(
            "somebody had removed or replaced the socket, and it was put back; "
            "find out who changes files in its directory",
            socket=str(self._path),
        )

    def _gone(self) -> UnavailableError:
        return UnavailableError(
            f"somebody has removed {self._path}, and it cannot be put back",
            hint=f"start the provider again, and find out who changes files in {self._path.parent}",
        )

    def _show(self) -> None:
        second = _new_name(self._path)
        try:
            second.hardlink_to(self.private)
            second.rename(self._path)
        except OSError as error:
            raise SettingsError(
                f"the socket cannot be shown at {self._path}: {error.strerror}",
                hint=f"check that uid {os.geteuid()} may make links in {self._path.parent}",
            ) from None

    def _remove(self, path: Path) -> None:
        if self._identity is not None and _identity(path) == self._identity:
            path.unlink(missing_ok=True)


@contextmanager
def claim_socket(settings: ProviderSettings, *, takeover: bool = False) -> Iterator[SocketClaim]:
    """Take the right to serve ``settings.socket``, and remove the socket in the end.

    A missing directory is made for this process alone, or for it and the group.
    The lock files beside the socket stay: removing one would let two processes hold
    locks on two files of one name.

    Args:
        settings: path, mode and group.
        takeover: whether another process that serves the path may be replaced, which
            :meth:`SocketClaim.publish` does.

    Raises:
        SocketInUseError: another process serves the path or is about to, or no socket
            lies there.
        SettingsError: the directory or the group cannot be used.
    """
    path = settings.socket
    group_id = None if settings.socket_group is None else group_id_of(settings.socket_group)
    ensure_directory(path.parent, group_id)
    locks = SocketLocks(path)
    try:
        _enter(locks, path, takeover=takeover)
        _ensure_replaceable(path, live_too=not locks.owner.held)
        _remove_leftovers(path)
        claim = SocketClaim(path, int(settings.socket_mode, 8), group_id, locks=locks)
        try:
            yield claim
        finally:
            claim.withdraw()
    finally:
        locks.close()


def is_abandoned(path: Path) -> bool:
    """Tell whether nobody serves a socket path any more, nor is about to.

    Raises:
        SettingsError: the lock files cannot be opened.
    """
    locks = SocketLocks(path)
    try:
        return locks.next.take() and locks.owner.take()
    finally:
        locks.close()


def _enter(locks: SocketLocks, path: Path, *, takeover: bool) -> None:
    patience = TAKEOVER_SECONDS_MAX if takeover else PATIENCE_SECONDS
    if not locks.next.take(within_seconds=patience):
        raise SocketInUseError(
            f"another keyplane process is about to serve {path}",
            hint="wait until it has begun, or set another provider.socket",
        )
    if not locks.owner.take(within_seconds=0 if takeover else PATIENCE_SECONDS) and not takeover:
        raise SocketInUseError(
            f"another keyplane process serves {path}",
            hint="replace it with keyplane serve provider --takeover, stop it first, or set "
            "another provider.socket",
        )


def _ensure_replaceable(path: Path, *, live_too: bool) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SocketInUseError(
            f"{path} is not a socket and was left as it is",
            hint="remove it, or set another provider.socket",
        )
    if not live_too and _is_served(path):
        raise SocketInUseError(
            f"another program serves {path}",
            hint="stop it first, or set another provider.socket",
        )


def _is_served(path: Path) -> bool:
    """Tell whether somebody listens at a socket, or may do so for all that we can see."""
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


def _new_name(path: Path) -> Path:
    # Eight bytes, so that it is never too long where the public name fits.
    return path.with_name(f"{_prefix(path)}{secrets.token_hex(2)}")


def _prefix(path: Path) -> str:
    """Return what the private names of one public name begin with."""
    digest = hashlib.sha256(os.fsencode(path.name)).digest()
    return f".{base64.b32encode(digest)[:3].decode().lower()}"


def _remove_leftovers(path: Path) -> None:
    """Remove private sockets of processes that were killed."""
    for leftover in path.parent.glob(f"{_prefix(path)}[0-9a-f][0-9a-f][0-9a-f][0-9a-f]"):
        if stat.S_ISSOCK(leftover.lstat().st_mode) and not _is_served(leftover):
            leftover.unlink(missing_ok=True)


def _give(path: Path, group_id: int) -> None:
    try:
        os.chown(path, -1, group_id)
    except OSError as error:
        raise SettingsError(
            f"the socket cannot be given to group {group_id}: {error.strerror}",
            hint=f"make uid {os.geteuid()} a member of provider.socket_group",
        ) from None


def _identity(path: Path) -> tuple[int, int] | None:
    # A directory that may not be entered any more is as bad as one that is gone.
    with suppress(OSError):
        status = path.lstat()
        return status.st_dev, status.st_ino
    return None
