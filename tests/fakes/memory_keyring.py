"""A node keyring in memory, whose disk can be full and whose file can be damaged."""

from __future__ import annotations

from collections.abc import Callable

from keycore.domain.keyring import NodeKeyring
from keycore.errors import IntegrityError, StoreUnavailableError


class MemoryKeyring:
    """``full = True`` refuses writes, ``broken = True`` makes what was saved unusable."""

    def __init__(self) -> None:
        self.kept: NodeKeyring | None = None
        self.full = False
        self.broken = False
        self.writes = 0

    def load(self) -> NodeKeyring | None:
        if self.broken:
            raise IntegrityError("keyring", "memory")
        return self.kept

    def update(self, change: Callable[[NodeKeyring | None], NodeKeyring]) -> NodeKeyring:
        keyring = change(None if self.broken else self.kept)
        if self.full:
            raise StoreUnavailableError("the keyring cannot be written: no space")
        self.kept, self.broken = keyring, False
        self.writes += 1
        return keyring
