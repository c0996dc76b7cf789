"""The only module that picks adapters for ports; every face starts here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from keycore.adapters.audit_log import ChainedAuditLog
from keycore.adapters.keyring_file import FileKeyring
from keycore.adapters.opening_store import OpeningStore
from keycore.adapters.pin_file import PinFile
from keycore.adapters.pkcs11_connection import Connection, TokenPlace
from keycore.adapters.pkcs11_module import Pkcs11Module
from keycore.adapters.pkcs11_token import Pkcs11Token
from keycore.adapters.softhsm import use_embedded_softhsm
from keycore.adapters.sql_place import Place, PostgresqlPlace
from keycore.adapters.sql_store import SqlStore
from keycore.adapters.system_clock import SystemClock
from keycore.domain.instances import Installation
from keycore.domain.keyring import NodeKeyring
from keycore.errors import (
    IntegrityError,
    KeyplaneError,
    NotInitialisedError,
    SetupError,
    StoreSetupError,
    StoreUnavailableError,
    WrongUserError,
)
from keycore.ports import AuditLog, Clock, Keyring, Store, Token, TokenObserver
from keycore.service.caller import Auditor
from keycore.service.cipher import EnvelopeCipher
from keycore.service.creation import KeyMaker
from keycore.service.instances import InstanceService
from keycore.service.key_cache import KeyCache
from keycore.service.keyring import KMS_USES_AHEAD, KeyringKeeper
from keycore.service.keys import KeyService
from keycore.service.kms import KmsProvider
from keycore.service.kms_health import Probe
from keycore.service.kms_ledger import LedgerKeeper
from keycore.service.providers import ProviderService
from keycore.service.records import Records
from keycore.service.use_budget import UseBudget
from keycore.service.wrapping import WrappingService
from keycore.settings import Settings

STORE_SECONDS = 0.5
"""How long a provider with a keyring waits for the store at its start."""

_STORE_SECONDS_MAX = 30.0
"""A busy store answers within 15 seconds, if only with an error."""


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
def open_core(
    settings: Settings, face: str, *, observe: TokenObserver | None = None
) -> Iterator[Core]:
    """Open store and token of a finished installation, and close them at the end.

    Args:
        settings: where things are.
        face: names this process's audit file: ``cli``, ``operator``, ``provider``, ``rest``.
        observe: told of every use of the token.

    Raises:
        SetupError: not initialised, another uid, or token, PIN or store unusable.
        UnavailableError: token or store did not answer.
    """
    check_owner(settings.state_dir)
    if not is_set_up(settings):
        raise not_initialised(settings)
    with ExitStack() as stack:
        store = stack.enter_context(closing(_open_store(settings)))
        token = stack.enter_context(closing(open_token(settings, observe)))
        audit = stack.enter_context(closing(open_audit(settings, face, token, store)))
        yield wire(settings, store, token, audit, SystemClock())


@contextmanager
def open_provider_core(
    settings: Settings, face: str, *, observe: TokenObserver | None = None
) -> Iterator[Core]:
    """Open token and keyring, and the store as soon as it is there.

    With a keyring the store is waited for :data:`STORE_SECONDS` at most; without one
    there is nothing to serve from, and this is :func:`open_core`.

    Args:
        settings: where things are.
        face: as in :func:`open_core`.
        observe: told of every use of the token.

    Raises:
        SetupError: another uid, or token or PIN unusable; without a keyring also: not
            initialised, or the store unusable.
        UnavailableError: the token did not answer, or without a keyring the store.
    """
    check_owner(settings.state_dir)
    if not is_set_up(settings) and not settings.keyring.is_file():
        raise not_initialised(settings)
    with ExitStack() as stack:
        token = stack.enter_context(closing(open_token(settings, observe)))
        keyring = FileKeyring(settings.keyring, token)
        kept, refusal = _load_keyring(keyring)
        opening = stack.enter_context(closing(OpeningStore(partial(_open_store, settings))))
        audit = stack.enter_context(closing(open_audit(settings, face, token, opening)))
        fault = opening.wait(STORE_SECONDS if kept else _STORE_SECONDS_MAX)
        if fault and not kept:
            raise opening.error or StoreUnavailableError(fault)
        core = wire(
            settings,
            opening,
            token,
            audit,
            SystemClock(),
            keyring=keyring,
            installation=kept.installation if kept else None,
        )
        if kept is not None:
            try:
                core.kms.start_from(kept)
            except IntegrityError as error:
                refusal = error
        if refusal is not None:
            core.kms.refuse_keyring(refusal)
        yield core


def _load_keyring(keyring: Keyring) -> tuple[NodeKeyring | None, KeyplaneError | None]:
    try:
        return keyring.load(), None
    except (IntegrityError, StoreUnavailableError) as error:
        return None, error


def _open_store(settings: Settings) -> SqlStore:
    if not is_set_up(settings):
        raise not_initialised(settings)
    return SqlStore.open(store_place(settings))


def store_place(settings: Settings) -> Place:
    """Return where the store is: the file in the state directory, or a database elsewhere."""
    store = settings.store
    if store.postgresql is None:
        return settings.database
    return PostgresqlPlace(store.postgresql, store.password_file, store.deadline)


def store_title(settings: Settings) -> str:
    """Return what people call the store: a path, or database and hosts."""
    place = store_place(settings)
    return place.title if isinstance(place, PostgresqlPlace) else str(place)


def is_set_up(settings: Settings) -> bool:
    """Tell whether this host has what it needs to reach the store.

    What is in a database elsewhere, only its answer tells.
    """
    if settings.store.embedded:
        return settings.database.is_file()
    return settings.finished_marker.is_file() and not is_unmoved(settings)


def is_unmoved(settings: Settings) -> bool:
    """Tell whether the settings name a database while the embedded store's file is still here.

    An empty one is no store: SQLite has just made it, for a process that was forgotten.
    """
    if settings.store.embedded:
        return False
    try:
        return settings.database.stat().st_size > 0
    except OSError:
        return False


def wire(
    settings: Settings,
    store: Store,
    token: Token,
    audit: AuditLog,
    clock: Clock,
    *,
    keyring: Keyring | None = None,
    installation: Installation | None = None,
) -> Core:
    """Build the use cases on given ports; tests pass fakes here.

    Args:
        settings: where things are.
        store: where records live.
        token: what signs them.
        audit: where decisions are written.
        clock: where time comes from.
        keyring: the node's, for a provider.
        installation: taken for the installation row when the store does not tell it.

    Raises:
        NotInitialisedError: ``init`` has not finished, and no ``installation`` is given.
        StoreSetupError: the store was signed by another token; likewise.
        StoreUnavailableError: the store did not answer; likewise.
    """
    records = Records(store, token)
    auditor = Auditor(audit, clock)
    budget = UseBudget(store, warn=auditor.warn_half_used)
    cipher = EnvelopeCipher(token, budget)
    cache = KeyCache(store, records, token, clock)
    providers = ProviderService(records, auditor, clock)
    installation = _installation(settings, records, otherwise=installation)
    # A provider encrypts a few times a day, and each start takes a new block.
    kms_budget = UseBudget(store, block=KMS_USES_AHEAD, warn=auditor.warn_half_used)
    keeper = LedgerKeeper(
        settings.provider.name,
        settings.provider.node,
        store=store,
        records=records,
        providers=providers,
        root_keys=token,
        budget=kms_budget,
        keyring=KeyringKeeper(
            settings.provider.name,
            settings.provider.node,
            installation=installation,
            keyring=keyring,
            store=store,
            clock=clock,
        ),
        clock=clock,
    )
    return Core(
        settings=settings,
        installation=installation,
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
            keeper=keeper,
            probe=Probe(token, keeper, clock),
            token=token,
            cipher=EnvelopeCipher(token, kms_budget),
            outage=settings.provider.outage,
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


def open_audit(settings: Settings, face: str, token: Token, store: Store) -> ChainedAuditLog:
    """Open the audit log of a face: take a free slot and go on with its chain.

    Raises:
        StoreSetupError: it cannot be opened; nothing may be decided without it.
    """
    return ChainedAuditLog(
        settings.audit_dir,
        face,
        node=settings.provider.node,
        file_bytes=settings.audit.file_bytes,
        # kube-apiserver could read no Secret any more when the provider refused.
        strict=face != "provider",
        signer=token,
        heads=store,
        clock=SystemClock(),
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


def was_initialised(settings: Settings) -> bool:
    """Tell whether ``init`` has ever finished here, even if the store is not there now.

    Then the token holds the keys that everything was encrypted under, and a new store
    would only bury that.
    """
    keyrings = settings.keyring.parent.glob("*.json")
    return settings.finished_marker.is_file() or any(keyrings)


def not_initialised(settings: Settings) -> SetupError:
    """Return the error for a state directory without a finished store."""
    if is_unmoved(settings):
        return StoreSetupError(
            f"the store is still {settings.database}, and the settings name "
            f"{store_title(settings)}",
            hint="run: keyplane store migrate, or take store.postgresql out of the settings",
        )
    if not settings.store.embedded:
        return NotInitialisedError(
            f"this host does not belong to an installation yet ({settings.state_dir})",
            hint="run: keyplane init for a new installation, or keyplane join for one that exists",
        )
    if was_initialised(settings):
        return missing_store(settings)
    return NotInitialisedError(
        f"the installation in {settings.state_dir} is not finished", hint="run: keyplane init"
    )


def missing_store(settings: Settings) -> StoreSetupError:
    """Return the error for a store that is gone, while its token is there."""
    return StoreSetupError(
        f"the store {store_title(settings)} is missing, and it was there before",
        hint="put it back, or restore it from a backup; do not make a new one",
    )


def _installation(
    settings: Settings, records: Records, *, otherwise: Installation | None
) -> Installation:
    try:
        return read_installation(settings, records)
    except KeyplaneError:
        if otherwise is None:
            raise
        return otherwise


def read_installation(settings: Settings, records: Records) -> Installation:
    """Return the verified installation row.

    Raises:
        NotInitialisedError: there is none.
        StoreSetupError: the store was signed by another token.
        StoreUnavailableError: the store did not answer.
    """
    try:
        with records.reading() as unit:
            installation = unit.installation()
    except IntegrityError:
        raise StoreSetupError(
            f"the store {store_title(settings)} was not signed by this token",
            hint="connect the token that it was initialised with, or restore the matching store",
        ) from None
    if installation is None:
        raise not_initialised(settings)
    return installation
