"""What connections are encrypted with, and how it follows the files."""

from __future__ import annotations

import errno
import os
import ssl
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from structlog.testing import capture_logs

from keycore.errors import SettingsError
from keycore.settings import RestSettings, Settings, TlsSettings
from keyrest.following import SETTLED_SECONDS
from keyrest.tls import TlsFiles
from testbed.authority import Authority, KeyPair
from tests.fakes.fixed_clock import FixedClock
from tests.unit.keyrest.handshakes import client_context, handshake


def today() -> FixedClock:
    """Return a clock that stands at the real now, because certificates are checked against it."""
    return FixedClock(datetime.now(UTC))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def other_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("other"), "another authority")


@pytest.fixture(scope="module")
def pairs(authority: Authority) -> tuple[KeyPair, KeyPair]:
    return authority.server("first"), authority.server("second")


class Site:
    """TLS files that a test changes, and the context that follows them."""

    def __init__(self, directory: Path, pair: KeyPair, client_ca: Path | None = None) -> None:
        self.directory = directory
        self.clock = today()
        self.certificate, self.key = directory / "server.crt", directory / "server.key"
        self.client_ca = None if client_ca is None else directory / "clients.crt"
        self.put(pair)
        if client_ca is not None:
            self.put_client_ca(client_ca)
        self.tls = TlsFiles(self.settings, self.clock)
        self.clock.advance(seconds=SETTLED_SECONDS)
        self.tls.refresh()

    @property
    def settings(self) -> Settings:
        tls = TlsSettings(certificate=self.certificate, key=self.key, client_ca=self.client_ca)
        return Settings(state_dir=self.directory, rest=RestSettings(tls=tls))

    def put(self, pair: KeyPair) -> None:
        self.certificate.write_bytes(pair.certificate.read_bytes())
        self.key.write_bytes(pair.key.read_bytes())

    def put_client_ca(self, file: Path) -> None:
        assert self.client_ca is not None
        self.client_ca.write_bytes(file.read_bytes())

    def shown(self, authority: Authority) -> bytes:
        """Return the certificate that a client is shown now."""
        side = handshake(self.tls.context.ssl, client_context(str(authority.certificate_file)))
        return side.getpeercert(binary_form=True) or b""


@pytest.fixture
def site(tmp_path: Path, pairs: tuple[KeyPair, KeyPair]) -> Site:
    return Site(tmp_path, pairs[0])


def der(pair: KeyPair) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pair.certificate.read_text())


# --- what is spoken -----------------------------------------------------------


@pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda v: v.name
)
def test_tls_1_2_and_1_3_are_spoken(
    site: Site, authority: Authority, version: ssl.TLSVersion
) -> None:
    client = client_context(str(authority.certificate_file))
    client.minimum_version = client.maximum_version = version

    side = handshake(site.tls.context.ssl, client)

    assert side.version() == version.name.replace("_", ".")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_tls_1_1_is_refused(site: Site, authority: Authority) -> None:
    client = client_context(str(authority.certificate_file))
    client.set_ciphers("ALL:@SECLEVEL=0")
    client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_1

    with pytest.raises(ssl.SSLError):
        handshake(site.tls.context.ssl, client)


def test_every_cipher_has_forward_secrecy_and_authenticates(site: Site) -> None:
    ciphers = site.tls.context.ssl.get_ciphers()

    assert ciphers
    for cipher in ciphers:
        assert cipher["aead"], cipher["name"]
        assert cipher["protocol"] == "TLSv1.3" or cipher["name"].startswith("ECDHE-")
        assert cipher["auth"] != "auth-null"


@pytest.mark.parametrize("cipher", ["AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA256"])
def test_a_client_with_weak_ciphers_only_is_refused(
    site: Site, authority: Authority, cipher: str
) -> None:
    client = client_context(str(authority.certificate_file))
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers(cipher)

    with pytest.raises(ssl.SSLError):
        handshake(site.tls.context.ssl, client)


