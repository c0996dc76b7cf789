"""The directory of the socket: whoever may write in it can put another socket there."""

from __future__ import annotations

import grp
import os
import stat
from pathlib import Path

from keycore.errors import SettingsError

_ROOT = 0


def group_id_of(name: str) -> int:
    """Return the id of ``provider.socket_group``.

    Raises:
        SettingsError: there is no such group.
    """
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise SettingsError(
            f"the group {name} of provider.socket_group does not exist",
            hint=f"make it (groupadd {name}), or leave provider.socket_group away",
        ) from None


def ensure_directory(directory: Path, group_id: int | None) -> None:
    """Make the directory when it is missing, and refuse one in which others may replace files.

    Args:
        directory: a new one is for this process alone, or for it and the group, which
            may then enter it and no more.
        group_id: of ``provider.socket_group``, or ``None``.

    Raises:
        SettingsError: it cannot be made, or others may write in it.
    """
    try:
        if not directory.is_dir():
            directory.mkdir(mode=0o700, parents=True)
            if group_id is not None:
                os.chown(directory, -1, group_id)
                directory.chmod(0o750)
        status = directory.stat()
    except OSError as error:
        raise SettingsError(
            f"the socket's directory {directory} cannot be made: {error.strerror}",
            hint=f"make it for uid {os.geteuid()}, or set provider.socket",
        ) from None
    _ensure_safe(directory, status, group_id)


def _ensure_safe(directory: Path, status: os.stat_result, group_id: int | None) -> None:
    if status.st_uid not in (_ROOT, os.geteuid()):
        raise SettingsError(
            f"{directory} belongs to uid {status.st_uid}, who may replace the socket in it",
            hint=f"chown {os.geteuid()} {directory}",
        )
    if status.st_mode & stat.S_ISVTX:
        # There only a file's owner may replace it.
        return
    if status.st_mode & stat.S_IWOTH:
        raise SettingsError(
            f"everybody may replace files in {directory}, the socket among them",
            hint=f"chmod o-w {directory}",
        )
    # Members of the socket's group may decrypt anyway, and root's group is root's affair.
    if status.st_mode & stat.S_IWGRP and status.st_gid not in (_ROOT, os.getegid(), group_id):
        raise SettingsError(
            f"the group {status.st_gid} may replace files in {directory}, the socket among them",
            hint=f"chmod g-w {directory}",
        )
