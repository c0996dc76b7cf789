"""What every error means for a Key: the reason in its condition, and when to try again.

One table for the whole operator. A test walks all error classes, so a new one
cannot be forgotten. kopf writes the text of what handlers raise into an
annotation of the resource, so only texts made here ever reach it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import kopf

from keycore import errors as core
from keyoperator import cluster

INTERNAL_ERROR = "InternalError"
"""Reason for a fault of ours; what it was is in the operator's log only."""


@dataclass(frozen=True, slots=True)
class Disposition:
    """What to do about an error.

    Attributes:
        reason: the condition's reason.
        retry_after: when the same call may succeed; ``None`` when only a change of
            the resource, the key or the cluster can help. The periodic look finds
            such a change in any case.
    """

    reason: str
    retry_after: timedelta | None = None


_SOON = timedelta(seconds=2)
_LATER = timedelta(seconds=10)
_MUCH_LATER = timedelta(seconds=30)
_UNKNOWN = Disposition(INTERNAL_ERROR, timedelta(seconds=60))

DISPOSITIONS: Mapping[type[Exception], Disposition] = {
    core.KeyplaneError: _UNKNOWN,
    core.SetupError: Disposition("SetupFault"),
    core.SettingsError: Disposition("SetupFault"),
    core.WrongUserError: Disposition("SetupFault"),
    core.NotInitialisedError: Disposition("SetupFault"),
    core.AlreadyInitialisedError: Disposition("SetupFault"),
    core.TokenSetupError: Disposition("SetupFault"),
    core.PinRejectedError: Disposition("SetupFault"),
    core.StoreSetupError: Disposition("SetupFault"),
    core.SocketInUseError: Disposition("SetupFault"),
    core.InvalidRequestError: Disposition("Refused"),
    core.CiphertextMalformedError: Disposition("Refused"),
    core.PayloadNotAllowedError: Disposition("Refused"),
    core.NotARootKeyError: Disposition("Refused"),
    core.AccessError: Disposition("Refused"),
    core.UnauthenticatedError: Disposition("Refused"),
    core.AccessDeniedError: Disposition("Refused"),
    core.TooManyRequestsError: Disposition("Refused", _LATER),
    core.NotFoundError: Disposition("NotFound"),
    core.KeyNotFoundError: Disposition("KeyNotFound"),
    core.InstanceNotFoundError: Disposition("InstanceNotFound", _LATER),
    core.ProviderNotFoundError: Disposition("NotFound"),
    core.NodeNotFoundError: Disposition("NotFound"),
    core.ConflictError: Disposition("Conflict", _SOON),
    core.KeyStateError: Disposition("KeyState"),
    core.KeyDeletedError: Disposition("KeyDeleted"),
    core.KeyInUseError: Disposition("KeyInUse", _MUCH_LATER),
    core.KeyOwnedError: Disposition("KeyOwned"),
    core.KeyExhaustedError: Disposition("KeyExhausted"),
    core.RotationPendingError: Disposition("RotationPending", _MUCH_LATER),
    core.PayloadRequiredError: Disposition("PayloadRequired"),
    core.ProviderUnboundError: Disposition("ProviderUnbound"),
    core.IdempotencyKeyReusedError: Disposition("Conflict"),
    core.AlreadyExistsError: Disposition("Conflict", _SOON),
    core.CiphertextRejectedError: Disposition("Refused"),
    core.IntegrityError: Disposition("IntegrityFault"),
    core.UnavailableError: Disposition("Unavailable", _LATER),
    core.TokenUnavailableError: Disposition("TokenUnavailable", _LATER),
    core.StoreUnavailableError: Disposition("StoreUnavailable", _LATER),
    core.StoreUnconfirmedError: Disposition("StoreUnavailable", _LATER),
    core.AuditUnavailableError: Disposition("AuditUnavailable", _LATER),
    core.IssuerUnavailableError: Disposition("Unavailable", _LATER),
    cluster.ClusterError: _UNKNOWN,
    cluster.ClusterUnavailableError: Disposition("ClusterUnavailable", _LATER),
    cluster.ClusterForbiddenError: Disposition("ClusterForbidden", _MUCH_LATER),
    cluster.CrdMissingError: Disposition("CrdMissing", _LATER),
    cluster.NamespaceNotFoundError: Disposition("NamespaceNotFound", _LATER),
    cluster.SecretNotFoundError: Disposition("SecretNotFound", _LATER),
    cluster.MaterialMissingError: Disposition("MaterialMissing", _LATER),
}


def find_disposition(error: Exception) -> Disposition:
    """Return what to do about an error; one of no known class is a fault of ours."""
    return next((DISPOSITIONS[c] for c in type(error).__mro__ if c in DISPOSITIONS), _UNKNOWN)


def explain(error: Exception) -> str:
    """Return what people may read about an error: its own safe text, or a fixed one."""
    if isinstance(error, core.KeyplaneError | cluster.ClusterError):
        return as_sentences(error.message, error.hint)
    return "The operator met a fault of its own. Its log says more; it tries again in a minute"


def as_sentences(*texts: str) -> str:
    """Return texts that begin in lower case as sentences.

    The last one has no full stop, since it often ends in a command to be copied.
    """
    return ". ".join(text[0].upper() + text[1:] for text in texts if text)


def to_kopf(error: Exception) -> kopf.TemporaryError | kopf.PermanentError:
    """Return what a handler raises so that kopf retries, or stops until the resource changes."""
    disposition = find_disposition(error)
    if disposition.retry_after is None:
        return kopf.PermanentError(explain(error))
    return kopf.TemporaryError(explain(error), delay=disposition.retry_after.total_seconds())


def to_retry(error: Exception, at_least_every: timedelta) -> kopf.TemporaryError:
    """Return what a deletion handler raises.

    kopf lets go of a resource whose deletion failed permanently, and its key would
    be forgotten; so a deletion is tried until it succeeds.
    """
    delay = min(find_disposition(error).retry_after or _MUCH_LATER, at_least_every)
    return kopf.TemporaryError(explain(error), delay=delay.total_seconds())
