"""What every node keyring must do, on the fake and on the file."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from keycore.adapters.keyring_file import FileKeyring
from keycore.domain.ids import ActivationId, InstanceId, KeyId, VersionId, new_uuid
from keycore.domain.instances import Installation
from keycore.domain.keyring import NodeKeyring
from keycore.domain.keys import Key, KeyKind, KeyState, KeyVersion, VersionState
from keycore.domain.providers import Activation, ActivationState, Provider
from keycore.errors import IntegrityError, StoreUnavailableError
from keycore.ports import Keyring
from tests.fakes.memory_keyring import MemoryKeyring
from tests.fakes.memory_token import InsecureMemoryToken

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def a_keyring() -> NodeKeyring:
    """Return a keyring with every kind of value in it."""
    version = KeyVersion(VersionId(new_uuid()), 1, VersionState.ACTIVE, NOW, bytes(range(200, 240)))
    key = Key(
        id=KeyId(new_uuid()),
        instance_id=InstanceId(new_uuid()),
        name="Schlüssel",
        description=None,
        kind=KeyKind.ROOT,
        state=KeyState.ACTIVE,
        imported=False,
        bit_length=256,
        created_at=NOW,
        created_by="cli:uid:0",
        updated_at=NOW,
        expires_at=None,
        deleted_at=None,
        owner=None,
        rotation_marker=None,
        versions=(version,),
        aliases=("one",),
    )
    activation = Activation(
        ActivationId(new_uuid()), 1, key.id, version.id, ActivationState.ACTIVE, NOW
    )
    return NodeKeyring(
        Installation(new_uuid(), "keyplane", "0a1b", NOW),
        "node-a",
        Provider("keyplane", key.id, NOW, NOW, (activation,)),
        (key,),
        ((version.id, 256),),
        NOW,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keyring" / "keyplane.node-a.json"


@pytest.fixture(params=["memory", "file"])
def keyring(request: pytest.FixtureRequest, path: Path) -> Keyring:
    if request.param == "memory":
        return MemoryKeyring()
    return FileKeyring(path, InsecureMemoryToken())


def test_there_is_nothing_before_something_was_saved(keyring: Keyring) -> None:
    assert keyring.load() is None


def test_what_was_saved_is_loaded_again(keyring: Keyring) -> None:
    saved = a_keyring()

    assert keyring.update(lambda _: saved) == saved

    assert keyring.load() == saved


def test_a_change_is_made_to_what_is_there(keyring: Keyring) -> None:
    saved = keyring.update(lambda _: a_keyring())

    keyring.update(lambda current: replace(current or a_keyring(), uses=()))

    assert keyring.load() == replace(saved, uses=())


def test_a_change_that_fails_leaves_what_was_there(keyring: Keyring) -> None:
    saved = keyring.update(lambda _: a_keyring())

    with pytest.raises(ZeroDivisionError):
        keyring.update(lambda _: 1 / 0)  # type: ignore[arg-type, return-value]

    assert keyring.load() == saved


# --- the file alone ----------------------------------------------------------------


@pytest.fixture
def token() -> InsecureMemoryToken:
    return InsecureMemoryToken()


@pytest.fixture
def file(path: Path, token: InsecureMemoryToken) -> FileKeyring:
    keyring = FileKeyring(path, token)
    keyring.update(lambda _: a_keyring())
    return keyring


def test_only_its_owner_can_read_the_file(file: FileKeyring, path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("position", [0, 1, 50, 500, -70, -65, -64, -1])
def test_a_changed_byte_anywhere_is_refused(file: FileKeyring, path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)

    with pytest.raises(IntegrityError):
        file.load()


@pytest.mark.parametrize("length", [0, 1, 100, -1, -64, -65])
def test_a_truncated_file_is_refused(file: FileKeyring, path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])

    with pytest.raises(IntegrityError):
        file.load()


def test_a_file_signed_by_another_token_is_refused(file: FileKeyring, path: Path) -> None:
    with pytest.raises(IntegrityError):
        FileKeyring(path, InsecureMemoryToken()).load()


def test_a_file_that_is_refused_is_replaced(file: FileKeyring, path: Path) -> None:
    path.write_bytes(b"garbage")
    seen: list[NodeKeyring | None] = []

    saved = file.update(lambda current: seen.append(current) or a_keyring())  # type: ignore[func-returns-value]

    assert seen == [None]
    assert file.load() == saved


def test_a_file_that_cannot_be_written_is_told_and_stays(
    file: FileKeyring, path: Path, token: InsecureMemoryToken
) -> None:
    before = path.read_bytes()
    path.with_name(f"{path.name}.new").mkdir()

    with pytest.raises(StoreUnavailableError, match="cannot be written"):
        file.update(lambda _: a_keyring())

    assert path.read_bytes() == before


def test_a_file_that_cannot_be_read_is_told(path: Path, token: InsecureMemoryToken) -> None:
    path.mkdir(parents=True)

    with pytest.raises(StoreUnavailableError, match="cannot be read"):
        FileKeyring(path, token).load()
