"""The certificate that keyplane makes for itself: what is in it, and when it is made."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from structlog.testing import capture_logs

from keycore.errors import SettingsError
from keyrest import certificate as certificate_module
from keyrest.certificate import end_of, ensure_own_certificate, own_files
from tests.unit.keyrest.handshakes import client_context, handshake

NOW = datetime.now(UTC).replace(microsecond=0)
LOOPBACK = "127.0.0.1"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "tls"


def made(directory: Path, *, address: str = LOOPBACK, now: datetime = NOW) -> x509.Certificate:
    """Ensure a certificate and return it."""
    ensure_own_certificate(directory, address, now)
    return x509.load_pem_x509_certificate(own_files(directory).certificate.read_bytes())


def names(certificate: x509.Certificate) -> set[str]:
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return {str(name.value) for name in extension.value}


def test_it_is_for_this_host_and_loopback(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Node-1")
    monkeypatch.setattr(socket, "getfqdn", lambda: "node-1.example.org")

    assert names(made(directory)) == {
        "node-1",
        "node-1.example.org",
        "localhost",
        "127.0.0.1",
        "::1",
    }


def test_it_is_for_the_address_that_is_listened_on(directory: Path) -> None:
    assert "192.0.2.7" in names(made(directory, address="192.0.2.7"))


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_all_addresses_are_not_a_name(directory: Path, address: str) -> None:
    assert address not in names(made(directory, address=address))


@pytest.mark.parametrize("name", ["under_score", "-dash", "a..b", "", "x" * 64, "host\n"])
def test_a_host_name_that_no_certificate_can_hold_is_left_out(
    directory: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for function in ("gethostname", "getfqdn"):
        monkeypatch.setattr(socket, function, lambda: name)

    assert names(made(directory)) == {"localhost", "127.0.0.1", "::1"}


def test_a_long_host_name_does_not_make_the_subject_too_long(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = ".".join(["a" * 63, "b" * 63])
    monkeypatch.setattr(socket, "gethostname", lambda: long)

    assert long in names(made(directory))


def test_it_lasts_a_year_and_begins_a_little_earlier(directory: Path) -> None:
    certificate = made(directory)

    assert certificate.not_valid_after_utc == NOW + timedelta(days=365)
    assert certificate.not_valid_before_utc < NOW
    assert end_of(own_files(directory).certificate) == certificate.not_valid_after_utc


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_a_strict_client_that_trusts_the_file_alone_accepts_it(directory: Path, host: str) -> None:
    made(directory)
    files = own_files(directory)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.certificate, files.key)

    handshake(server, client_context(str(files.certificate)), host=host)


def test_it_can_sign_no_other_certificate(directory: Path) -> None:
    extensions = made(directory).extensions

    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign


def test_only_its_owner_can_read_the_key_and_enter_the_directory(directory: Path) -> None:
    made(directory)

    assert own_files(directory).key.stat().st_mode & 0o777 == 0o600
    assert directory.stat().st_mode & 0o777 == 0o700


def test_nothing_unfinished_is_left(directory: Path) -> None:
    made(directory)

    assert {path.name for path in directory.iterdir()} == {"tls.crt", "tls.key", "tls.lock"}


def test_it_is_kept_until_30_days_before_its_end(directory: Path) -> None:
    first = made(directory)

    assert made(directory, now=NOW + timedelta(days=334)) == first
    assert made(directory, now=NOW + timedelta(days=335)) != first


def test_it_is_made_anew_for_another_address(directory: Path) -> None:
    first = made(directory)

    assert made(directory, address="192.0.2.7") != first


def test_it_is_made_anew_for_another_host_name(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(directory)
    monkeypatch.setattr(socket, "gethostname", lambda: "renamed")

    assert "renamed" in names(made(directory))


@pytest.mark.parametrize("damaged", ["certificate", "key"])
@pytest.mark.parametrize("content", [None, b"", b"nonsense"], ids=["missing", "empty", "nonsense"])
def test_what_is_damaged_is_made_anew(directory: Path, damaged: str, content: bytes | None) -> None:
    first = made(directory)
    path: Path = getattr(own_files(directory), damaged)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)

    assert made(directory) != first
    assert_pair_matches(directory)


def test_a_pair_that_an_interrupted_run_left_half_renewed_is_made_anew(directory: Path) -> None:
    made(directory)
    old_key = own_files(directory).key.read_bytes()
    later = made(directory, now=NOW + timedelta(days=340))
    own_files(directory).key.write_bytes(old_key)

    assert made(directory, now=NOW + timedelta(days=340)) != later
    assert_pair_matches(directory)


def assert_pair_matches(directory: Path) -> None:
    files = own_files(directory)
    key = serialization.load_pem_private_key(files.key.read_bytes(), password=None)
    certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())

    assert certificate.public_key() == key.public_key()


def test_of_many_workers_that_start_together_one_makes_it(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_good = certificate_module._is_good
    # Nobody comes to the meeting while one has the lock; without it all would.
    meeting = threading.Barrier(4, timeout=0.3)

    def found_late(*parts: object) -> bool:
        found = is_good(*parts)  # type: ignore[arg-type]
        with suppress(threading.BrokenBarrierError):
            meeting.wait()
        return found

    monkeypatch.setattr(certificate_module, "_is_good", found_late)

    with capture_logs() as logs, ThreadPoolExecutor(4) as workers:
        for future in [workers.submit(made, directory) for _ in range(4)]:
            future.result()

    assert len(logs) == 1


def test_a_directory_that_cannot_be_used_names_the_settings(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(SettingsError) as refused:
        ensure_own_certificate(tmp_path / "file" / "tls", LOOPBACK, NOW)

    assert "rest.tls.certificate" in refused.value.hint


def test_a_lock_that_is_a_link_is_not_followed(directory: Path, tmp_path: Path) -> None:
    directory.mkdir()
    (directory / "tls.lock").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(SettingsError):
        made(directory)

    assert not (tmp_path / "elsewhere").exists()


def test_addresses_are_named_as_addresses(directory: Path) -> None:
    extension = made(directory).extensions.get_extension_for_class(x509.SubjectAlternativeName)

    assert set(extension.value.get_values_for_type(x509.IPAddress)) == {
        ipaddress.ip_address("127.0.0.1"),
        ipaddress.ip_address("::1"),
    }
