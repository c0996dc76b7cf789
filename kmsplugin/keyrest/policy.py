"""The policy file: who may do what, read again whenever it changes.

Whoever can write the file can give himself every key, so it must belong to root or
to keyplane's own user and be writable by nobody else. A new version with faults
changes nothing: the last good one stays in force, and the fault is told.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection
from pathlib import Path

import structlog

from keycore.errors import SettingsError
from keycore.ports import Clock
from keyrest.following import FileWatch
from keyrest.grants import Policy
from keyrest.policy_document import PolicyDocument, parse_policy
from keyrest.roles import PERMISSIONS, Permission, Role

__all__ = [
    "PERMISSIONS",
    "Permission",
    "Policy",
    "PolicyFile",
    "Role",
    "read_policy",
    "read_policy_document",
]

_log = structlog.get_logger(__name__)

FILE_BYTES_MAX = 1024 * 1024
"""Some ten thousand bindings; reading them takes about a second."""


def read_policy(path: Path, issuers: Collection[str]) -> Policy:
    """Return the policy in a file.

    Args:
        path: TOML; see ``docs/rest-identity.md``.
        issuers: the names of the issuers in the settings.

    Raises:
        SettingsError: it is missing, may be written by others, or has faults; the
            message lists all of them.
    """
    return Policy(read_policy_document(path, issuers).bindings)


def read_policy_document(path: Path, issuers: Collection[str]) -> PolicyDocument:
    """Return what stands in the file, for people; see :func:`read_policy`.

    Raises:
        SettingsError: as there.
    """
    return parse_policy(_read(path), issuers, source=str(path))


class PolicyFile:
    """A policy that follows its file. Refreshed by one thread, read by any."""

    def __init__(self, path: Path, issuers: Collection[str], clock: Clock) -> None:
        """Read the file for the first time.

        Args:
            path: as for :func:`read_policy`.
            issuers: the same.
            clock: measures how long ago the file changed.

        Raises:
            SettingsError: as :func:`read_policy`; there is no older state to keep.
        """
        self._path = path
        self._issuers = frozenset(issuers)
        self._watch = FileWatch([path], clock)
        content = _read(path)
        self._digest = hashlib.sha256(content).digest()
        self._current = _policy_of(content, path, self._issuers)
        self._fault = ""

    @property
    def current(self) -> Policy:
        """The last version without faults."""
        return self._current

    @property
    def fault(self) -> str:
        """What is wrong with the file now; empty when it is the one in force."""
        return self._fault

    def refresh(self) -> None:
        """Take over a changed file; a faulty one is logged once and changes nothing.

        Costs one ``stat`` while nothing changes.
        """
        if not self._watch.may_have_changed():
            return
        try:
            self._take(_read(self._path))
        except SettingsError as error:
            if error.message != self._fault:
                _log.error("policy file refused; the last good one stays", fault=error.message)
            self._fault = error.message
        else:
            self._fault = ""

    def _take(self, content: bytes) -> None:
        digest = hashlib.sha256(content).digest()
        if digest != self._digest:
            self._current = _policy_of(content, self._path, self._issuers)
            self._digest = digest
            _log.info("policy file read again", path=str(self._path))
        elif self._fault:
            _log.info("policy file is as before again", path=str(self._path))


def _policy_of(content: bytes, path: Path, issuers: Collection[str]) -> Policy:
    return Policy(parse_policy(content, issuers, source=str(path)).bindings)


def _read(path: Path) -> bytes:
    try:
        # NONBLOCK, because opening a named pipe would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _check_safe(os.fstat(descriptor), path)
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                content = file.read(FILE_BYTES_MAX + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise SettingsError(
            f"the policy file {path} cannot be read: {error.strerror}",
            hint="write it as docs/rest-identity.md describes, or set rest.policy_file",
        ) from None
    if len(content) > FILE_BYTES_MAX:
        raise SettingsError(f"the policy file {path} is longer than {FILE_BYTES_MAX} bytes")
    return content


def _check_safe(status: os.stat_result, path: Path) -> None:
    """Refuse a file that anybody but root and this process's user may change."""
    if not stat.S_ISREG(status.st_mode):
        raise SettingsError(f"the policy file {path} is not a file", hint="set rest.policy_file")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise SettingsError(
            f"the policy file {path} may be written by other users, who could give "
            "themselves every key",
            hint=f"chmod go-w {path}",
        )
    if status.st_uid not in {0, os.geteuid()}:
        raise SettingsError(
            f"the policy file {path} belongs to uid {status.st_uid}, who could give himself "
            "every key",
            hint=f"chown it to root or to uid {os.geteuid()}",
        )