def test_there_is_neither_renegotiation_nor_compression(site: Site) -> None:
    options = site.tls.context.ssl.options

    assert options & ssl.OP_NO_RENEGOTIATION
    assert options & ssl.OP_NO_COMPRESSION


def test_http_1_1_is_agreed_on(site: Site, authority: Authority) -> None:
    client = client_context(str(authority.certificate_file))
    client.set_alpn_protocols(["h2", "http/1.1"])

    assert handshake(site.tls.context.ssl, client).selected_alpn_protocol() == "http/1.1"


# --- how changes are seen -----------------------------------------------------


def test_a_changed_pair_is_used_for_the_next_connection(
    site: Site, authority: Authority, pairs: tuple[KeyPair, KeyPair]
) -> None:
    site.put(pairs[1])
    site.tls.refresh()

    assert site.shown(authority) == der(pairs[1])
    assert site.tls.fault == ""


def test_a_swapped_link_is_a_change(
    tmp_path: Path, authority: Authority, pairs: tuple[KeyPair, KeyPair]
) -> None:
    """Kubernetes shows a changed Secret so; not a single file in the mount is written."""
    for number, pair in enumerate(pairs):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "server.crt").write_bytes(pair.certificate.read_bytes())
        (tmp_path / str(number) / "server.key").write_bytes(pair.key.read_bytes())
    (tmp_path / "data").symlink_to("0")
    tls = TlsSettings(
        certificate=tmp_path / "data" / "server.crt", key=tmp_path / "data" / "server.key"
    )
    files = TlsFiles(Settings(state_dir=tmp_path, rest=RestSettings(tls=tls)), today())

    (tmp_path / "next").symlink_to("1")
    (tmp_path / "next").rename(tmp_path / "data")
    files.refresh()

    side = handshake(files.context.ssl, client_context(str(authority.certificate_file)))
    assert side.getpeercert(binary_form=True) == der(pairs[1])


