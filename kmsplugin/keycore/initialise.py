"""``keyplane init`` and ``keyplane join``: from an empty directory to a finished host.

Every step looks first at what is there, so a run that was killed is simply
repeated. The last step writes the signed installation row; before it nothing
counts as initialised, after it ``init`` refuses.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from keycore.adapters.pkcs11_connection import Connection, TokenPlace
from keycore.adapters.pkcs11_module import Pkcs11Module
from keycore.adapters.pkcs11_token import Pkcs11Token
from keycore.adapters.softhsm import (
    initialise_token,
    staged_token,
    token_directory,
    use_embedded_softhsm,
)
from keycore.adapters.sql_store import SqlStore
from keycore.adapters.system_clock import SystemClock
from keycore.bootstrap import (
    check_owner,
    connect,
    is_unmoved,
    missing_store,
    not_initialised,
    open_audit,
    open_token,
    pin_file,
    read_installation,
    store_place,
    was_initialised,
)
from keycore.domain.ids import InstanceId, new_uuid
from keycore.domain.instances import Installation, Instance
from keycore.domain.names import check_namespace
from keycore.errors import AlreadyInitialisedError, SettingsError, TokenSetupError
from keycore.files import exclusive, replace_durably
from keycore.ports import TokenDescription
from keycore.service.caller import Auditor, Caller
from keycore.service.records import Records
from keycore.settings import Settings

DEFAULT_INSTANCE = "default"
"""Name of the instance that ``init`` makes, so that a first key has a home."""

DEFAULT_NAMESPACE = "keyplane-system"
"""The Kubernetes namespace that the default instance is bound to."""

PIN_DIGITS = 16
"""Length of generated PINs: 53 bits, within what every token's PIN length allows."""

_LOCK_NAME = "init.lock"

# The last one is in every file system of its own.
_OWN_NAMES = frozenset(
    {
        "audit",
        "installation",
        "keyring",
        "pins",
        "policy.toml",
        "tls",
        "tokens",
        _LOCK_NAME,
        "lost+found",
    }
)

_OWN_PREFIXES = ("installation.", "keyplane.db", "pin-rejected", "softhsm2.", "tokens.")

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Initialised:
    """What ``init`` has made."""

    installation: Installation
    instance: Instance
    token: TokenDescription


def initialise(
    settings: Settings,
    caller: Caller,
    *,
    namespace: str = DEFAULT_NAMESPACE,
    progress: Progress = lambda _: None,
) -> Initialised:
    """Make state directory, token objects, store and the default instance.

    Args:
        settings: where things go.
        caller: for the audit line.
        namespace: Kubernetes namespace to bind the default instance to.
        progress: gets one sentence before each step.

    Raises:
        AlreadyInitialisedError: there is a finished installation; nothing was changed.
        SetupError: directory, module, token or PIN unusable.
        UnavailableError: token or store did not answer.
    """
    check_namespace(namespace)
    _make_state_dir(settings.state_dir)
    # A second init waits, and finds what the first one has made. Each step looks before
    # it makes something; two that look at once would both make it, and a token with two
    # master keys is of no use.
    with exclusive(settings.state_dir / _LOCK_NAME), ExitStack() as stack:
        _refuse_if_finished(settings)
        progress("make the store")
        store = stack.enter_context(closing(SqlStore.create(store_place(settings))))
        # Of another host, likewise.
        stack.enter_context(store.alone_at_setup())
        _refuse_if_finished(settings)
        token = stack.enter_context(closing(_make_token(settings, progress)))
        audit = open_audit(settings, caller.face, token, store)
        stack.callback(audit.close)
        with Auditor(audit, SystemClock()).decision(caller, "init") as decision:
            made = _write_first_rows(store, token, namespace)
            decision.note(installation=made.installation.id, instance=made.instance.id)
        _mark_finished(settings, made.installation)
        return made


def join(
    settings: Settings, caller: Caller, *, pin_from: Path | None = None, again: bool = False
) -> Installation:
    """Add this host to an installation whose store is in PostgreSQL; repeating changes nothing.

    The token must hold the installation's keys already: an HSM that all hosts reach, or a
    copy of its content.

    Args:
        settings: where things are; ``store.postgresql`` must be set.
        caller: for the audit line.
        pin_from: a file with the user PIN, which is copied to the PIN file of the settings
            with mode 0600; ``None`` when it is there already. A host that has joined
            keeps the PIN that it has.
        again: this host was part of the installation before, and has lost its state
            directory, or its first join failed at its end. Otherwise its name must be a
            new one.

    Raises:
        SetupError: directory, module, token, PIN or store unusable, or the store was
            signed by another token.
        UnavailableError: token or store did not answer.
    """
    if settings.store.embedded:
        raise SettingsError(
            "there is nothing to join: the store is a file of this host",
            hint="set store.postgresql, or run: keyplane init",
        )
    if is_unmoved(settings):
        raise not_initialised(settings)
    _make_state_dir(settings.state_dir)
    with exclusive(settings.state_dir / _LOCK_NAME), ExitStack() as stack:
        if pin_from is not None:
            _copy_pin(pin_from, settings)
        _require_embedded_token(settings)
        _require_pin(settings)
        token = stack.enter_context(closing(open_token(settings)))
        store = stack.enter_context(closing(SqlStore.open(store_place(settings))))
        records = Records(store, token)
        installation = read_installation(settings, records)
        if not again and not settings.finished_marker.is_file():
            _refuse_known_name(settings.provider.node, records, store)
        audit = open_audit(settings, caller.face, token, store)
        stack.callback(audit.close)
        with Auditor(audit, SystemClock()).decision(
            caller, "join", installation=installation.id, node=settings.provider.node
        ):
            _mark_finished(settings, installation)
        return installation


