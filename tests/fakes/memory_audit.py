"""An audit log in memory."""

from __future__ import annotations

from dataclasses import replace

from keycore.errors import AuditUnavailableError
from keycore.ports import AuditCondition, AuditEvent


class MemoryAuditLog:
    """Keeps every event. ``full = True`` makes it behave like one whose disk is full."""

    def __init__(self) -> None:
        self.events: list[AuditEvent] = []
        self.full = False
        self.current = AuditCondition()

    def require_room(self) -> None:
        if self.full:
            raise AuditUnavailableError("there is no room for audit lines")

    def write(self, event: AuditEvent) -> None:
        self.events.append(event)

    def condition(self) -> AuditCondition:
        return replace(self.current, lines=len(self.events))

    def last(self, operation: str) -> AuditEvent:
        """Return the newest event of an operation."""
        return [event for event in self.events if event.operation == operation][-1]
