"""Turns at the token: each lane is a session that one thread uses at a time.

A call of the module cannot be cancelled. So nobody waits for a lane longer than the
deadline, and once every lane holds a call that is older, nobody waits at all.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from keycore.adapters.pkcs11_connection import close_quietly
from keycore.adapters.pkcs11_module import Guard
from keycore.adapters.pkcs11_profile import Login, Profile
from keycore.domain.ids import VersionId
from keycore.errors import TokenUnavailableError
from keycore.ports import WrappedKey

_PATIENCE_SECONDS = 0.01
"""How long somebody who waits may be overtaken."""


class Lane:
    """One session with its working copies. Whoever has taken it uses it alone.

    Attributes:
        login: ``None`` before the first use, and after the token was lost.
        since: when it was taken, monotonic seconds; ``None`` while it is free.
    """

    def __init__(self, profile: Profile, copies_max: int) -> None:
        """Keep up to ``copies_max`` working copies; what was used last stays longest."""
        self.login: Login | None = None
        self.since: float | None = None
        self._profile = profile
        self._copies: OrderedDict[VersionId, Any] = OrderedDict()
        self._copies_max = copies_max
        self._doomed: set[VersionId] = set()

    def working_copy(self, login: Login, key: WrappedKey) -> Any:
        """Return the working copy of a key version, unwrapped now if there is none."""
        copy = self._copies.get(key.version_id)
        if copy is None:
            copy = self._profile.working_copy(login, key.blob)
            self._copies[key.version_id] = copy
            while len(self._copies) > self._copies_max:
                self._profile.destroy(self._copies.popitem(last=False)[1])
        else:
            self._copies.move_to_end(key.version_id)
        return copy

    def holds(self, version_id: VersionId) -> bool:
        """Tell whether there is a working copy; anybody may ask."""
        return version_id in self._copies

    def doom(self, version_ids: Iterable[VersionId]) -> None:
        """Have these working copies destroyed by whoever takes the lane or gives it back."""
        self._doomed.update(version_ids)

    @property
    def is_swept(self) -> bool:
        """Whether nothing waits to be destroyed."""
        return not self._doomed

    def sweep(self) -> None:
        """Destroy the working copies that were doomed."""
        while self._doomed:
            copy = self._copies.pop(self._doomed.pop(), None)
            if copy is not None:
                self._profile.destroy(copy)

    def renew(self, login: Login | None) -> None:
        """Go on with another session; the old one and its working copies are given up."""
        old, self.login = self.login, login
        # Closing a session destroys its objects (PKCS#11 v3.0, 5.6).
        self._copies.clear()
        self._doomed.clear()
        if old is not None:
            close_quietly(old.session)

    def abandon(self) -> None:
        """Forget session and working copies without a call; the module has lost them."""
        self.login = None
        self._copies.clear()
        self._doomed.clear()


class Lanes:
    """All lanes of one token."""

    def __init__(self, lanes: list[Lane], guard: Guard, deadline_seconds: float) -> None:
        """Give ``lanes`` to those who wait ``deadline_seconds`` at most.

        Args:
            lanes: all of them free.
            guard: held around the calls of the module that are made here.
            deadline_seconds: also the age from which a call counts as hanging.
        """
        self._lanes = lanes
        self._guard = guard
        self._deadline_seconds = deadline_seconds
        self._free = list(lanes)
        self._waiting: deque[float] = deque()
        self._choosy = 0
        self._changed = threading.Condition(threading.Lock())

    def take(self) -> Lane:
        """Take a lane; give it back in any case.

        Raises:
            TokenUnavailableError: none became free within the deadline.
        """
        with self._changed:
            if not self._free or self._overtakes(math.inf):
                self._wait()
            lane = self._free.pop()
            lane.since = time.monotonic()
        self._sweep(lane)
        return lane

    def take_holding(self, version_id: VersionId) -> Lane | None:
        """Take a lane that has a working copy already, for when none can be made now.

        Returns:
            ``None`` when no lane has one, or none became free within the deadline.
        """

        def free() -> Lane | None:
            return next((lane for lane in reversed(self._free) if lane.holds(version_id)), None)

        with self._changed:
            if not any(lane.holds(version_id) for lane in self._lanes):
                return None
            self._choosy += 1
            try:
                lane = self._changed.wait_for(free, self._deadline_seconds)
            finally:
                self._choosy -= 1
            if lane is not None:
                self._free.remove(lane)
                lane.since = time.monotonic()
            return lane

    def give_back(self, lane: Lane) -> None:
        """Let the next one have the lane."""
        self._sweep(lane)
        with self._changed:
            lane.since = None
            self._free.append(lane)
            if self._waiting or self._choosy:
                # One alone may be one who must let others pass by the time he looks.
                self._changed.notify_all()
        if not lane.is_swept:
            self._sweep_free()

    @contextmanager
    def all(self) -> Iterator[list[Lane]]:
        """Wait until nobody is inside the module, and let nobody in during the block.

        Raises:
            TokenUnavailableError: a call has not come back within the deadline.
        """
        taken: list[Lane] = []
        try:
            while len(taken) < len(self._lanes):
                taken.append(self.take())
            yield taken
        finally:
            for lane in taken:
                self.give_back(lane)

    def forget(self, version_ids: Iterable[VersionId]) -> None:
        """Destroy working copies: now where a lane is free, else as soon as it is."""
        doomed = list(version_ids)
        if doomed:
            for lane in self._lanes:
                lane.doom(doomed)
            self._sweep_free()

    def stalled_seconds(self) -> float:
        """Return how long the oldest of the calls that run now has been running."""
        return max(self._ages(), default=0.0)

    def _ages(self) -> list[float]:
        now = time.monotonic()
        return [now - since for lane in self._lanes if (since := lane.since) is not None]

    def _sweep_free(self) -> None:
        with self._changed:
            free = [lane for lane in self._free if not lane.is_swept]
            for lane in free:
                self._free.remove(lane)
                lane.since = time.monotonic()
        for lane in free:
            self.give_back(lane)

    def _sweep(self, lane: Lane) -> None:
        if not lane.is_swept:
            with self._guard:
                lane.sweep()

    def _overtakes(self, ticket: float) -> bool:
        """Tell whether who has that ticket would overtake somebody who has waited for long.

        To let everybody overtake saves a change of threads for each call of a fast token.
        At a slow one somebody could be overtaken until his deadline has passed.
        """
        first = self._waiting[0] if self._waiting else ticket
        return first < ticket and time.monotonic() - first > _PATIENCE_SECONDS

    def _wait(self) -> None:
        ages = self._ages()
        hanging = len(ages) == len(self._lanes) and min(ages) > self._deadline_seconds
        ticket = time.monotonic()
        self._waiting.append(ticket)
        try:
            if not hanging and self._changed.wait_for(
                lambda: self._free and not self._overtakes(ticket), self._deadline_seconds
            ):
                return
        finally:
            self._waiting.remove(ticket)
        raise TokenUnavailableError(
            f"the token has not answered for {self._deadline_seconds:.1f} seconds",
            hint="check the HSM; a call that never returns ends by restarting this process",
        )
