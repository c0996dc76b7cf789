"""What must never be written is looked for in everything that was written.

The test plants values wherever callers can put some, refused requests included, with
every log level on. It runs last, so that it also searches the logs and audit files that
the tests before it have left, for the credentials that they used and for every PIN.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from testbed.issuer import Issuer
from testbed.rest import RestService

pytestmark = pytest.mark.runs_last

PLAINTEXT = b"a planted plaintext of 36 bytes, say"
PAYLOAD = b"a planted payload has 32 bytes.."
ROTATED = b"planted rotation has 32 bytes..."
AAD = "a planted additional text"
JUNK = "a-planted-credential.that-is.no-credential"

WRITTEN = ("*.log", "*.jsonl", "*.db", "*.db-wal")
BYTES_MAX = 200 * 1024 * 1024


def forms(value: bytes) -> list[bytes]:
    """Return how a value could stand in a file: as it is, base64, hexadecimal, escaped."""
    return [
        value,
        base64.b64encode(value).rstrip(b"="),
        base64.urlsafe_b64encode(value).rstrip(b"="),
        value.hex().encode(),
    ]


def text(value: bytes) -> str:
    return base64.b64encode(value).decode()


class Planter:
    """Sends planted values to a server, in requests of every kind."""

    def __init__(self, service: RestService) -> None:
        self.service = service
        self.secrets = [PLAINTEXT, PAYLOAD, ROTATED, AAD.encode(), JUNK.encode()]

    def plant(self) -> None:
        with self.service.client("Administrator") as client:
            root = self.create(client, "root", extractable=False, payload=text(PAYLOAD))
            standard = self.create(client, "standard", extractable=True, payload=text(PAYLOAD))
            opened = client.get(f"/api/v2/keys/{standard}").json()["resources"][0]["payload"]
            assert opened == text(PAYLOAD)
            self.wrap_and_unwrap(client, root)
            self.send_what_is_refused(client, root)
        self.show_bad_credentials()

    def create(self, client: httpx.Client, name: str, **fields: Any) -> str:
        kind = "application/vnd.ibm.kms.key+json"
        body = {
            "metadata": {"collectionType": kind, "collectionTotal": 1},
            "resources": [{"type": kind, "name": name, **fields}],
        }
        answer = client.post("/api/v2/keys", json=body, headers={"prefer": "return=representation"})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["resources"][0]["id"])

    def wrap_and_unwrap(self, client: httpx.Client, key: str) -> None:
        path = f"/api/v2/keys/{key}"
        wrapped = client.post(
            f"{path}?action=wrap", json={"plaintext": text(PLAINTEXT), "aad": [AAD]}
        ).json()["ciphertext"]
        self.secrets.append(base64.b64decode(wrapped))
        rotated = client.post(f"{path}?action=rotate", json={"payload": text(ROTATED)})
        assert rotated.status_code == 204
        opened = client.post(f"{path}?action=unwrap", json={"ciphertext": wrapped, "aad": [AAD]})
        assert opened.json()["plaintext"] == text(PLAINTEXT)
        self.secrets.append(base64.b64decode(opened.json()["ciphertext"]))
        other = client.post(f"{path}?action=unwrap", json={"ciphertext": wrapped, "aad": ["x"]})
        assert other.status_code == 422
        made = client.post(f"{path}?action=wrap").json()["plaintext"]
        self.secrets.append(base64.b64decode(made))

    def send_what_is_refused(self, client: httpx.Client, key: str) -> None:
        path = f"/api/v2/keys/{key}?action=wrap"
        plain = text(PLAINTEXT)
        for body in (
            f"{{ 'plaintext': '{plain}' }}",
            f'{{"plaintext": "{plain}"',
            f'{{"plaintext": "{plain}!", "aad": ["{AAD}"]}}',
            f'{{"plaintext": ["{plain}"]}}',
            f'{{"{plain}": "{AAD}"}}',
            f'{{"plaintext": "{plain}", "aad": ["{AAD}", null]}}',
            f'{{"plaintext": "{plain}", "aad": "{AAD}"}}',
        ):
            assert client.post(path, content=body).status_code == 400, body
        short = text(PAYLOAD[:20])
        self.secrets.append(PAYLOAD[:20])
        refused = client.post(f"/api/v2/keys/{key}?action=rotate", json={"payload": short})
        assert refused.status_code == 400
        assert client.post(f"/api/v2/keys/{key}?action={AAD}").status_code == 400

    def show_bad_credentials(self) -> None:
        late = self.service.credential("alice", ttl=timedelta(minutes=-1))
        forged = self.service.credential("alice")[:-8] + "AAAAAAAA"
        for credential in (JUNK, late, forged):
            with self.service.client(None) as client:
                headers = {"authorization": f"Bearer {credential}"}
                assert client.get("/api/v2/keys", headers=headers).status_code == 401
            self.secrets.append(credential.rsplit(".", 1)[1].encode())


@pytest.fixture
def service(tmp_path: Path) -> Iterator[RestService]:
    made = RestService(tmp_path)
    config = made.installation.config
    config.write_text(config.read_text() + '\n[log]\nlevel = "debug"\n')
    with made:
        yield made


def written_files(directory: Path) -> Iterator[Path]:
    for pattern in WRITTEN:
        for path in directory.rglob(pattern):
            # Others may still be running beside this one and remove theirs.
            if path.is_file() and path.stat().st_size <= BYTES_MAX:
                yield path


def issued_signatures() -> list[bytes]:
    """Return the signatures of all credentials that the tests of this process have signed."""
    return [credential.rsplit(".", 1)[1].encode() for credential in Issuer.issued]


def pins(directory: Path) -> list[bytes]:
    return [path.read_bytes().strip() for path in directory.rglob("pins/*.pin")]


def test_no_planted_value_no_credential_and_no_pin_is_in_anything_that_was_written(
    service: RestService, tmp_path_factory: pytest.TempPathFactory
) -> None:
    planter = Planter(service)
    planter.plant()
    service.stop()
    everywhere = tmp_path_factory.getbasetemp()
    needles = [form for secret in planter.secrets for form in forms(secret)]
    needles += [*issued_signatures(), *pins(everywhere)]

    files = list(written_files(everywhere))
    found = {
        (str(path.relative_to(everywhere)), needle[:20])
        for path in files
        for content in [path.read_bytes()]
        for needle in needles
        if needle in content
    }

    assert found == set()
    names = {path.name for path in files}
    assert {"rest.0.000001.jsonl", "keyplane-rest.log", "keyplane.db"} <= names
    assert len(needles) > 50
    assert all(len(needle) >= 8 for needle in needles)
