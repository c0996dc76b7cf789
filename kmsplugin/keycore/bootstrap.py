"""The only module that picks adapters for ports; every face starts here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from keycore.adapters.audit_file import FileAuditLog
from keycore.adapters.pin_file import PinFile
from keycore.adapters.pkcs11_connection import Connection, TokenPlace
from keycore.adapters.pkcs11_module import Pkcs11Module
from keycore.adapters.pkcs11_token import Pkcs11Token
from keycore.adapters.softhsm import use_embedded_softhsm
from keycore.adapters.sql_store import SqlStore
from keycore.adapters.system_clock import SystemClock
from keycore.domain.instances import Installation
from keycore.errors import (
    IntegrityError,
    NotInitialisedError,
    StoreSetupError,
    WrongUserError,
)
from keycore.ports import AuditLog, Clock, Store, Token, TokenObserver
from keycore.service.caller import Auditor
from keycore.service.cipher import EnvelopeCipher
from keycore.service.creation import KeyMaker
from keycore.service.instances import InstanceService
from keycore.service.key_cache import KeyCache
from keycore.service.keys import KeyService
from keycore.service.kms import KMS_USES_AHEAD, KmsProvider
from keycore.service.providers import ProviderService
from keycore.service.records import Records
from keycore.service.use_budget import UseBudget
from keycore.service.wrapping import WrappingService
from keycore.settings import Settings


@dataclass(frozen=True, slots=True)
class Core:
    """The use cases, wired to one store and one token."""

    settings: Settings
    installation: Installation
    keys: KeyService
    wrapping: WrappingService
    instances: InstanceService
    providers: ProviderService
    kms: KmsProvider
    cache: KeyCache
    budget: UseBudget
    auditor: Auditor
    store: Store
    token: Token
    clock: Clock


@contextmanager
def open_core(settings: Settings, face: str) -> Iterator[Core]:
    """Open store and token of a finished installation, and close them at the end.

    Args:
        settings: where things are.
        face: names this process's audit file: ``cli``, ``operator``, ``provider``, ``rest``.

    Raises:
        SetupError: not initialised, another uid, or token, PIN or store unusable.
        UnavailableError: token or store did not answer.
    """
    check_owner(settings.state_dir)
    if not settings.database.is_file():
        raise not_initialised(settings)
    with ExitStack() as stack:
        store = SqlStore.open(settings.database)
        stack.callback(store.close)
        token = open_token(settings)
        stack.callback(token.close)
        audit = FileAuditLog(settings.audit_dir / f"{face}.jsonl")
        stack.callback(audit.close)
        yield wire(settings, store, token, audit, SystemClock())


def wire(settings: Settings, store: Store, token: Token, audit: AuditLog, clock: Clock) -> Core:
    """Build the use cases on given ports; tests pass fakes here.

    Raises:
        NotInitialisedError: ``init`` has not finished.
        StoreSetupError: the store was signed by another token.
    """
    records = Records(store, token)
    auditor = Auditor(audit, clock)
    budget = UseBudget(store, warn=auditor.warn_half_used)
    # A provider encrypts a few times a day, and each start takes a new block.
    kms_budget = UseBudget(store, block=KMS_USES_AHEAD, warn=auditor.warn_half_used)
    cipher = EnvelopeCipher(token, budget)
    cache = KeyCache(store, records, token, clock)
    providers = ProviderService(records, auditor, clock)
    return Core(
        settings=settings,
        installation=_installation(settings, records),
        keys=KeyService(
            records,
            store,
            maker=KeyMaker(token, material_bits=settings.keys.material_bits),
            root_keys=token,
            cache=cache,
            auditor=auditor,
            clock=clock,
        ),
        wrapping=WrappingService(cache, cipher, token, auditor, clock),
        instances=InstanceService(records, auditor, clock),
        providers=providers,
        kms=KmsProvider(
            settings.provider.name,
            settings.provider.node,
            store=store,
            records=records,
            providers=providers,
            token=token,
            cipher=EnvelopeCipher(token, kms_budget),
            budget=kms_budget,
            auditor=auditor,
            clock=clock,
        ),
        cache=cache,
        budget=budget,
        auditor=auditor,
        store=store,
        token=token,
        clock=clock,
    )


def open_token(settings: Settings, observe: TokenObserver | None = None) -> Pkcs11Token:
    """Load the module, log in and find the objects.

    Raises:
        TokenSetupError: module, token, object or mechanism missing.
        PinRejectedError: the PIN is wrong, now or before.
        SettingsError: the PIN file cannot be used.
        TokenUnavailableError: the token did not answer.
    """
    if settings.embedded:
        use_embedded_softhsm(settings.state_dir)
    connection = connect(settings, writable=False)
    connection.identify(settings.token.profile)
    return Pkcs11Token(
        connection,
        parallelism=settings.token.parallelism,
        deadline_seconds=settings.token.deadline.total_seconds(),
        observe=observe,
    )


def connect(settings: Settings, *, writable: bool) -> Connection:
    """Load the module, find the token and log in.

    Raises:
        TokenSetupError: module or token missing.
        PinRejectedError: the PIN is wrong, now or before.
        SettingsError: the PIN file cannot be used.
        TokenUnavailableError: the token did not answer.
    """
    module = Pkcs11Module(settings.module, parallel=settings.token.parallelism > 1)
    place = TokenPlace(settings.token.label, settings.token.serial)
    return Connection(module, place, pin_file(settings), writable=writable)


def pin_file(settings: Settings) -> PinFile:
    """Return the user PIN's file with its marker in the state directory."""
    return PinFile(settings.pin_file, settings.state_dir / "pin-rejected")


def check_owner(state_dir: Path) -> None:
    """Check that this process runs as the owner of the state directory.

    Files made under another uid would lock the real owner out.

    Raises:
        NotInitialisedError: there is no such directory.
        WrongUserError: it belongs to another uid.
    """
    try:
        owner = state_dir.stat().st_uid
    except OSError:
        raise NotInitialisedError(
            f"there is no installation in {state_dir}", hint="run: keyplane init"
        ) from None
    if owner != os.geteuid():
        raise WrongUserError(
            f"{state_dir} belongs to uid {owner}, and this process runs as uid {os.geteuid()}",
            hint=f"run it as that user: sudo -u '#{owner}' keyplane …",
        )


def not_initialised(settings: Settings) -> NotInitialisedError:
    """Return the error for a state directory in which ``init`` has not finished."""
    return NotInitialisedError(
        f"the installation in {settings.state_dir} is not finished", hint="run: keyplane init"
    )


def _installation(settings: Settings, records: Records) -> Installation:
    try:
        with records.reading() as unit:
            installation = unit.installation()
    except IntegrityError:
        raise StoreSetupError(
            f"the store in {settings.state_dir} was not signed by this token",
            hint="connect the token that it was initialised with, or restore the matching store",
        ) from None
    if installation is None:
        raise not_initialised(settings)
    return installation
