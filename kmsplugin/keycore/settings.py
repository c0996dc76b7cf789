"""One frozen object with every setting, read once at start.

Sources, strongest first: ``KEYPLANE_*`` environment variables (``__`` between
section and field, as in ``KEYPLANE_PROVIDER__SOCKET``), the TOML file, the
defaults here. No setting is a secret: PINs live in files of their own.
"""

from __future__ import annotations

import os
import re
import socket
import tomllib
from collections.abc import Callable
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from keycore.domain.keys import MATERIAL_BITS, SHORT_MATERIAL_BITS
from keycore.domain.names import check_node_name, check_provider_name
from keycore.domain.providers import OutagePolicy
from keycore.errors import InvalidRequestError, SettingsError

DEFAULT_CONFIG_FILE = Path("/etc/keyplane/keyplane.toml")
"""Read when it exists and no other file is named."""

_PREFIX = "KEYPLANE_"

SOCKET_PATH_BYTES_MAX = 100
"""A unix socket's path has 108 bytes (``unix(7)``); the rest is for a temporary name."""

_SOFTHSM_PATHS = (
    Path("/usr/lib/softhsm/libsofthsm2.so"),
    Path("/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so"),
    Path("/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so"),
    Path("/usr/lib64/pkcs11/libsofthsm2.so"),
)


def _checked_by(check: Callable[[str], str]) -> Callable[[str], str]:
    """Return a rule of the domain in the form that pydantic takes."""

    def validate(value: str) -> str:
        try:
            return check(value)
        except InvalidRequestError as error:
            raise ValueError(error.message) from None

    return validate


def _socket_path(path: Path) -> Path:
    # Abstract sockets have no permissions, and everybody on the machine could decrypt.
    if not path.is_absolute():
        raise ValueError("must be an absolute path in a directory")
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        raise ValueError(f"is longer than {SOCKET_PATH_BYTES_MAX} bytes; use a path under /run")
    return path


