"""Instances: who shares keys with whom."""

from __future__ import annotations

from dataclasses import replace

from keycore.domain.ids import InstanceId, new_uuid
from keycore.domain.instances import Instance
from keycore.domain.keys import check_name
from keycore.domain.names import check_namespace
from keycore.errors import AlreadyExistsError
from keycore.ports import Clock
from keycore.service.caller import Auditor, Caller
from keycore.service.records import Records, Unit


class InstanceService:
    """Creates, lists and binds instances."""

    def __init__(self, records: Records, auditor: Auditor, clock: Clock) -> None:
        """Keep instances in ``records``."""
        self._records = records
        self._auditor = auditor
        self._clock = clock
        self._seen: set[InstanceId] = set()

    def create(
        self,
        caller: Caller,
        name: str,
        *,
        instance_id: InstanceId | None = None,
        namespace: str | None = None,
    ) -> Instance:
        """Create an instance.

        Args:
            caller: for the audit line.
            name: 2..90 printable characters, not unique.
            instance_id: its id; ``None`` makes a new one.
            namespace: Kubernetes namespace whose Key resources live in it.

        Raises:
            InvalidRequestError: name or namespace is malformed.
            AlreadyExistsError: the id is taken, or the namespace is bound elsewhere.
            StoreUnavailableError: the store did not answer.
        """
        chosen = instance_id or InstanceId(new_uuid())
        with self._auditor.decision(caller, "instance.create", instance=chosen) as decision:
            decision.note(namespace=namespace)
            check_name(name)
            if namespace is not None:
                check_namespace(namespace)
            with self._records.writing() as unit:
                if unit.find_instance(chosen) is not None:
                    raise AlreadyExistsError(f"instance {chosen} exists already")
                return self._save_new(unit, chosen, name, namespace)

    def is_known(self, instance_id: InstanceId) -> bool:
        """Tell whether :meth:`ensure_exists` would have no need of the store."""
        return instance_id in self._seen

    def ensure_exists(self, instance_id: InstanceId) -> None:
        """Check that there is such an instance; instances are never removed, so one look is enough.

        Raises:
            InstanceNotFoundError: there is none.
            IntegrityError: its record was changed.
            StoreUnavailableError: it was not seen before and the store did not answer.
        """
        if not self.is_known(instance_id):
            with self._records.reading() as unit:
                unit.instance(instance_id)
            self._seen.add(instance_id)

    def all(self) -> list[Instance]:
        """Return every instance, sorted by id.

        Raises:
            IntegrityError: a record was changed.
            StoreUnavailableError: the store did not answer.
        """
        with self._records.reading() as unit:
            return unit.instances()

    def bind(self, caller: Caller, instance_id: InstanceId, namespace: str | None) -> Instance:
        """Bind an existing instance to a namespace by name, or unbind it with ``None``.

        A recreated namespace has a new UID and would otherwise start with an empty
        instance; binding gives it its keys back.

        Raises:
            InvalidRequestError: the namespace is malformed.
            InstanceNotFoundError: no such instance.
            AlreadyExistsError: another instance is bound to the namespace.
            StoreUnavailableError: the store did not answer.
        """
        with self._auditor.decision(caller, "instance.bind", instance=instance_id) as decision:
            decision.note(namespace=namespace)
            if namespace is not None:
                check_namespace(namespace)
            with self._records.writing() as unit:
                bound = replace(unit.instance(instance_id), namespace=namespace)
                unit.save_instance(bound)
                return bound

    def of_namespace(self, caller: Caller, name: str, uid: InstanceId) -> Instance:
        """Return the instance of a Kubernetes namespace, created at first sight.

        Args:
            caller: for the audit line of a creation.
            name: the namespace; an instance bound to it by an administrator wins.
            uid: the namespace's UID, the id of its own instance.

        Raises:
            IntegrityError: the record was changed.
            StoreUnavailableError: the store did not answer.
        """
        with self._records.reading() as unit:
            found = unit.instance_bound_to(name) or unit.find_instance(uid)
        if found is not None:
            return found
        with (
            self._auditor.decision(caller, "instance.create", instance=uid, namespace=name),
            self._records.writing() as unit,
        ):
            found = unit.instance_bound_to(name) or unit.find_instance(uid)
            return found or self._save_new(unit, uid, name, None)

    def _save_new(
        self, unit: Unit, instance_id: InstanceId, name: str, namespace: str | None
    ) -> Instance:
        instance = Instance(instance_id, name, namespace, self._clock.now())
        unit.save_instance(instance)
        return instance
