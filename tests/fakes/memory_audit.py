"""An audit log in memory."""

from __future__ import annotations

from keycore.ports import AuditEvent


class MemoryAuditLog:
    """Keeps every event."""

    def __init__(self) -> None:
        self.events: list[AuditEvent] = []

    def write(self, event: AuditEvent) -> None:
        self.events.append(event)

    def last(self, operation: str) -> AuditEvent:
        """Return the newest event of an operation."""
        return [event for event in self.events if event.operation == operation][-1]
