"""Reads every record of a store once, and finds out which are not as they were signed."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from keycore.domain.ids import KeyId, VersionId
from keycore.domain.keys import Key, KeyKind, VersionState
from keycore.errors import IntegrityError
from keycore.ports import KeyFilter
from keycore.service.records import Records, Unit

_PAGE: Final = 512

_ALL: Final = KeyFilter(deleted=True)

_OTHERS: Final[tuple[Callable[[Unit], list[datetime]], ...]] = (
    lambda unit: [instance.created_at for instance in unit.instances()],
    lambda unit: [provider.updated_at for provider in unit.providers()],
    lambda unit: [node.seen_at for node in unit.nodes()],
)
"""Each reads all records of one kind, and returns their latest times."""


class Survey:
    """One reading of all records.

    Attributes:
        verified: how many were as they were signed.
        broken: one error for each key, and each other kind of record, that was not.
        left: how many keys there was no time for.
        newest: the latest time in any of them.
        current: the version that encrypts of each root key, with that key's id.
    """

    def __init__(self, records: Records, now: datetime) -> None:
        """Read ``records``; ``now`` is only what a list of keys asks for."""
        self._records = records
        self._now = now
        self.verified = 0
        self.broken: list[IntegrityError] = []
        self.left = 0
        self.newest = datetime.fromtimestamp(0, tz=UTC)
        self.current: dict[VersionId, KeyId] = {}

    def run(self, latest: float) -> None:
        """Read everything, but begin no page of keys after ``latest`` (monotonic seconds).

        Raises:
            UnavailableError: token or store did not answer.
        """
        for moments in _OTHERS:
            try:
                with self._records.reading() as unit:
                    self._note(moments(unit))
            except IntegrityError as error:
                self.broken.append(error)
        with self._records.reading() as unit:
            count = unit.count_keys(_ALL, self._now)
        for offset in range(0, count, _PAGE):
            if time.monotonic() > latest:
                self.left = count - offset
                return
            self._read_keys(offset, _PAGE)

    def _read_keys(self, offset: int, limit: int) -> None:
        """Read a page; where one of its records is broken, find out which."""
        try:
            with self._records.reading() as unit:
                keys = unit.keys(_ALL, self._now, offset=offset, limit=limit)
        except IntegrityError as error:
            if limit == 1:
                self.broken.append(error)
                return
            half = limit // 2
            self._read_keys(offset, half)
            self._read_keys(offset + half, limit - half)
            return
        self._note([key.updated_at for key in keys])
        self.current |= {key.current.id: key.id for key in keys if _encrypts(key)}

    def _note(self, moments: list[datetime]) -> None:
        self.verified += len(moments)
        self.newest = max((self.newest, *moments))


def _encrypts(key: Key) -> bool:
    return key.kind is KeyKind.ROOT and key.current.state is VersionState.ACTIVE