def test_a_change_that_leaves_all_attributes_alone_is_seen_when_it_follows_another(
    site: Site,
    authority: Authority,
    pairs: tuple[KeyPair, KeyPair],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site.certificate.touch()
    site.tls.refresh()
    monkeypatch.setattr("keyrest.following.attributes_of", lambda _: None)
    site.tls.refresh()
    site.put(pairs[1])

    site.tls.refresh()

    assert site.shown(authority) == der(pairs[1])


def test_unchanged_files_are_not_read_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    context = site.tls.context
    monkeypatch.setattr(Path, "read_bytes", None)

    site.tls.refresh()

    assert site.tls.context is context
    assert site.tls.fault == ""


def test_touched_files_keep_the_context_and_with_it_the_sessions(site: Site) -> None:
    context = site.tls.context
    os.utime(site.certificate)

    site.tls.refresh()

    assert site.tls.context is context


# --- files with faults --------------------------------------------------------


def spoil_missing(site: Site, pairs: tuple[KeyPair, KeyPair]) -> None:
    site.key.unlink()


def spoil_nonsense(site: Site, pairs: tuple[KeyPair, KeyPair]) -> None:
    site.certificate.write_text("nonsense")


def spoil_half(site: Site, pairs: tuple[KeyPair, KeyPair]) -> None:
    content = site.certificate.read_bytes()
    site.certificate.write_bytes(content[: len(content) // 2])


def spoil_mismatch(site: Site, pairs: tuple[KeyPair, KeyPair]) -> None:
    site.key.write_bytes(pairs[1].key.read_bytes())


def spoil_encrypted(site: Site, pairs: tuple[KeyPair, KeyPair]) -> None:
    key = serialization.load_pem_private_key(site.key.read_bytes(), password=None)
    site.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )


@pytest.mark.parametrize(
    "spoil",
    [spoil_missing, spoil_nonsense, spoil_half, spoil_mismatch, spoil_encrypted],
    ids=lambda spoil: spoil.__name__.removeprefix("spoil_"),
)
def test_a_faulty_pair_changes_nothing_and_is_told_once(
    site: Site, authority: Authority, pairs: tuple[KeyPair, KeyPair], spoil: object
) -> None:
    spoil(site, pairs)  # type: ignore[operator]

    with capture_logs() as logs:
        for _ in range(3):
            site.tls.refresh()

    assert site.shown(authority) == der(pairs[0])
    assert "must be readable PEM files that belong together" in site.tls.fault
    assert [line["log_level"] for line in logs] == ["error"]


def test_a_pair_that_is_well_again_has_no_fault(
    site: Site, authority: Authority, pairs: tuple[KeyPair, KeyPair]
) -> None:
    site.key.write_bytes(pairs[1].key.read_bytes())
    site.tls.refresh()
    site.put(pairs[1])

    site.tls.refresh()

    assert site.tls.fault == ""
    assert site.shown(authority) == der(pairs[1])


def test_a_fault_that_passes_without_a_change_of_files_is_not_kept(
    site: Site,
    authority: Authority,
    pairs: tuple[KeyPair, KeyPair],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(_: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    site.put(pairs[1])
    with monkeypatch.context() as broken:
        broken.setattr(Path, "read_bytes", failing)
        site.tls.refresh()
        assert site.tls.fault
    site.clock.advance(minutes=1)

    site.tls.refresh()

    assert site.tls.fault == ""
    assert site.shown(authority) == der(pairs[1])


def test_an_encrypted_key_is_not_asked_for_at_the_terminal(
    site: Site, pairs: tuple[KeyPair, KeyPair]
) -> None:
    """A server that waits there for somebody to type would never start."""
    spoil_encrypted(site, pairs)
    program = (
        "import sys; from pathlib import Path; from keyrest.tls import _context;"
        "from keyrest.certificate import CertificateFiles;"
        "_context(CertificateFiles(*map(Path, sys.argv[1:])), None)"
    )
    ours, terminal = os.openpty()

    ended = subprocess.run(
        ["setsid", "--ctty", sys.executable, "-c", program, site.certificate, site.key],
        stdin=terminal,
        stderr=subprocess.PIPE,
        timeout=20,
        check=False,
    )

    os.close(ours)
    os.close(terminal)
    assert b"SettingsError" in ended.stderr


def test_faulty_files_at_the_start_are_a_fault_of_the_settings(
    site: Site, pairs: tuple[KeyPair, KeyPair]
) -> None:
    spoil_mismatch(site, pairs)

    with pytest.raises(SettingsError) as refused:
        TlsFiles(site.settings, site.clock)

    assert str(site.key) in refused.value.message


def test_no_fault_shows_a_part_of_the_key(site: Site) -> None:
    secret = site.key.read_text().splitlines()[1]
    site.key.write_text(site.key.read_text().replace("BEGIN", "BEGUN"))

    with capture_logs() as logs:
        site.tls.refresh()

    assert secret not in site.tls.fault + repr(logs)


def test_an_expired_certificate_is_a_fault(site: Site) -> None:
    site.clock.advance(days=3)

    site.tls.refresh()

    assert "the certificate has expired on" in site.tls.fault


# --- keyplane's own certificate -----------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> TlsFiles:
    return TlsFiles(Settings(state_dir=tmp_path), today())


def test_without_files_in_the_settings_an_own_certificate_is_used(
    own: TlsFiles, tmp_path: Path
) -> None:
    handshake(own.context.ssl, client_context(str(tmp_path / "tls" / "tls.crt")))


def test_an_own_certificate_is_renewed_while_the_server_runs(tmp_path: Path) -> None:
    clock = today()
    own = TlsFiles(Settings(state_dir=tmp_path), clock)
    first = own.context

    clock.advance(days=336)
    own.refresh()

    assert own.context is not first
    assert own.context.generation == first.generation
    assert own.fault == ""


def test_an_own_certificate_that_somebody_removed_is_made_again(
    own: TlsFiles, tmp_path: Path
) -> None:
    (tmp_path / "tls" / "tls.key").unlink()

    own.refresh()

    assert (tmp_path / "tls" / "tls.key").exists()
    assert own.fault == ""


# --- certificates of clients --------------------------------------------------


@pytest.fixture
def guarded(tmp_path: Path, pairs: tuple[KeyPair, KeyPair], authority: Authority) -> Site:
    """Only clients with a certificate of ``authority`` are let in."""
    return Site(tmp_path, pairs[0], authority.certificate_file)


def shown_by(client: KeyPair, authority: Authority) -> ssl.SSLContext:
    """Return a client that shows a certificate to servers of ``authority``."""
    context = client_context(str(authority.certificate_file))
    context.load_cert_chain(client.certificate, client.key)
    return context


def test_a_client_with_a_certificate_of_the_authority_is_let_in(
    guarded: Site, authority: Authority
) -> None:
    handshake(guarded.tls.context.ssl, shown_by(authority.client("alice"), authority))


def test_a_client_without_a_certificate_is_refused(guarded: Site, authority: Authority) -> None:
    with pytest.raises(ssl.SSLError, match="CERTIFICATE"):
        handshake(guarded.tls.context.ssl, client_context(str(authority.certificate_file)))


def test_a_client_with_a_certificate_of_another_authority_is_refused(
    guarded: Site, authority: Authority, other_authority: Authority
) -> None:
    with pytest.raises(ssl.SSLError, match="CERTIFICATE"):
        handshake(guarded.tls.context.ssl, shown_by(other_authority.client("eve"), authority))


def test_a_servers_certificate_is_none_for_a_client(guarded: Site, authority: Authority) -> None:
    with pytest.raises(ssl.SSLError, match="CERTIFICATE"):
        handshake(guarded.tls.context.ssl, shown_by(authority.server("mallory"), authority))


def test_without_client_ca_no_client_is_asked(site: Site) -> None:
    assert site.tls.context.ssl.verify_mode is ssl.CERT_NONE


def test_a_removed_authority_lets_nobody_in_any_more(
    guarded: Site, authority: Authority, other_authority: Authority
) -> None:
    guarded.put_client_ca(other_authority.certificate_file)
    guarded.tls.refresh()

    with pytest.raises(ssl.SSLError, match="CERTIFICATE"):
        handshake(guarded.tls.context.ssl, shown_by(authority.client("alice"), authority))
    handshake(guarded.tls.context.ssl, shown_by(other_authority.client("bobby"), authority))


@pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda v: v.name
)
def test_a_session_from_before_does_not_outlive_its_authority(
    guarded: Site, authority: Authority, other_authority: Authority, version: ssl.TLSVersion
) -> None:
    """Whoever resumes a session shows no certificate again."""
    client = shown_by(authority.client("alice"), authority)
    client.maximum_version = version
    session = handshake(guarded.tls.context.ssl, client).session
    resumed = handshake(guarded.tls.context.ssl, client, session=session)
    assert resumed.session_reused

    guarded.put_client_ca(other_authority.certificate_file)
    guarded.tls.refresh()

    with pytest.raises(ssl.SSLError, match="CERTIFICATE"):
        handshake(guarded.tls.context.ssl, client, session=resumed.session)


def test_a_changed_authority_begins_a_generation_and_a_changed_certificate_does_not(
    guarded: Site, pairs: tuple[KeyPair, KeyPair], other_authority: Authority
) -> None:
    first = guarded.tls.context.generation

    guarded.put(pairs[1])
    guarded.tls.refresh()
    assert guarded.tls.context.generation == first

    guarded.put_client_ca(other_authority.certificate_file)
    guarded.tls.refresh()
    assert guarded.tls.context.generation == first + 1


@pytest.mark.parametrize("content", ["", "nonsense", "ä"])
def test_a_faulty_file_of_authorities_changes_nothing_and_is_named(
    guarded: Site, authority: Authority, content: str
) -> None:
    assert guarded.client_ca is not None
    guarded.client_ca.write_text(content)

    guarded.tls.refresh()

    assert str(guarded.client_ca) in guarded.tls.fault
    handshake(guarded.tls.context.ssl, shown_by(authority.client("alice"), authority))
    with pytest.raises(ssl.SSLError, match="CERTIFICATE"):
        handshake(guarded.tls.context.ssl, client_context(str(authority.certificate_file)))
