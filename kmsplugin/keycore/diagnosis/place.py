"""Checks on files and directories: configuration, state, PIN."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from keycore.bootstrap import check_owner, pin_file
from keycore.diagnosis.examination import Examination
from keycore.diagnosis.findings import Verdict, fault, ok, warning
from keycore.errors import PinRejectedError

_MIB: Final = 1024 * 1024

_FREE_BYTES_MIN: Final = 16 * _MIB

_FREE_BYTES_LOW: Final = 256 * _MIB
"""SQLite's log grows to some megabytes; audit lines of a busy day are a few hundred."""

_FREE_FILES_LOW: Final = 100

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO

_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


def check_configuration(examination: Examination) -> Iterator[Verdict]:
    """Read the settings; all faults and unknown names are told at once."""
    examination.settings = examination.load_settings()
    file = examination.config_file
    if file is None:
        yield ok("no file: the defaults and the environment hold")
        return
    mode = file.stat().st_mode
    if mode & stat.S_IWOTH:
        # It names a shared library that this process loads.
        yield fault(f"everybody may change {file}", f"chmod o-w {file}")
    else:
        yield ok(f"{file} holds no unknown setting and no fault")


def check_state_directory(examination: Examination) -> Iterator[Verdict]:
    """Is there one, and is it ours?"""
    directory = examination.settings.state_dir
    check_owner(directory)
    yield ok(f"{directory} belongs to uid {os.geteuid()}, as which this command runs")


def check_permissions(examination: Examination) -> Iterator[Verdict]:
    """May others enter the state directory?"""
    directory = examination.settings.state_dir
    mode = stat.S_IMODE(directory.stat().st_mode)
    if mode & _WRITE:
        yield fault(
            f"others may replace files in {directory} (mode {mode:04o})", f"chmod 0700 {directory}"
        )
    elif mode & _OTHERS:
        yield warning(
            f"others may look into {directory} (mode {mode:04o})", f"chmod 0700 {directory}"
        )
    else:
        yield ok(f"{directory} is closed to others (mode {mode:04o})")


def check_disk(examination: Examination) -> Iterator[Verdict]:
    """Can the state directory be written, and is there room?"""
    directory = examination.settings.state_dir
    status = os.statvfs(directory)
    free = status.f_bavail * status.f_frsize
    if status.f_flag & os.ST_RDONLY or not os.access(directory, os.W_OK | os.X_OK):
        yield fault(
            f"{directory} cannot be written",
            "mount its file system for writing; after a disk fault it is mounted read-only",
        )
    elif free < _FREE_BYTES_MIN:
        yield fault(f"{_size(free)} are free in {directory}", "make room: the store needs it")
    elif free < _FREE_BYTES_LOW:
        yield warning(f"{_size(free)} are free in {directory}", "make room soon")
    elif status.f_files > 0 and status.f_favail < _FREE_FILES_LOW:
        yield warning(f"{status.f_favail} files can be made in {directory}", "remove files")
    else:
        yield ok(f"{_size(free)} are free")


def check_pin_file(examination: Examination) -> Iterator[Verdict]:
    """Is there a PIN, and nobody else's to read? It is never shown."""
    file = pin_file(examination.settings)
    file.read()
    yield ok(f"{file.path} is readable by its owner alone")


def check_earlier_refusal(examination: Examination) -> Iterator[Verdict]:
    """Has the token refused this very PIN before? Then nobody tries it again."""
    file = pin_file(examination.settings)
    if file.was_refused():
        raise PinRejectedError(
            f"the token refused the PIN in {file.path} before; no login is tried",
            hint=f"write the right PIN into {file.path}; a changed file gets one more try",
        )
    yield ok("this PIN file was not refused")


def check_module_file(examination: Examination) -> Iterator[Verdict]:
    """May somebody else change the code that gets the PIN?"""
    module = examination.settings.module
    if not module.is_file():
        yield fault(
            f"the PKCS#11 module {module} does not exist",
            "install it (SoftHSM2: apt-get install softhsm2) or correct token.module",
        )
        return
    changeable = [
        path for path in (module.resolve(), module.resolve().parent) if _others_may_write(path)
    ]
    if changeable:
        path = changeable[0]
        yield warning(f"others may change {path}, which gets the PIN", f"chmod go-w {path}")
    else:
        yield ok(str(module))


def _others_may_write(path: Path) -> bool:
    status = path.stat()
    return bool(status.st_mode & stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX


def _size(count: int) -> str:
    return f"{count / _MIB:,.1f} MiB" if count < 1024 * _MIB else f"{count / 1024 / _MIB:,.1f} GiB"
