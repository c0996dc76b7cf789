"""KMS providers as the administrator sees them: bind, watch, release, and their nodes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from keycore.domain.ids import KeyId
from keycore.domain.keys import Operation, ensure_allowed
from keycore.domain.names import check_node_name, check_provider_name
from keycore.domain.providers import (
    Activation,
    Node,
    Provider,
    with_activation,
    with_key_released,
)
from keycore.errors import KeyInUseError, KeyNotFoundError
from keycore.ports import Clock
from keycore.service import rotation
from keycore.service.caller import Auditor, Caller
from keycore.service.records import Records, Unit


@dataclass(frozen=True, slots=True)
class ProviderOverview:
    """A provider with its nodes.

    Attributes:
        waiting_for: nodes that have not loaded the pending activation yet.
    """

    provider: Provider
    nodes: tuple[Node, ...]
    waiting_for: tuple[str, ...]


class ProviderService:
    """Use cases on providers and their nodes."""

    def __init__(self, records: Records, auditor: Auditor, clock: Clock) -> None:
        """Keep providers in ``records``."""
        self._records = records
        self._auditor = auditor
        self._clock = clock

    def bind(self, caller: Caller, name: str, key_id: KeyId) -> ProviderOverview:
        """Make a provider encrypt with a key; binding to the key it has changes nothing.

        The new activation is pending until every registered node has loaded it.

        Raises:
            InvalidRequestError: the name is malformed, or the key is no root key.
            KeyNotFoundError: no such key.
            KeyStateError: the key is not active.
            RotationPendingError: an earlier binding or rotation is not finished.
            UnavailableError: token or store did not answer; nothing was changed.
        """
        with self._auditor.decision(caller, "provider.set", provider=name, key=key_id) as decision:
            check_provider_name(name)
            with self._records.writing() as unit:
                provider = self._bound(unit, name, key_id)
                decision.note(activation=provider.activations[-1].id)
                return _overview(unit, provider)

    def overview(self, name: str) -> ProviderOverview:
        """Return one provider.

        Raises:
            ProviderNotFoundError: there is none of that name.
            IntegrityError: its record was changed.
            StoreUnavailableError: the store did not answer.
        """
        with self._records.reading() as unit:
            return _overview(unit, unit.provider(name))

    def overviews(self) -> list[ProviderOverview]:
        """Return every provider, sorted by name.

        Raises:
            IntegrityError: a record was changed.
            StoreUnavailableError: the store did not answer.
        """
        with self._records.reading() as unit:
            return [_overview(unit, provider) for provider in unit.providers()]

    def users_of(self, key_id: KeyId) -> list[ProviderOverview]:
        """Return the providers that need the key, sorted by name.

        Raises:
            IntegrityError: a record was changed.
            StoreUnavailableError: the store did not answer.
        """
        return [seen for seen in self.overviews() if seen.provider.needs(key_id)]

    def release(self, caller: Caller, name: str, key_id: KeyId) -> ProviderOverview:
        """Give up the ability to open what the provider encrypted under a former key.

        Raises:
            ProviderNotFoundError: there is none of that name.
            KeyInUseError: the provider is still bound to the key.
            KeyNotFoundError: the provider needs no such key, or not any more.
            UnavailableError: token or store did not answer; nothing was changed.
        """
        with (
            self._auditor.decision(caller, "provider.release", provider=name, key=key_id),
            self._records.writing() as unit,
        ):
            provider = unit.provider(name)
            if not provider.needs(key_id):
                raise KeyNotFoundError(key_id)
            if provider.encrypts_with(key_id):
                raise KeyInUseError(
                    f"provider {name} still encrypts with key {key_id}",
                    hint=f"bind it to another key first: keyplane provider set {name} --key …",
                )
            released = with_key_released(provider, key_id, self._clock.now())
            unit.save_provider(released)
            return _overview(unit, released)

    def nodes(self) -> list[Node]:
        """Return every registered node.

        Raises:
            IntegrityError: a record was changed.
            StoreUnavailableError: the store did not answer.
        """
        with self._records.reading() as unit:
            return unit.nodes()

    def report(self, provider_name: str, node_name: str, loaded: int) -> None:
        """Register a node, or note its progress and that it is alive.

        When it was the last one that a pending activation waited for, the
        activation becomes active.

        Args:
            provider_name: the provider that the node serves.
            node_name: the node.
            loaded: every live activation up to this sequence can be decrypted there.

        Raises:
            InvalidRequestError: a name is malformed.
            UnavailableError: token or store did not answer; nothing was changed.
        """
        check_provider_name(provider_name)
        check_node_name(node_name)
        now = self._clock.now()
        with self._records.writing() as unit:
            known = {node.name: node for node in unit.nodes(provider_name)}
            node = known.get(node_name) or Node(provider_name, node_name, 0, now, now)
            unit.save_node(replace(node, loaded=loaded, seen_at=now))
            known_provider = unit.find_provider(provider_name)
            settled = known_provider is not None and rotation.settle(unit, provider_name, now)
        if settled and known_provider is not None and known_provider.pending is not None:
            self._auditor.record(
                Caller("provider", f"node:{node_name}"),
                "provider.activate",
                "ok",
                {
                    "provider": provider_name,
                    "key": known_provider.pending.key_id,
                    "version": known_provider.pending.version_id,
                    "activation": known_provider.pending.id,
                },
            )

    def remove_node(self, caller: Caller, provider_name: str, node_name: str) -> None:
        """Stop waiting for a node that will not come back.

        A removed node that runs after all registers itself again.

        Raises:
            NodeNotFoundError: it is not registered.
            UnavailableError: token or store did not answer; nothing was changed.
        """
        with (
            self._auditor.decision(caller, "node.remove", provider=provider_name, node=node_name),
            self._records.writing() as unit,
        ):
            unit.remove_node(provider_name, node_name)
            if unit.find_provider(provider_name) is not None:
                rotation.settle(unit, provider_name, self._clock.now())

    def _bound(self, unit: Unit, name: str, key_id: KeyId) -> Provider:
        now = self._clock.now()
        key = unit.key(key_id)
        ensure_allowed(key, Operation.BIND, now)
        provider = unit.find_provider(name)
        if provider is not None and provider.key_id == key_id:
            return provider
        rotation.ensure_settled(unit, key, [provider] if provider else [])
        activation = rotation.next_activation(provider, key, key.current, now)
        unit.save_provider(
            with_activation(provider, activation, now)
            if provider
            else _new_provider(name, activation)
        )
        rotation.settle(unit, name, now)
        return unit.provider(name)


def _new_provider(name: str, activation: Activation) -> Provider:
    created = activation.created_at
    return Provider(name, activation.key_id, created, created, (activation,))


def _overview(unit: Unit, provider: Provider) -> ProviderOverview:
    waiting = tuple(rotation.waits_for(unit, provider))
    return ProviderOverview(provider, tuple(unit.nodes(provider.name)), waiting)
