"""The one tree of errors that the core raises; every edge maps it in one table of its own.

Messages hold only facts that may be shown to anybody who may call at all: ids,
names, states and sizes, and never key bytes, plaintext, PINs, credentials or SQL.
``hint`` says what to do next. ``code`` is stable: audit lines, conditions and
clients rely on it::

    KeyplaneError
    ├── SetupError                    the installation must be mended by hand
    │   ├── SettingsError
    │   ├── WrongUserError
    │   ├── NotInitialisedError
    │   ├── AlreadyInitialisedError
    │   ├── TokenSetupError           module, token, objects or mechanisms missing
    │   ├── PinRejectedError
    │   ├── StoreSetupError
    │   └── SocketInUseError
    ├── InvalidRequestError
    │   ├── CiphertextMalformedError
    │   ├── PayloadNotAllowedError
    │   └── NotARootKeyError
    ├── AccessError                   the caller, not the request, is refused
    │   ├── UnauthenticatedError
    │   ├── AccessDeniedError
    │   └── TooManyRequestsError
    ├── NotFoundError
    │   ├── KeyNotFoundError
    │   ├── InstanceNotFoundError
    │   ├── ProviderNotFoundError
    │   └── NodeNotFoundError
    ├── ConflictError                 the request is well formed, the state forbids it
    │   ├── KeyStateError
    │   │   └── KeyDeletedError
    │   ├── KeyInUseError
    │   ├── KeyOwnedError
    │   ├── KeyExhaustedError
    │   ├── RotationPendingError
    │   ├── PayloadRequiredError
    │   ├── ProviderUnboundError
    │   ├── IdempotencyKeyReusedError
    │   └── AlreadyExistsError
    ├── CiphertextRejectedError       never says why
    ├── IntegrityError                a record is not what the HSM signed
    └── UnavailableError              try again
        ├── TokenUnavailableError
        ├── StoreUnavailableError
        │   └── StoreUnconfirmedError   it may have been done
        ├── AuditUnavailableError
        └── IssuerUnavailableError
"""

from __future__ import annotations

from typing import ClassVar


class KeyplaneError(Exception):
    """Root of all errors of the core.

    Attributes:
        code: stable machine-readable name of the class.
        message: one sentence of safe facts.
        hint: what the reader can do about it; empty when there is nothing to say.
    """

    code: ClassVar[str] = "keyplane"

    def __init__(self, message: str, *, hint: str = "") -> None:
        """Keep ``message`` and ``hint``; both may be shown to any caller."""
        super().__init__(message)
        self.message = message
        self.hint = hint


class SetupError(KeyplaneError):
    """The installation cannot work until an administrator mends it; retrying is useless."""

    code = "setup"


class SettingsError(SetupError):
    """The configuration has faults; the message lists all of them."""

    code = "settings"


class WrongUserError(SetupError):
    """The process runs under another uid than the one that owns the state directory."""

    code = "wrong_user"


class NotInitialisedError(SetupError):
    """There is no installation in the state directory yet."""

    code = "not_initialised"


class AlreadyInitialisedError(SetupError):
    """``init`` met a finished installation and changed nothing."""

    code = "already_initialised"


class TokenSetupError(SetupError):
    """The PKCS#11 module, the token, one of its three objects or a mechanism is missing."""

    code = "token_setup"


class PinRejectedError(SetupError):
    """The token refused the PIN, now or earlier; no further login is tried with that PIN file."""

    code = "pin_rejected"


class StoreSetupError(SetupError):
    """The store is missing, of another schema, or belongs to another token."""

    code = "store_setup"


class SocketInUseError(SetupError):
    """Another process serves the socket, or something that is no socket lies at its path."""

    code = "socket_in_use"


class InvalidRequestError(KeyplaneError):
    """A field of the request has a value that can never be accepted.

    Attributes:
        field: name of the field at fault; empty when the request as a whole is.
    """

    code = "invalid_request"

    def __init__(self, message: str, *, field: str = "", hint: str = "") -> None:
        """Keep the faulty ``field`` beside the message."""
        super().__init__(message, hint=hint)
        self.field = field


class CiphertextMalformedError(InvalidRequestError):
    """The ciphertext has an impossible length or an unknown format; nothing was decrypted."""

    code = "ciphertext_malformed"

    def __init__(self) -> None:
        """Say the one fixed sentence."""
        super().__init__("the ciphertext is not one that keyplane made", field="ciphertext")


class PayloadNotAllowedError(InvalidRequestError):
    """Key material was given for a rotation of a key that keyplane generated."""

    code = "payload_not_allowed"

    def __init__(self) -> None:
        """Say the one fixed sentence."""
        super().__init__("key material may be given only if the key was imported", field="payload")


class NotARootKeyError(InvalidRequestError):
    """The operation needs a root key and the key is a standard key."""

    code = "not_a_root_key"


class AccessError(KeyplaneError):
    """The caller is refused, whatever the request is."""

    code = "access"