def _absolute_path(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    if set(str(path)) & set("#=\n"):
        # SoftHSM2's configuration has no way to quote them.
        raise ValueError("must not hold '#', '=' or a line break")
    return path


def _node_name() -> str:
    """Return the host name with everything replaced that a node's name may not hold."""
    return re.sub(r"[^a-z0-9.-]", "-", socket.gethostname().lower()).strip("-.") or "node"


def _host_and_port(address: str) -> str:
    if not address:
        return address
    host, _, port = address.rpartition(":")
    try:
        ip_address(host.removeprefix("[").removesuffix("]"))
        correct = 0 <= int(port) <= 65535  # noqa: PLR2004 (the range of TCP ports)
    except ValueError:
        correct = False
    if not correct:
        raise ValueError("must be an IP address and a port, as in 127.0.0.1:28675, or empty")
    return address


def _connection_string(text: str) -> str:
    # The driver takes long to import, and only this kind of store needs it.
    from psycopg import ProgrammingError  # noqa: PLC0415
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415

    if re.search(r"(^|[\s?&])(ssl)?password\s*=", text) or re.search(r"://[^/@]*:[^/@]*@", text):
        raise ValueError("must hold no password; put it into store.password_file")
    if not text.strip():
        raise ValueError("must not be empty; leave it away for SQLite")
    try:
        conninfo_to_dict(text)
    except ProgrammingError as error:
        # Any other text of libpq may quote the string.
        unknown = re.search(r'invalid connection option "\w+"', str(error))
        reason = f": {unknown.group()}" if unknown else ""
        raise ValueError(f"is no connection string of libpq{reason}") from None
    return text


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TokenSettings(_Section):
    """The HSM. Without ``module`` keyplane runs a SoftHSM2 token of its own."""

    module: Path | None = None
    """PKCS#11 shared library of your HSM; default none, which embeds SoftHSM2."""

    label: str = "keyplane"
    """Label of the token; slot numbers change, labels stay."""

    serial: str | None = None
    """Serial number, to tell tokens with one label apart; default none."""

    pin_file: Path | None = None
    """File with the user PIN, mode 0600; default ``<state_dir>/pins/user.pin``."""

    profile: Literal["auto", "gcm", "cbc-hmac"] = "auto"
    """What ``init`` makes root keys for: AES-256-GCM, or AES-256-CBC with HMAC-SHA-256 for
    tokens without GCM; default the first that the token offers. Fixed by ``init``."""

    parallelism: Annotated[int, Field(ge=1, le=64)] = 1
    """Calls of the module at once. 1 for a local token, which gets slower with more;
    as many as it has sessions to spare for an HSM behind a network."""

    deadline: Annotated[
        timedelta, Field(ge=timedelta(milliseconds=100), le=timedelta(minutes=1))
    ] = timedelta(seconds=2)
    """How long a call may wait for its turn at the token, and be inside it before the token
    counts as hanging; default 2 s, because kube-apiserver gives up after 3."""


class ProviderSettings(_Section):
    """The KMS v2 provider on this node."""

    name: Annotated[str, AfterValidator(_checked_by(check_provider_name))] = "keyplane"
    """The provider's name in the store and in EncryptionConfiguration; it lies in
    etcd beside every object, so it can never change."""

    socket: Annotated[Path, AfterValidator(_socket_path)] = Path("/run/keyplane/kms.sock")
    """Where kube-apiserver connects; the directory and mode are the access control."""

    socket_mode: Annotated[str, Field(pattern=r"^0[0-7]{2}0$")] = "0600"
    """Permissions of the socket; ``0660`` together with ``socket_group``. Never for
    everybody, who could then decrypt."""

    socket_group: str | None = None
    """Group that owns the socket; default the process's own."""

    node: Annotated[str, AfterValidator(_checked_by(check_node_name))] = Field(
        default_factory=_node_name
    )
    """This node's name among the provider's nodes; default the host name."""

    outage: OutagePolicy = OutagePolicy.COAST
    """What Status says while the token does not answer. ``Coast``: unhealthy with the
    ``key_id``, so that the API server goes on writing; ``FailClosed``: no ``key_id``, so
    that it stops writing within three minutes."""

    keyring: Path | None = None
    """Where this node keeps what it needs to serve without the store; default
    ``<state_dir>/keyring/<name>.<node>.json``."""

    health_address: Annotated[str, AfterValidator(_host_and_port)] = "127.0.0.1:28675"
    """IP address and port of ``/metrics``, ``/livez`` and ``/readyz``; an empty text
    switches them off."""


class StoreSettings(_Section):
    """Where records live. Without ``postgresql`` it is one SQLite file of this host."""

    postgresql: Annotated[str, AfterValidator(_connection_string)] | None = None
    """How to reach PostgreSQL: a connection string or URI of libpq, without a password,
    as in ``host=db1,db2 dbname=keyplane user=keyplane target_session_attrs=read-write
    sslmode=verify-full``; default none, which embeds SQLite."""

    password_file: Path | None = None
    """File with the password, mode 0600, read again for each connection; default none,
    for certificates or peer authentication."""

    deadline: Annotated[timedelta, Field(ge=timedelta(seconds=1), le=timedelta(minutes=1))] = (
        timedelta(seconds=5)
    )
    """How long PostgreSQL may take for an answer before it counts as out of reach."""

    @property
    def embedded(self) -> bool:
        """Whether the store is a SQLite file of this host."""
        return self.postgresql is None


class AuditSettings(_Section):
    """The audit log."""

    file_bytes: Annotated[int, Field(ge=64 * 1024, le=2**40)] = 64 * 1024 * 1024
    """A file of the log is closed and the next one begun at this size; default 64 MiB."""


class KeySettings(_Section):
    """Rules for keys that an installation may loosen."""

    allow_short_imports: bool = False
    """Whether imports of 128 and 192 bits are taken, as Key Protect does and the Key
    Management Service APIs forbid; they are expanded to AES-256 by HKDF. Default no."""

    @property
    def material_bits(self) -> tuple[int, ...]:
        """Lengths of imported key material, in bits."""
        return (*SHORT_MATERIAL_BITS, *MATERIAL_BITS) if self.allow_short_imports else MATERIAL_BITS


class OperatorSettings(_Section):
    """The Key operator."""

    kubeconfig: Path | None = None
    """Default none: in-cluster configuration, else the usual kubeconfig."""

    resync: Annotated[timedelta, Field(gt=timedelta(0))] = timedelta(seconds=30)
    """How often every Key is compared with the store although nothing happened."""

    health_address: Annotated[str, AfterValidator(_host_and_port)] = "127.0.0.1:28676"
    """As for the provider."""


def _https_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("must be an https:// URL without query and fragment")
    if parts.username is not None or parts.password is not None:
        # It would be sent, and settings are no place for a secret.
        raise ValueError("must hold no user name and no password")
    return url


class IssuerSettings(_Section):
    """One OpenID Connect provider whose tokens name callers of the REST face."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,30}$")]
    """Short name, by which the policy file and audit lines call it."""

    url: Annotated[str, AfterValidator(_https_url)]
    """Issuer identifier, exactly as the ``iss`` claim has it."""

    audience: Annotated[str, Field(min_length=1, max_length=255)]
    """What the ``aud`` claim must hold; a token for anybody else is refused."""

    discovery_url: Annotated[str, AfterValidator(_https_url)] | None = None
    """Where the provider's metadata lie; default
    ``<url>/.well-known/openid-configuration`` (OpenID Connect Discovery 1.0, 4)."""

    ca_file: Path | None = None
    """CA certificates (PEM) for the provider's TLS; default the system's."""

    credential_file: Path | None = None
    """File with a bearer credential that is sent to fetch metadata and keys, as an
    API server without anonymous access wants; read again for each fetch."""

    groups_claim: Annotated[str, Field(min_length=1, max_length=255)] = "groups"
    """Name of the claim with the caller's groups, a list of texts."""


def _distinct_issuers(issuers: tuple[IssuerSettings, ...]) -> tuple[IssuerSettings, ...]:
    for what in ("name", "url"):
        values = [getattr(issuer, what) for issuer in issuers]
        if len(values) != len(set(values)):
            raise ValueError(f"two issuers have the same {what}")
    return issuers


class TlsSettings(_Section):
    """The certificate of the REST face. Files are read again when they change."""

    certificate: Path | None = None
    """Certificate chain (PEM), the server's own first; default a certificate that
    keyplane makes and renews in ``<state_dir>/tls``, for this host and loopback."""

    key: Path | None = None
    """Its private key (PEM, not encrypted)."""

    client_ca: Path | None = None
    """CA certificates (PEM); when given, every client must show a certificate of
    theirs, besides its bearer token."""

    @model_validator(mode="after")
    def _both_or_neither(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together: give both or neither")
        return self


class RestSettings(_Section):
    """The REST face. It is served when there is an issuer."""

    address: str = "127.0.0.1"
    """IP address to listen on; ``0.0.0.0`` or ``::`` for all."""

    port: Annotated[int, Field(ge=0, le=65535)] = 28674
    """TCP port; 0 takes a free one and logs it."""

    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that share the port; a local token scales with processes."""

    tls: TlsSettings = TlsSettings()

    issuers: Annotated[tuple[IssuerSettings, ...], AfterValidator(_distinct_issuers)] = ()
    """Who may name callers; none means that there is no REST face."""

    policy_file: Path | None = None
    """Who may do what; default ``<state_dir>/policy.toml``. Read again when it changes."""

    leeway: Annotated[timedelta, Field(ge=timedelta(0), le=timedelta(minutes=5))] = timedelta(
        seconds=30
    )
    """How far the clocks of issuer and keyplane may differ."""

    requests_per_second: Annotated[float, Field(gt=0)] | None = None
    """Requests of one caller that each worker answers; more are told to wait (429).
    Default no limit."""

    connections_max: Annotated[int, Field(ge=1)] = 1000
    """Connections that each worker holds open; further ones are closed at once."""

    cluster: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,63}$")] = "mycluster"
    """Cluster name in the ``crn`` of a key."""

    health_address: Annotated[str, AfterValidator(_host_and_port)] = "127.0.0.1:28677"
    """As for the provider; a second worker listens on the next port, and so on."""


class LogSettings(_Section):
    """Logging to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe messages shown."""

    format: Literal["console", "json"] = "console"
    """``console`` for people, ``json`` for collectors."""


class Settings(BaseSettings):
    """Every setting of keyplane."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=_PREFIX,
        env_nested_delimiter="__",
    )

    state_dir: Annotated[Path, AfterValidator(_absolute_path)] = Path("/var/lib/keyplane")
    """Store, embedded token, PIN files and audit; one owner, mode 0700."""

    token: TokenSettings = TokenSettings()
    store: StoreSettings = StoreSettings()
    audit: AuditSettings = AuditSettings()
    provider: ProviderSettings = Field(default_factory=ProviderSettings)
    keys: KeySettings = KeySettings()
    operator: OperatorSettings = OperatorSettings()
    rest: RestSettings = RestSettings()
    log: LogSettings = LogSettings()

    @property
    def embedded(self) -> bool:
        """Whether keyplane runs its own SoftHSM2 token."""
        return self.token.module is None

    @property
    def module(self) -> Path:
        """The PKCS#11 module to load; for SoftHSM2 the first usual path that exists."""
        if self.token.module is not None:
            return self.token.module
        return next((path for path in _SOFTHSM_PATHS if path.is_file()), _SOFTHSM_PATHS[0])

    @property
    def pin_file(self) -> Path:
        """The file with the user PIN."""
        return self.token.pin_file or self.pins_dir / "user.pin"

    @property
    def pins_dir(self) -> Path:
        """Where ``init`` puts the PINs that it makes."""
        return self.state_dir / "pins"

    @property
    def keyring(self) -> Path:
        """The provider's copy of what it needs to serve without the store."""
        provider = self.provider
        name = f"{provider.name}.{provider.node}.json"
        return provider.keyring or self.state_dir / "keyring" / name

    @property
    def database(self) -> Path:
        """The embedded store's file."""
        return self.state_dir / "keyplane.db"

    @property
    def finished_marker(self) -> Path:
        """A file that ``init`` leaves when it has finished; it outlives the store."""
        return self.state_dir / "installation"

    @property
    def policy_file(self) -> Path:
        """The file that says which REST caller may do what."""
        return self.rest.policy_file or self.state_dir / "policy.toml"

    @property
    def tls_dir(self) -> Path:
        """Where keyplane puts the REST certificate that it makes itself."""
        return self.state_dir / "tls"

    @property
    def audit_dir(self) -> Path:
        """Where the files of the audit chains lie."""
        return self.state_dir / "audit"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put the environment before the TOML file; nothing else is read."""
        toml = TomlConfigSettingsSource(settings_cls)
        return init_settings, env_settings, toml


def load_settings(config_file: Path | None = None) -> Settings:
    """Read the settings.

    Args:
        config_file: the TOML file; ``None`` takes ``KEYPLANE_CONFIG`` from the
            environment, else :data:`DEFAULT_CONFIG_FILE` if it exists.

    Raises:
        SettingsError: a named file is missing, or settings are wrong; the message
            lists all faults at once and shows no values.
    """
    named = config_file or _file_from_environment()
    # Path.is_file() raises where the directory may not be entered; this does not.
    if named is not None and not os.path.isfile(named):  # noqa: PTH113
        raise SettingsError(
            f"the configuration file {named} does not exist or may not be reached",
            hint="correct --config or KEYPLANE_CONFIG, or leave both away for the defaults",
        )

    file = file_in_use(config_file) or DEFAULT_CONFIG_FILE

    class _FileSettings(Settings):
        model_config = SettingsConfigDict(toml_file=file)

    try:
        _refuse_unknown_variables()
        return _FileSettings()
    except ValidationError as error:
        raise SettingsError(_all_faults(error), hint="see docs/configuration.md") from None
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"the configuration file {file} cannot be read: {error}") from None
    except ValueError as error:
        raise SettingsError(f"the configuration cannot be read: {error}") from None


def file_in_use(config_file: Path | None = None) -> Path | None:
    """Return the file that :func:`load_settings` reads, or ``None`` when it reads none."""
    file = config_file or _file_from_environment()
    return file or (DEFAULT_CONFIG_FILE if os.path.isfile(DEFAULT_CONFIG_FILE) else None)  # noqa: PTH113


def _file_from_environment() -> Path | None:
    named = os.environ.get("KEYPLANE_CONFIG")
    return Path(named) if named else None


def _refuse_unknown_variables() -> None:
    """Refuse what pydantic passes over: a misspelt variable would silently do nothing."""
    known = {f"{_PREFIX}{name}".upper() for name in (*Settings.model_fields, "config")}
    given = {name for name in os.environ if name.startswith(_PREFIX)}
    unknown = sorted(name for name in given if name.split("__")[0] not in known)
    if unknown:
        raise SettingsError(
            f"unknown settings in the environment: {', '.join(unknown)}",
            hint="see docs/configuration.md for their names, or unset them",
        )


def _all_faults(error: ValidationError) -> str:
    faults = [
        f"  {_place_of(fault['loc'])}: {_words_for(fault['type'], fault['msg'])}"
        for fault in error.errors(include_input=False, include_url=False)
    ]
    return "the configuration has faults:\n" + "\n".join(faults)


def _place_of(location: tuple[int | str, ...]) -> str:
    """Return a setting's dotted name; the parts of a list are counted from one."""
    parts = (f"{part + 1}" if isinstance(part, int) else part for part in location)
    return ".".join(parts)


def _words_for(fault_type: str, message: str) -> str:
    """Return pydantic's message in words that fit a settings file."""
    if fault_type == "extra_forbidden":
        return "there is no such setting"
    if fault_type.startswith("time_delta"):
        return "must be seconds, or a duration such as PT30S"
    if fault_type == "string_pattern_mismatch":
        return "has characters, or a length, that it may not have"
    if fault_type == "missing":
        return "is missing"
    # pydantic puts these words before the messages of our own checks.
    return message.removeprefix("Value error, ")
