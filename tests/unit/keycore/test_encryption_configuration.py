"""What is said of kube-apiserver's EncryptionConfiguration."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from keycore.diagnosis.encryption_configuration import (
    check_encryption_configuration,
    judged,
    seconds_of,
)
from keycore.diagnosis.examination import Examination
from keycore.diagnosis.findings import Verdict
from keycore.settings import ProviderSettings, Settings
from tests.fakes.fixed_clock import FixedClock

PROVIDER = ProviderSettings(socket=Path("/run/kp/kms.sock"))

GOOD: dict[str, Any] = {
    "apiVersion": "apiserver.config.k8s.io/v1",
    "kind": "EncryptionConfiguration",
    "resources": [
        {
            "resources": ["secrets"],
            "providers": [
                {
                    "kms": {
                        "apiVersion": "v2",
                        "name": "keyplane",
                        "endpoint": "unix:///run/kp/kms.sock",
                        "timeout": "3s",
                    }
                }
            ],
        }
    ],
}

Change = Callable[[dict[str, Any]], object]


def kms_of(document: dict[str, Any]) -> dict[str, Any]:
    return document["resources"][0]["providers"][0]["kms"]


def put(name: str, value: object) -> Change:
    return lambda document: kms_of(document).__setitem__(name, value)


def put_first(provider: dict[str, Any]) -> Change:
    return lambda document: document["resources"][0]["providers"].insert(0, provider)


def put_last(provider: dict[str, Any]) -> Change:
    return lambda document: document["resources"][0]["providers"].append(provider)


def verdicts(change: Change = lambda _: None) -> list[Verdict]:
    document = copy.deepcopy(GOOD)
    change(document)
    return list(judged(document, PROVIDER))


def test_a_good_configuration_has_no_fault() -> None:
    assert verdicts() == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.update(kind="Config"), "apiVersion and kind are not"),
        (lambda d: d.update(apiVersion="v1"), "apiVersion and kind are not"),
        (lambda d: d.update(resources=[]), "resources is not a list"),
        (lambda d: d.update(resources=["secrets"]), "resources is not a list"),
        (lambda d: d["resources"][0].update(providers=[]), "resources is not a list"),
        (lambda d: d["resources"][0].pop("resources"), "resources is not a list"),
        (put_last({"identity": {}, "kms": {}}), "resources is not a list"),
        (put("name", "other"), "no KMS provider is called keyplane (called so: other)"),
        (put("apiVersion", "v1"), "apiVersion is not v2"),
        (lambda d: kms_of(d).pop("apiVersion"), "without one it is v1"),
        (put("cachesize", 1000), "cachesize is set"),
        (put("color", "red"), "unknown fields: color"),
        (put("endpoint", "/run/kp/kms.sock"), "is not a unix:// URL"),
        (put("endpoint", "unix:///run/other.sock"), "the endpoint is /run/other.sock"),
        (put("endpoint", "unix://run/kp/kms.sock"), "two slashes"),
        (put("endpoint", "unix:///@kms"), "abstract socket"),
        (put("timeout", "soon"), "no duration"),
        (put("timeout", "-3s"), "no duration"),
        (put("timeout", "0s"), "no duration"),
        (put_first({"identity": {}}), "identity comes first, so secrets are stored in plain"),
        (
            lambda d: d["resources"].append(copy.deepcopy(d["resources"][0])),
            "two KMS providers have one name",
        ),
    ],
)
def test_what_the_api_server_refuses_or_does_otherwise_is_a_fault(
    change: Change, said: str
) -> None:
    found = verdicts(change)

    assert [verdict.outcome for verdict in found if said in verdict.what] == ["fault"]
    assert all(verdict.advice for verdict in found)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put("timeout", "300ms"), "300ms fails calls whenever the machine is busy"),
        (put("timeout", "1m"), "requests wait so long"),
        (put_last({"identity": {}}), "identity is listed for secrets"),
        (put_first({"kms": {"apiVersion": "v2", "name": "former"}}), "this one only decrypts"),
        (put_first({"aescbc": {"keys": []}}), "a provider of the kind aescbc comes first"),
    ],
)
def test_what_is_right_for_a_while_only_is_a_warning(change: Change, said: str) -> None:
    (found,) = verdicts(change)

    assert found.outcome == "warning"
    assert said in found.what
    assert found.advice


@pytest.mark.parametrize("timeout", ["1s", "3s", "10s", "1.5s", None])
def test_a_sensible_timeout_is_no_matter(timeout: str | None) -> None:
    assert verdicts(put("timeout", timeout)) == []


def test_a_percent_sign_in_the_endpoint_is_read_as_the_api_server_does() -> None:
    provider = ProviderSettings(socket=Path("/run/k p/kms.sock"))
    document = copy.deepcopy(GOOD)
    kms_of(document)["endpoint"] = "unix:///run/k%20p/kms.sock"

    assert list(judged(document, provider)) == []


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3s", 3), ("1m30s", 90), ("1.5s", 1.5), ("500ms", 0.5), ("1h", 3600), ("2us", 2e-6)],
)
def test_durations_are_read_as_go_writes_them(text: str, seconds: float) -> None:
    assert seconds_of(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "3", "s", "3 s", "3sec", "-1s", "1s2"])
def test_what_is_no_duration_is_none(text: str) -> None:
    assert seconds_of(text) is None


# --- the file ----------------------------------------------------------------------


def looked_at(file: Path) -> list[Verdict]:
    examination = Examination(Settings, None, FixedClock(), ExitStack(), file)
    examination.settings = Settings(provider=PROVIDER)
    return list(check_encryption_configuration(examination))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "encryption.yaml"
    file.write_text(yaml.safe_dump(GOOD))
    file.chmod(0o600)
    return file


def test_a_good_file_is_one_verdict(file: Path) -> None:
    (found,) = looked_at(file)

    assert (found.outcome, found.what) == (
        "ok",
        f"{file} calls this provider, and encrypts with it",
    )


@pytest.mark.parametrize(("mode", "outcome"), [(0o604, "warning"), (0o602, "fault")])
def test_a_file_that_is_open_to_everybody_is_told(file: Path, mode: int, outcome: str) -> None:
    file.chmod(mode)

    (found,) = looked_at(file)

    assert found.outcome == outcome
    assert "chmod 0600" in found.advice


def test_a_missing_file_is_a_fault(file: Path) -> None:
    file.unlink()

    (found,) = looked_at(file)

    assert (found.outcome, f"{file} cannot be read" in found.what) == ("fault", True)


def test_a_broken_file_names_its_line_and_quotes_no_key(file: Path) -> None:
    file.write_text("resources:\n  secret: c2VjcmV0\n bad")

    (found,) = looked_at(file)

    assert found.outcome == "fault"
    assert "line 3" in found.what
    assert "c2VjcmV0" not in found.what + found.advice


@pytest.mark.parametrize("text", ["", "[]", "just text", "7"])
def test_a_file_without_an_object_is_a_fault(file: Path, text: str) -> None:
    file.write_text(text)

    (found,) = looked_at(file)

    assert "holds no YAML object" in found.what


def test_a_key_of_another_provider_is_never_quoted(file: Path) -> None:
    document = copy.deepcopy(GOOD)
    put_first({"aescbc": {"keys": [{"name": "k1", "secret": "c2VjcmV0"}]}})(document)
    file.write_text(yaml.safe_dump(document))

    assert "c2VjcmV0" not in str(looked_at(file))
