"""One way of looking at a Key for every occasion: gather, decide, act, and tell.

Created, changed, found at a start or looked at again by a timer: the same steps
run. Each of them can be repeated, and the process may be killed between any two;
what it has done is found in the core by the owner's name, never remembered here.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from keycore.bootstrap import Core
from keycore.domain.keys import Key
from keycore.errors import KeyplaneError
from keyoperator.act import Actor
from keyoperator.decide import (
    Action,
    Edit,
    Observed,
    Release,
    Resume,
    Suspend,
    last_action,
    next_actions,
    next_rotation,
)
from keyoperator.errors import INTERNAL_ERROR, explain, find_disposition
from keyoperator.events import Event, derive_events
from keyoperator.findings import explain_blocked_deletion, explain_failure, find_conditions
from keyoperator.gather import ClusterReader, Gatherer
from keyoperator.metrics import OK, KnownKeys, OperatorMetrics
from keyoperator.resource import (
    Manifest,
    is_being_deleted,
    is_held,
    parse_identity,
    parse_previous,
    parse_wanted,
    render_status,
    status_changes,
)
from keyoperator.status import (
    Condition,
    ConditionType,
    Finding,
    find_condition,
    merge_conditions,
)
from keyoperator.wanted import Identity, Previous, Wanted

logger = logging.getLogger(__name__)

_ROUNDS_MAX = 3
"""Made, then edited, then rotated: more rounds never bring anything new. A key that
does not keep what it is told is looked at again by the timer."""

_LOCKS = 64
"""More than there are threads, so that two Keys seldom wait for one another."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a handler has to write and to raise.

    Attributes:
        status: a merge patch of the status; empty when it says all this already.
        failure: what kept the key from being as wanted.
    """

    status: Mapping[str, object] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    failure: Exception | None = None


class Reconciler:
    """Brings keys and Key resources together. Its methods may run in several threads."""

    def __init__(
        self,
        core: Core,
        cluster: ClusterReader,
        *,
        metrics: OperatorMetrics | None = None,
        keys: KnownKeys | None = None,
    ) -> None:
        """Work on the keys of ``core``.

        Args:
            core: the use cases.
            cluster: what is read from.
            metrics: counts every look.
            keys: is told how each Key was found.
        """
        self._core = core
        self._metrics = metrics or OperatorMetrics()
        resync = core.settings.operator.resync.total_seconds()
        self._known = keys or KnownKeys(core.clock, resync_seconds=resync)
        self._gatherer = Gatherer(core, cluster)
        self._actor = Actor(core, cluster, self._gatherer)
        # kopf runs the timer of a resource beside its other handlers. A lock for
        # each resource keeps one from deciding on what the other is changing.
        self._locks = tuple(threading.Lock() for _ in range(_LOCKS))

    def reconcile(self, manifest: Manifest) -> Outcome:
        """Bring a key to what its resource says, and say how it is.

        Args:
            manifest: the resource; may be a live view, it is read under the lock.
        """
        with self._lock(manifest):
            return self._reconcile_if_held(dict(manifest))

    def look_again(self, manifest: Manifest) -> Outcome:
        """Do the same without an occasion, unless the resource is being worked on just now."""
        lock = self._lock(manifest)
        if not lock.acquire(blocking=False):
            return Outcome()
        try:
            current = dict(manifest)
            # The first look is left to the handler of the creation, so that it is
            # told once that a key was made.
            is_new = parse_previous(current).observed_generation is None
            return Outcome() if is_new else self._reconcile_if_held(current)
        finally:
            lock.release()

    def delete(self, manifest: Manifest) -> Outcome:
        """Deal with the key of a resource that is being deleted.

        Without a failure in the outcome the resource may go.
        """
        with self._lock(manifest):
            return self._counted(self._delete, dict(manifest))

    def _delete(self, manifest: Manifest) -> Outcome:
        identity = parse_identity(manifest)
        try:
            events = self._let_go(parse_wanted(manifest))
        except Exception as error:  # noqa: BLE001 - every fault has to keep the resource
            found = _find_failure(identity, error, explain_blocked_deletion)
            return self._tell(manifest, (found,), failure=error)
        self._known.forget(identity.uid)
        return Outcome(events=events)

    def _lock(self, manifest: Manifest) -> threading.Lock:
        return self._locks[hash(parse_identity(dict(manifest)).uid) % _LOCKS]

    def _reconcile_if_held(self, manifest: Manifest) -> Outcome:
        # A timer can be late. After the resource's key was dealt with, making or
        # adopting one would leave it without anybody to delete it.
        if is_being_deleted(manifest) or not is_held(manifest):
            return Outcome()
        return self._counted(self._reconcile, manifest)

    def _counted(self, look: Callable[[Manifest], Outcome], manifest: Manifest) -> Outcome:
        started = time.perf_counter()
        outcome = look(manifest)
        failure = outcome.failure
        reason = OK if failure is None else find_disposition(failure).reason
        self._metrics.count(reason, time.perf_counter() - started)
        return outcome

    def _note(self, identity: Identity, conditions: Sequence[Condition], key: Key | None) -> None:
        ready = find_condition(conditions, ConditionType.READY)
        self._known.note(identity.uid, "Unknown" if ready is None else str(ready.holds), key)

    def _reconcile(self, manifest: Manifest) -> Outcome:
        identity, wanted = parse_identity(manifest), None
        done: list[Event] = []
        try:
            wanted = parse_wanted(manifest)
            observed = self._bring_about(wanted, parse_previous(manifest), done)
        except Exception as error:  # noqa: BLE001 - every fault has to end in the status
            found = _find_failure(identity, error, explain_failure)
            key = self._owned_key(identity)
            return self._tell(manifest, (found,), wanted=wanted, key=key, done=done, failure=error)
        findings = find_conditions(wanted, observed, self._core.clock.now())
        return self._tell(manifest, findings, wanted=wanted, key=observed.key, done=done)

    def _bring_about(self, wanted: Wanted, previous: Previous, done: list[Event]) -> Observed:
        observed = self._gatherer.observe(wanted, previous)
        for _ in range(_ROUNDS_MAX):
            actions = next_actions(wanted, observed, self._core.clock.now())
            if not actions:
                break
            for action in actions:
                self._actor.carry_out(wanted, action, observed.key)
                done.extend(_describe(wanted, previous, action))
            observed = self._gatherer.observe(wanted, previous)
        return observed

    def _let_go(self, wanted: Wanted) -> tuple[Event, ...]:
        action = last_action(wanted, self._core.keys.owned_by(wanted.identity.owner))
        if action is None:
            return ()
        self._actor.let_go(wanted, action)
        if isinstance(action, Release):
            message = f"Key {action.key_id} is kept, and no resource manages it any more"
            return (Event("Normal", "Released", message),)
        return (Event("Normal", "Deleted", f"Key {action.key_id} was destroyed"),)

    def _owned_key(self, identity: Identity) -> Key | None:
        """Return the key for a status that is about a failure; without one if need be."""
        try:
            return self._core.keys.owned_by(identity.owner)
        except KeyplaneError:
            return None

    def _tell(
        self,
        manifest: Manifest,
        findings: Sequence[Finding],
        *,
        wanted: Wanted | None = None,
        key: Key | None = None,
        done: Sequence[Event] = (),
        failure: Exception | None = None,
    ) -> Outcome:
        identity, previous = parse_identity(manifest), parse_previous(manifest)
        now = self._core.clock.now()
        conditions = merge_conditions(previous.conditions, findings, identity.generation, now)
        self._note(identity, conditions, key)
        due = next_rotation(wanted, key) if wanted is not None and key is not None else None
        status = render_status(identity, conditions, key=key, next_rotation=due)
        derived = derive_events(previous, key, conditions, adopts=bool(wanted and wanted.adopt))
        return Outcome(status_changes(manifest, status), (*done, *derived), failure)


def _describe(wanted: Wanted, previous: Previous, action: Action) -> list[Event]:
    """Return the event of an action that the status does not show by itself."""
    drifted = previous.observed_generation == wanted.identity.generation
    match action:
        case Edit():
            fields = action.fields
        case Resume() | Suspend() if drifted:
            fields = "spec.state"
        case _:
            return []
    if drifted:
        message = f"The key was changed elsewhere; set back to what the resource says: {fields}"
        return [Event("Normal", "DriftCorrected", message)]
    return [Event("Normal", "Updated", f"The key was changed to follow {fields}")]


def _find_failure(
    identity: Identity, error: Exception, finding: Callable[[str, str], Finding]
) -> Finding:
    reason = find_disposition(error).reason
    if reason == INTERNAL_ERROR:
        logger.error("%s: unexpected fault", identity, exc_info=error)
    return finding(reason, explain(error))
