"""Which checks there are, in which order, and which needs which."""

from __future__ import annotations

from typing import Final, TypeAlias

from keycore.diagnosis import (
    audit,
    clock,
    encryption_configuration,
    place,
    provider,
    store,
    token,
)
from keycore.diagnosis.examination import Examination
from keycore.diagnosis.findings import Check

NodeCheck: TypeAlias = "Check[Examination]"

CONFIGURATION: Final[NodeCheck] = Check("configuration", place.check_configuration)
"""All others need it."""

_C: Final = ("configuration",)

_S: Final = ("state directory",)

_PLACE: Final[tuple[NodeCheck, ...]] = (
    Check("state directory", place.check_state_directory, _C),
    Check("permissions", place.check_permissions, _S),
    Check("disk", place.check_disk, _S),
    Check("audit files", audit.check_audit_files, _S),
    Check("PIN file", place.check_pin_file, _S),
    Check("earlier refusal", place.check_earlier_refusal, ("PIN file",)),
)

_TOKEN: Final[tuple[NodeCheck, ...]] = (
    Check("module file", place.check_module_file, _C),
    Check("module", token.check_module, ("module file", *_S)),
    Check("token", token.check_token, ("module",)),
    Check("PIN state", token.check_pin_state, ("token",)),
    Check("login", token.check_login, ("PIN file", "earlier refusal", "PIN state")),
    Check("mechanisms", token.check_mechanisms, ("login",)),
    Check("token objects", token.check_objects, ("mechanisms",)),
    Check("guarantee", token.check_guarantee, ("token objects",)),
    Check("known answers", token.check_known_answers, ("token objects",)),
    Check("random source", token.check_random, ("token objects",)),
)

_STORE: Final[tuple[NodeCheck, ...]] = (
    Check("store", store.check_store, _S),
    Check("installation", store.check_installation, ("store", "token objects")),
    Check("records", store.check_records, ("installation",)),
    Check("audit chains", audit.check_audit_chains, ("audit files", "installation")),
    Check("clock", clock.check_clock, _C),
    Check("time", clock.check_time, ("installation",)),
)

_PROVIDER: Final[tuple[NodeCheck, ...]] = (
    Check("provider binding", provider.check_binding, ("installation",)),
    Check("key_ids", provider.check_generations, ("provider binding",)),
    Check("uses", store.check_uses, ("installation",)),
    Check("expiry", provider.check_expiry, ("provider binding", "key_ids")),
    Check("nodes", provider.check_nodes, ("provider binding",)),
    Check("keyring", provider.check_keyring, ("token objects",)),
    Check("keyring contents", provider.check_keyring_ledger, ("keyring", "provider binding")),
)

_ENCRYPTION: Final[NodeCheck] = Check(
    "encryption config", encryption_configuration.check_encryption_configuration, _C
)


def plan(socket: tuple[NodeCheck, ...], *, encryption_config: bool) -> list[NodeCheck]:
    """Return the checks of one examination, in order.

    Args:
        socket: those of the face that serves the socket.
        encryption_config: whether there is a file to look at.
    """
    last = (_ENCRYPTION,) if encryption_config else ()
    return [CONFIGURATION, *_PLACE, *_TOKEN, *_STORE, *_PROVIDER, *socket, *last]
