"""Room on the disk that is taken before it is needed.

A line that is written after an operation has acted must not find the disk full. So blocks
behind the end of the file are taken ahead, and whoever wants to act asks first whether some
are left.
"""

from __future__ import annotations

import ctypes
import errno
import os

CHUNK_BYTES = 256 * 1024
"""How much is taken at a time: the lines of some hundred operations."""

PROMISED_BYTES = 64 * 1024
"""What must be left for an operation to begin: the lines of all those that run already.
A face has some dozens of threads, and a line has some hundred bytes."""

_KEEP_SIZE = 1
"""``FALLOC_FL_KEEP_SIZE`` of ``fallocate(2)``: the file looks no longer than it is."""

_UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})

_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = getattr(_libc, "fallocate64", None) or getattr(_libc, "fallocate", None)
if _fallocate is not None:
    _fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def take_room(descriptor: int, size: int) -> int:
    """Take :data:`CHUNK_BYTES` behind the end of a file of ``size`` bytes.

    Where the file system cannot do that, so many bytes must be free.

    Returns:
        How long the file may get without another block.

    Raises:
        OSError: there is no room.
    """
    end = size + CHUNK_BYTES
    if _fallocate is None:
        return _look_for_room(descriptor, end)
    # Python repeats its own calls after a signal, but not this one.
    while _fallocate(descriptor, _KEEP_SIZE, size, CHUNK_BYTES) != 0:
        code = ctypes.get_errno()
        if code in _UNSUPPORTED:
            return _look_for_room(descriptor, end)
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))
    return end


def give_room_back(descriptor: int) -> None:
    """Give back what was taken behind the end of the file.

    Raises:
        OSError: it cannot be; the next process that takes the file on uses it.
    """
    os.ftruncate(descriptor, os.fstat(descriptor).st_size)


def _look_for_room(descriptor: int, end: int) -> int:
    status = os.fstatvfs(descriptor)
    # Some tell of no blocks at all, such as a file system in memory without a limit.
    if status.f_blocks and status.f_bavail * status.f_frsize < CHUNK_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return end
