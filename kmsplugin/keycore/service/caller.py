"""Who asks, and the audit line that every decision leaves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from keycore.domain.ids import VersionId
from keycore.errors import KeyplaneError, UnauthenticatedError
from keycore.ports import AuditCondition, AuditEvent, AuditLog, Clock


@dataclass(frozen=True, slots=True)
class Caller:
    """The origin of a request, for audit lines and ``created_by``.

    Attributes:
        face: ``cli``, ``operator``, ``provider`` or ``rest``.
        actor: the subject within the face, such as ``uid:0`` or ``Key demo/etcd``.
        correlation_id: the caller's own id of the request; empty for none.
    """

    face: str
    actor: str
    correlation_id: str = ""


class Decision:
    """One use case that runs: facts that it adds end in its audit line, together with its outcome.

    A class, because a generator for each call takes as long as writing the line.
    """

    __slots__ = ("_auditor", "_caller", "_operation", "details")

    def __init__(self, auditor: Auditor, caller: Caller, operation: str) -> None:
        """Record with ``auditor`` at the end of the block."""
        self._auditor = auditor
        self._caller = caller
        self._operation = operation
        self.details: dict[str, str | int] = {}

    def note(self, **facts: str | int | None) -> None:
        """Add facts; ``None`` values are left out."""
        for name, fact in facts.items():
            if fact is not None:
                self.details[name] = fact

    def __enter__(self) -> Self:
        """Begin, unless its line could not be written.

        Raises:
            AuditUnavailableError: it could not, and this face must not act without.
        """
        self._auditor.require_room()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Record how it ended; what was raised passes unchanged."""
        outcome = "ok"
        if error is not None:
            outcome = error.code if isinstance(error, KeyplaneError) else "internal_error"
        self._auditor.record(self._caller, self._operation, outcome, self.details)


class Auditor:
    """Writes one line for each decision, before its answer leaves the core.

    Attributes:
        require_room: raises ``AuditUnavailableError`` where nothing may be done because
            its line could not be written; the log's own method, for speed.
    """

    def __init__(self, log: AuditLog, clock: Clock) -> None:
        """Write to ``log`` with times from ``clock``."""
        self.require_room = log.require_room
        self._log = log
        self._clock = clock

    def condition(self) -> AuditCondition:
        """Return how the log is, from memory."""
        return self._log.condition()

    def decision(self, caller: Caller, operation: str, **facts: str | int | None) -> Decision:
        """Run a use case in the block and record its outcome.

        A domain error is recorded with its code and passes unchanged. Anything
        else is a fault of ours and is recorded as ``internal_error``.
        """
        decision = Decision(self, caller, operation)
        decision.note(**facts)
        return decision

    @contextmanager
    def refusals(
        self, caller: Caller, operation: str, **facts: str | int | None
    ) -> Iterator[Decision]:
        """Record a domain error that a face raises before any use case has been called.

        Use cases record themselves, so nothing is recorded when the block succeeds.

        Raises:
            AuditUnavailableError: instead of the refusal, because there is no room for
                its line. What is left belongs to operations that have acted.
        """
        decision = Decision(self, caller, operation)
        decision.note(**facts)
        try:
            yield decision
        except KeyplaneError as error:
            self.require_room()
            reason = error.reason if isinstance(error, UnauthenticatedError) else None
            decision.note(reason=reason)
            self.record(caller, operation, error.code, decision.details)
            raise

    def warn_half_used(self, version_id: VersionId, used: int) -> None:
        """Record that a key version has made half of the ciphertexts that it may make."""
        self.record(
            Caller("core", "keyplane"),
            "key.half_used",
            "warning",
            {"version": version_id, "uses": used},
        )

    def record(
        self, caller: Caller, operation: str, outcome: str, details: dict[str, str | int]
    ) -> None:
        """Append one line."""
        self._log.write(
            AuditEvent(
                time=self._clock.now(),
                operation=operation,
                outcome=outcome,
                face=caller.face,
                actor=caller.actor,
                correlation_id=caller.correlation_id,
                details=details,
            )
        )