def _refuse_known_name(node: str, records: Records, store: SqlStore) -> None:
    """Refuse a name by which the store knows another host.

    Rotations would not wait for both, and each would miss the other's audit.
    """
    with records.reading() as unit:
        known = {found.name for found in unit.nodes()}
    if node in known | {head.node for head in store.audit_heads()}:
        raise SettingsError(
            f"a host of this installation is called {node} already; nothing was changed",
            hint="set provider.node to a name of its own; if this is that host, made anew: "
            "keyplane join --again",
        )


def _require_pin(settings: Settings) -> None:
    if not settings.pin_file.is_file():
        raise SettingsError(
            f"there is no PIN of the token in {settings.pin_file}",
            hint="copy it from the first host (pins/user.pin in its state directory) and run: "
            "keyplane join --pin-from FILE",
        )


def _require_embedded_token(settings: Settings) -> None:
    tokens = token_directory(settings.state_dir)
    if settings.embedded and not tokens.is_dir():
        raise TokenSetupError(
            f"there is no token in {tokens}, and a new one would not hold the keys",
            hint="set token.module to the HSM that all hosts reach, or copy that directory here",
        )


def _mark_finished(settings: Settings, installation: Installation) -> None:
    marker = f"{installation.id}\n".encode()
    replace_durably(settings.finished_marker, marker, mode=0o600)


def _copy_pin(source: Path, settings: Settings) -> None:
    target = settings.pin_file
    try:
        pin = source.read_bytes().strip()
    except OSError as error:
        raise SettingsError(
            f"the file {source} with the PIN cannot be read: {error.strerror}",
            hint="correct --pin-from, or let this process read it",
        ) from None
    if target.is_file() and target.read_bytes().strip() == pin:
        # A PIN file that changes gets one more try, and this one has not.
        return
    if settings.finished_marker.is_file():
        raise SettingsError(
            f"this host uses another PIN than the one in {source}; nothing was changed",
            hint=f"if the token's PIN is a new one, write it to {target}",
        )
    target.parent.mkdir(mode=0o700, exist_ok=True)
    replace_durably(target, pin + b"\n", mode=0o600)


def _make_token(settings: Settings, progress: Progress) -> Pkcs11Token:
    if settings.embedded:
        progress("make PIN files and the SoftHSM2 token")
        _initialise_embedded(settings)
        use_embedded_softhsm(settings.state_dir)
    connection = connect(settings, writable=True)
    progress("make the master, sealing and record MAC keys in the token")
    connection.provision(settings.token.profile)
    return Pkcs11Token(connection)


def _make_state_dir(state_dir: Path) -> None:
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"the state directory {state_dir} cannot be made: {error.strerror}",
            hint="run as a user that may, or set state_dir",
        ) from None
    check_owner(state_dir)
    strangers = sorted(path.name for path in state_dir.iterdir() if not _is_ours(path.name))
    if strangers:
        # Taking the directory over would lock everybody else out of it.
        raise SettingsError(
            f"the state directory {state_dir} holds something else: {', '.join(strangers[:3])}",
            hint="set state_dir to a directory for keyplane alone",
        )
    state_dir.chmod(0o700)


def _is_ours(name: str) -> bool:
    """Tell whether keyplane, or an administrator for it, can have put a file of that name there."""
    return name in _OWN_NAMES or name.startswith(_OWN_PREFIXES)


def _refuse_if_finished(settings: Settings) -> None:
    if is_unmoved(settings):
        raise not_initialised(settings)
    if settings.store.embedded and not settings.database.is_file():
        finished = False
    else:
        finished = SqlStore.holds_installation(store_place(settings))
    if not finished:
        if was_initialised(settings):
            raise missing_store(settings)
        return
    if not settings.store.embedded and not settings.finished_marker.is_file():
        raise _store_in_use()
    raise AlreadyInitialisedError(
        f"{settings.state_dir} is initialised; nothing was changed",
        hint="see: keyplane status",
    )


def _store_in_use() -> AlreadyInitialisedError:
    return AlreadyInitialisedError(
        "the store holds an installation already; nothing was changed",
        hint="add this host to it: keyplane join",
    )


def _initialise_embedded(settings: Settings) -> None:
    so_pin = _pin(settings.pins_dir / "so.pin")
    user_pin = _pin(settings.pin_file)
    if token_directory(settings.state_dir).is_dir():
        return
    with staged_token(settings.state_dir):
        module = Pkcs11Module(settings.module)
        initialise_token(module, settings.token.label, so_pin, user_pin)
        place = TokenPlace(settings.token.label, None)
        connection = Connection(module, place, pin_file(settings), writable=True)
        connection.provision(settings.token.profile)
        with module.guard:
            module.library.finalize()


def _pin(path: Path) -> str:
    """Return the PIN in ``path``, made and written durably when there is none."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if not path.exists():
        pin = "".join(secrets.choice("0123456789") for _ in range(PIN_DIGITS))
        replace_durably(path, f"{pin}\n".encode(), mode=0o600)
    return path.read_text(encoding="ascii").strip()


def _write_first_rows(store: SqlStore, token: Pkcs11Token, namespace: str) -> Initialised:
    now = SystemClock().now()
    description = token.describe()
    instance = Instance(InstanceId(new_uuid()), DEFAULT_INSTANCE, namespace, now)
    installation = Installation(new_uuid(), description.label, description.serial, now)
    with Records(store, token).writing() as unit:
        if unit.installation() is not None:
            raise _store_in_use()
        unit.save_instance(instance)
        unit.save_installation(installation)
    return Initialised(installation, instance, description)