class UnauthenticatedError(AccessError):
    """There is no credential, or none that proves who the caller is.

    Attributes:
        reason: stable word for the audit line, such as ``expired``; it is not told
            to the caller, whom it would help to forge a better one.
    """

    code = "unauthenticated"

    def __init__(self, reason: str) -> None:
        """Keep ``reason`` beside the one fixed sentence."""
        super().__init__("the request carries no valid bearer token")
        self.reason = reason


class AccessDeniedError(AccessError):
    """The caller is known and may not do this."""

    code = "access_denied"


class TooManyRequestsError(AccessError):
    """The caller asks more often than it may.

    Attributes:
        retry_after_seconds: when the next request will be answered; at least 1.
    """

    code = "too_many_requests"

    def __init__(self, retry_after_seconds: int) -> None:
        """Keep ``retry_after_seconds`` beside the one fixed sentence."""
        super().__init__("the caller sends more requests than it may", hint="try again later")
        self.retry_after_seconds = retry_after_seconds


class NotFoundError(KeyplaneError):
    """The named thing does not exist, or not for this caller."""

    code = "not_found"


class KeyNotFoundError(NotFoundError):
    """No such key in the instance. Never raised because of what the HSM does or does not hold."""

    code = "key_not_found"

    def __init__(self, key_id: str) -> None:
        """Name the key that was asked for."""
        super().__init__(f"key {key_id} does not exist")


class InstanceNotFoundError(NotFoundError):
    """No such instance."""

    code = "instance_not_found"


class ProviderNotFoundError(NotFoundError):
    """No such KMS provider."""

    code = "provider_not_found"


class NodeNotFoundError(NotFoundError):
    """No node of that name is registered."""

    code = "node_not_found"


class ConflictError(KeyplaneError):
    """The request is well formed, but the state of the key or provider forbids it now."""

    code = "conflict"


class KeyStateError(ConflictError):
    """The key's state does not allow the operation (``rest-contract`` states × actions)."""

    code = "key_state"


class KeyDeletedError(KeyStateError):
    """The key was deleted; only its tombstone is left."""

    code = "key_deleted"

    def __init__(self, key_id: str) -> None:
        """Name the deleted key."""
        super().__init__(f"key {key_id} has been deleted")


class KeyInUseError(ConflictError):
    """A KMS provider needs the key to open what lies in etcd."""

    code = "key_in_use"


class KeyOwnedError(ConflictError):
    """Another resource manages the key already."""

    code = "key_owned"


class KeyExhaustedError(ConflictError):
    """The key version has made as many ciphertexts as NIST SP 800-38D, 8.3 allows."""

    code = "key_exhausted"


class RotationPendingError(ConflictError):
    """An earlier rotation or binding has not reached every registered node yet."""

    code = "rotation_pending"


class PayloadRequiredError(ConflictError):
    """An imported key is rotated with new key material only."""

    code = "payload_required"


class ProviderUnboundError(ConflictError):
    """The KMS provider has no key to encrypt with yet."""

    code = "provider_unbound"


class IdempotencyKeyReusedError(ConflictError):
    """The idempotency key was used before, for a request that asked for something else."""

    code = "idempotency_key_reused"


class AlreadyExistsError(ConflictError):
    """A thing with that id or name exists already."""

    code = "already_exists"


class CiphertextRejectedError(KeyplaneError):
    """The ciphertext does not open under this key and AAD; the reason is never told apart."""

    code = "ciphertext_rejected"

    def __init__(self) -> None:
        """Say the one fixed sentence, whatever the reason."""
        super().__init__("the ciphertext is invalid or corrupted")


class IntegrityError(KeyplaneError):
    """A record of the store is not the one that the HSM signed; it was not used."""

    code = "integrity"

    def __init__(self, kind: str, record_id: str) -> None:
        """Name the record by kind and id."""
        super().__init__(
            f"the {kind} record {record_id} fails its integrity check and was not used",
            hint="restore the record from a backup; somebody or something changed the store",
        )


class UnavailableError(KeyplaneError):
    """Something that is normally there does not answer; the same call may succeed later."""

    code = "unavailable"


class TokenUnavailableError(UnavailableError):
    """The token does not answer, or has lost its login or its objects.

    It never means that a key was deleted: deletion is a fact of the store alone.
    """

    code = "token_unavailable"


class StoreUnavailableError(UnavailableError):
    """The store cannot be read or written at the moment."""

    code = "store_unavailable"


class StoreUnconfirmedError(StoreUnavailableError):
    """The answer to a commit was lost: the change may have been made, or not."""

    code = "store_unconfirmed"


class AuditUnavailableError(UnavailableError):
    """No audit line can be written, so nothing was done that would need one."""

    code = "audit_unavailable"


class IssuerUnavailableError(UnavailableError):
    """The signing keys of a token issuer could not be fetched, so nobody of it can be known."""

    code = "issuer_unavailable"
