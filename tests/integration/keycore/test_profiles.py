"""The second kind of token, real: openCryptoki; and SoftHSM2, which is not of that kind."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pkcs11
import pytest
from pkcs11 import Attribute, KeyType, MechanismFlag

from keycore.adapters import pkcs11_attributes as attributes
from keycore.adapters import pkcs11_cbc
from keycore.adapters.pkcs11_cbc import CbcHmacProfile
from keycore.adapters.pkcs11_profile import Login, find_objects
from keycore.adapters.pkcs11_token import Pkcs11Token
from keycore.domain.envelope import AES_256_CBC_HMAC_SHA_256, AES_256_GCM
from keycore.domain.ids import VersionId, new_uuid
from keycore.errors import IntegrityError
from keycore.ports import WrappedKey
from keycore.settings import ProviderSettings, Settings, TokenSettings
from testbed.opencryptoki import LABEL, OpenCryptoki
from tests.integration.keycli.site import Site
from tests.integration.keyplugin.client import SEED, KmsClient
from tests.integration.keyplugin.provider_process import ProviderProcess

PROFILE = CbcHmacProfile()

SETUP = 2
"""How a command ends that finds its installation set up wrongly."""


@pytest.fixture(scope="module")
def login(opencryptoki_settings: Settings, opencryptoki_token: Pkcs11Token) -> Login:
    """A session beside those of the token."""
    token = pkcs11.lib(str(opencryptoki_settings.module)).get_token(token_label=LABEL)
    session = token.open(attribute_mapper=attributes.UnwrapTemplateMapper())
    return find_objects(session, PROFILE)


@pytest.fixture(scope="module")
def site(opencryptoki: OpenCryptoki, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """An installation made by the commands, whose provider has a key."""
    site = Site(tmp_path_factory.mktemp("cbc"))
    site.configure(token=token_section(opencryptoki))
    initialised = site.run("init")
    key = site.run("keys", "create", "etcd", "--output", "json")
    set_up = site.run("provider", "set", "keyplane", "--key", key.json["id"])
    assert (initialised.code, key.code, set_up.code) == (0, 0, 0), initialised.err
    return site


def token_section(opencryptoki: OpenCryptoki, profile: str = "auto") -> str:
    return (
        f'module = "{opencryptoki.module}"\nlabel = "{LABEL}"\n'
        f'pin_file = "{opencryptoki.pin_file}"\nprofile = "{profile}"'
    )


@contextmanager
def stolen(login: Login) -> Iterator[Any]:
    """Unwrap a stored root key as somebody with PIN and store would."""
    iv, wrapped = (PROFILE.generate(login)[a:b] for a, b in ((0, 16), (16, 64)))
    key = pkcs11_cbc._unwrap(
        login,
        wrapped,
        iv,
        (KeyType.AES, MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT),
        {Attribute.PRIVATE: True},
    )
    try:
        yield key
    finally:
        key.destroy()


def test_a_token_without_gcm_gets_the_second_profile_by_itself(
    opencryptoki_token: Pkcs11Token, softhsm_token: Pkcs11Token
) -> None:
    assert opencryptoki_token.suite is AES_256_CBC_HMAC_SHA_256
    assert softhsm_token.suite is AES_256_GCM


def test_a_wrapped_key_is_as_long_as_the_profile_says(
    opencryptoki_token: Pkcs11Token, softhsm_token: Pkcs11Token
) -> None:
    assert len(opencryptoki_token.generate_key()) == 160
    assert len(softhsm_token.generate_key()) == 40


def test_a_wrapped_key_that_was_changed_fails_its_integrity_check(
    opencryptoki_token: Pkcs11Token,
) -> None:
    blob = bytearray(opencryptoki_token.generate_key())
    blob[16] ^= 1

    with pytest.raises(IntegrityError):
        opencryptoki_token.encrypt(WrappedKey(VersionId(new_uuid()), bytes(blob)), b"x", b"")


def test_a_working_copy_is_neither_readable_nor_wrapped_again(login: Login) -> None:
    pair = PROFILE.working_copy(login, PROFILE.generate(login))
    try:
        for key in (pair.encryption, pair.authentication):
            read = key.get_attributes(
                [Attribute.PRIVATE, Attribute.SENSITIVE, Attribute.EXTRACTABLE]
            )
            assert read == {
                Attribute.PRIVATE: True,
                Attribute.SENSITIVE: True,
                Attribute.EXTRACTABLE: False,
            }
            with pytest.raises(pkcs11.AttributeSensitive):
                key[Attribute.VALUE]
            with pytest.raises(pkcs11.PKCS11Error):
                key[Attribute.EXTRACTABLE] = True
    finally:
        PROFILE.destroy(pair)


def test_working_copies_are_gone_after_they_were_destroyed(login: Login) -> None:
    pair = PROFILE.working_copy(login, PROFILE.generate(login))

    PROFILE.destroy(pair)

    for key in (pair.encryption, pair.authentication):
        with pytest.raises(pkcs11.PKCS11Error):
            key.get_attributes([Attribute.SENSITIVE])


def test_what_a_thief_could_do_is_reported_as_it_is(
    login: Login, opencryptoki_token: Pkcs11Token, softhsm_token: Pkcs11Token
) -> None:
    with stolen(login) as key:
        assert len(key[Attribute.VALUE]) == 32

    assert not opencryptoki_token.describe().guards_unwrapping
    assert softhsm_token.describe().guards_unwrapping


def test_a_setting_that_contradicts_the_token_is_refused(
    site: Site, opencryptoki: OpenCryptoki
) -> None:
    site.configure(token=token_section(opencryptoki, "gcm"))
    refused = site.run("keys", "list")
    site.configure(token=token_section(opencryptoki))

    assert refused.code == SETUP
    assert "profile cbc-hmac, and token.profile says gcm" in refused.err


def test_softhsm_is_refused_for_the_second_profile_before_anything_is_made(
    tmp_path: Path,
) -> None:
    """SoftHSM2 2.6.1 lists CBC-PAD and does not wrap keys by it."""
    site = Site(tmp_path)
    site.configure(token='profile = "cbc-hmac"')
    refused = site.run("init")
    site.configure()
    again = site.run("init")

    assert (refused.code, again.code) == (SETUP, 0), again.err
    assert "cbc-hmac" in refused.err


def test_an_installation_serves_the_api_server_from_a_token_without_gcm(
    site: Site, opencryptoki: OpenCryptoki
) -> None:
    longest = AES_256_CBC_HMAC_SHA_256.plaintext_bytes_max(1024)
    token = TokenSettings(module=opencryptoki.module, label=LABEL, pin_file=opencryptoki.pin_file)
    provider = ProviderSettings(socket=site.socket, node="cp-1")
    settings = Settings(state_dir=site.state, token=token, provider=provider)

    with ProviderProcess(settings) as process, KmsClient(site.socket) as client:
        status = client.status()
        closed = client.encrypt()
        opened = client.decrypt(closed)
        biggest = client.encrypt(bytes(longest))
        code = process.end(signal.SIGTERM)

    assert (status.version, status.healthz, status.key_id) == ("v2", "ok", closed.key_id)
    assert (opened, len(closed.ciphertext), closed.ciphertext[:2]) == (SEED, 114, b"\x01\x02")
    assert (longest, len(biggest.ciphertext)) == (943, 1010)
    assert code == 0
