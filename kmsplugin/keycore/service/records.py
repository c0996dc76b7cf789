"""The signed view of the store: nothing read from it is used before its MAC was checked.

Use cases see domain values only. This module is the one place that signs what
goes into the store and verifies what comes out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from keycore.domain.framing import encode_fields
from keycore.domain.ids import InstanceId, KeyId
from keycore.domain.instances import Installation, Instance
from keycore.domain.keys import Key
from keycore.domain.providers import Node, Provider
from keycore.domain.records import NEWEST_FORMAT, RecordT, describe, signed_bytes
from keycore.errors import (
    IdempotencyKeyReusedError,
    InstanceNotFoundError,
    IntegrityError,
    KeyNotFoundError,
    NodeNotFoundError,
    ProviderNotFoundError,
)
from keycore.ports import KeyFilter, Receipt, RecordSigner, Signed, Store, Transaction


class Unit:
    """One transaction, in verified values. Every method may raise ``IntegrityError``."""

    def __init__(self, rows: Transaction, signer: RecordSigner) -> None:
        """Read and write ``rows`` with MACs by ``signer``."""
        self._rows = rows
        self._signer = signer

    def key(self, key_id: KeyId, *, within: InstanceId | None = None) -> Key:
        """Return a key, a tombstone too.

        Args:
            key_id: the key.
            within: the caller's instance; a key of another one does not exist for
                it. ``None`` is the administrator's view over all instances.

        Raises:
            KeyNotFoundError: there is none.
        """
        signed = self._rows.keys.get(key_id)
        if signed is None or within not in (None, signed.record.instance_id):
            raise KeyNotFoundError(key_id)
        return self._verified(signed)

    def key_owned_by(self, owner: str) -> Key | None:
        """Return the key that a resource owns, or ``None``."""
        signed = self._rows.keys.owned_by(owner)
        return None if signed is None else self._verified(signed)

    def aliased_key(self, alias: str, *, within: InstanceId) -> Key:
        """Return the key that has ``alias`` in the caller's instance.

        Raises:
            KeyNotFoundError: there is none.
        """
        key_id = self._rows.keys.aliased(within, alias)
        if key_id is None:
            raise KeyNotFoundError(alias)
        key = self.key(key_id, within=within)
        if alias not in key.aliases:
            # The alias column is only an index; what counts is the signed list.
            raise IntegrityError("alias", alias)
        return key

    def keys(self, wanted: KeyFilter, now: datetime, *, offset: int, limit: int) -> list[Key]:
        """Return one page of keys, sorted by id."""
        return self._all(self._rows.keys.page(wanted, now, offset=offset, limit=limit))

    def count_keys(self, wanted: KeyFilter, now: datetime) -> int:
        """Return the number of keys of all pages."""
        return self._rows.keys.count(wanted, now)

    def key_made_before(self, receipt_id: bytes, request: bytes) -> Key | None:
        """Return the key that the same request made earlier, or ``None``.

        Args:
            receipt_id: 32 bytes that name caller, instance and idempotency key.
            request: encoding of all that was asked for.

        Raises:
            IdempotencyKeyReusedError: the earlier request was another one.
        """
        receipt = self._rows.keys.receipt(receipt_id)
        if receipt is None:
            return None
        signed = _receipt_bytes(receipt_id, receipt.key_id, request)
        if not self._signer.is_signed(signed, receipt.mac):
            raise IdempotencyKeyReusedError(
                "the idempotency key was used for another request",
                hint="use a fresh key for each request",
            )
        return self.key(receipt.key_id)

    def save_receipt(self, receipt_id: bytes, request: bytes, key: Key) -> None:
        """Remember that ``request`` has made ``key``."""
        mac = self._signer.sign(_receipt_bytes(receipt_id, key.id, request))
        self._rows.keys.save_receipt(Receipt(receipt_id, key.id, mac, key.created_at))

    def save_key(self, key: Key) -> None:
        """Sign and save a key with its versions."""
        self._rows.keys.save(self._signed(key))

    def provider(self, name: str) -> Provider:
        """Return a provider with its ledger.

        Raises:
            ProviderNotFoundError: there is none.
        """
        found = self.find_provider(name)
        if found is None:
            raise ProviderNotFoundError(
                f"provider {name} does not exist",
                hint=f"bind it to a key: keyplane provider set {name} --key <key id>",
            )
        return found

    def find_provider(self, name: str) -> Provider | None:
        """Return a provider with its ledger, or ``None``."""
        signed = self._rows.providers.get(name)
        return None if signed is None else self._verified(signed)

    def providers(self) -> list[Provider]:
        """Return every provider, sorted by name."""
        return self._all(self._rows.providers.all())

    def save_provider(self, provider: Provider) -> None:
        """Sign and save a provider with its ledger."""
        self._rows.providers.save(self._signed(provider))

    def nodes(self, provider: str | None = None) -> list[Node]:
        """Return the nodes of one or of every provider, sorted by name."""
        return self._all(self._rows.providers.nodes(provider))

    def save_node(self, node: Node) -> None:
        """Sign and save a node."""
        self._rows.providers.save_node(self._signed(node))

    def remove_node(self, provider: str, name: str) -> None:
        """Remove a node.

        Raises:
            NodeNotFoundError: it is not registered.
        """
        # Not verified: removing it is the way to mend a record that was changed.
        if name not in {row.record.name for row in self._rows.providers.nodes(provider)}:
            raise NodeNotFoundError(f"node {name} is not registered for provider {provider}")
        self._rows.providers.remove_node(provider, name)

    def instance(self, instance_id: InstanceId) -> Instance:
        """Return an instance.

        Raises:
            InstanceNotFoundError: there is none.
        """
        found = self.find_instance(instance_id)
        if found is None:
            raise InstanceNotFoundError(f"instance {instance_id} does not exist")
        return found

    def find_instance(self, instance_id: InstanceId) -> Instance | None:
        """Return an instance or ``None``."""
        signed = self._rows.instances.get(instance_id)
        return None if signed is None else self._verified(signed)

    def instance_bound_to(self, namespace: str) -> Instance | None:
        """Return the instance that is bound to a namespace by name, or ``None``."""
        signed = self._rows.instances.bound_to(namespace)
        return None if signed is None else self._verified(signed)

    def instances(self) -> list[Instance]:
        """Return every instance, sorted by id."""
        return self._all(self._rows.instances.all())

    def save_instance(self, instance: Instance) -> None:
        """Sign and save an instance."""
        self._rows.instances.save(self._signed(instance))

    def installation(self) -> Installation | None:
        """Return the installation row, or ``None`` before ``init`` has finished."""
        signed = self._rows.instances.installation()
        return None if signed is None else self._verified(signed)

    def save_installation(self, installation: Installation) -> None:
        """Sign and save the installation row."""
        self._rows.instances.save_installation(self._signed(installation))

    def _signed(self, record: RecordT) -> Signed[RecordT]:
        data = signed_bytes(record, NEWEST_FORMAT)
        if data is None:
            raise AssertionError("the newest record format has no encoder")
        return Signed(record, NEWEST_FORMAT, self._signer.sign(data))

    def _verified(self, signed: Signed[RecordT]) -> RecordT:
        try:
            data = signed_bytes(signed.record, signed.record_format)
        except (AssertionError, AttributeError, OverflowError, TypeError, ValueError):
            # A column of another type than we ever write cannot even be encoded.
            data = None
        if (
            data is None
            or not isinstance(signed.mac, bytes)
            or not self._signer.is_signed(data, signed.mac)
        ):
            raise IntegrityError(*describe(signed.record))
        return signed.record

    def _all(self, rows: Sequence[Signed[RecordT]]) -> list[RecordT]:
        return [self._verified(row) for row in rows]


def _receipt_bytes(receipt_id: bytes, key_id: KeyId, request: bytes) -> bytes:
    return encode_fields(("keyplane/receipt/1", receipt_id, key_id, request))


class Records:
    """Opens verified transactions on a store."""

    def __init__(self, store: Store, signer: RecordSigner) -> None:
        """Use ``store`` with record MACs by ``signer``."""
        self._store = store
        self._signer = signer

    @contextmanager
    def reading(self) -> Iterator[Unit]:
        """Open a consistent view.

        Raises:
            StoreUnavailableError: the store did not answer.
        """
        with self._store.reading() as rows:
            yield Unit(rows, self._signer)

    @contextmanager
    def writing(self) -> Iterator[Unit]:
        """Open the only writer; commit on leaving, roll back on an exception.

        Raises:
            StoreUnavailableError: the store did not answer; nothing was written.
        """
        with self._store.writing() as rows:
            yield Unit(rows, self._signer)
