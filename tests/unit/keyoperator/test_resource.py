"""How manifests become values, and values a status."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml

from keycore.domain.keys import KeyKind, VersionState
from keycore.errors import InvalidRequestError
from keyoperator import resource
from keyoperator.resource import (
    VERSIONS_SHOWN_MAX,
    is_being_deleted,
    is_held,
    parse_identity,
    parse_previous,
    parse_wanted,
    render_status,
    render_time,
    status_changes,
)
from keyoperator.status import Condition, ConditionType, Finding
from keyoperator.wanted import Previous, SecretRef, Wanted
from tests.unit.keyoperator.builders import (
    IDENTITY,
    INSTANCE_ID,
    KEY_ID,
    NOW,
    a_key,
    a_manifest,
    a_version,
    a_wish,
)

CRD = Path(__file__).parents[3] / "crds" / "keys.yaml"
READY = Condition(Finding(ConditionType.READY, "KeyActive", "why", holds=True), 3, NOW)

FULL_SPEC: dict[str, Any] = {
    "displayName": "The key of etcd",
    "description": "of etcd",
    "type": "Standard",
    "expirationDate": "2031-01-01T01:00:00+01:00",
    "rotation": {"interval": "90d", "trigger": "1"},
    "import": {"secretRef": {"name": "material", "key": "key"}},
    "state": "Suspended",
    "deletionPolicy": "Retain",
    "adopt": KEY_ID,
}


def _schema() -> dict[str, Any]:
    crd = yaml.safe_load(CRD.read_text())
    version = crd["spec"]["versions"][0]
    properties: dict[str, Any] = version["schema"]["openAPIV3Schema"]["properties"]
    return properties


def _status(**changes: Any) -> dict[str, object]:
    arguments: dict[str, Any] = {"key": a_key(), "next_rotation": None} | changes
    return render_status(IDENTITY, (READY,), **arguments)


def test_every_field_of_the_spec_arrives():
    wanted = parse_wanted(a_manifest(**FULL_SPEC))

    assert wanted == Wanted(
        IDENTITY,
        kind=KeyKind.STANDARD,
        display_name="The key of etcd",
        description="of etcd",
        expires_at=datetime(2031, 1, 1, tzinfo=UTC),
        rotation_interval=timedelta(days=90),
        rotation_trigger="1",
        material=SecretRef("material", "key"),
        suspended=True,
        retain=True,
        adopt=KEY_ID,
    )


def test_a_resource_that_sets_nothing_leaves_everything_to_others():
    assert parse_wanted(a_manifest()) == a_wish()


def test_the_parser_knows_exactly_the_fields_that_the_crd_has():
    """A field that only one of them knows would be ignored without a word."""
    in_crd = _schema()["spec"]["properties"]

    in_parser = resource._Spec.model_fields

    assert set(in_crd) == {field.alias for field in in_parser.values()}
    assert set(FULL_SPEC) == set(in_crd)


def test_the_status_has_only_fields_that_the_crd_has():
    """The API server would drop others silently."""
    in_crd = _schema()["status"]["properties"]

    status = _status(next_rotation=NOW)

    assert set(status) == set(in_crd)
    for name in ("versions", "conditions"):
        (item,) = status[name]
        assert set(item) == set(in_crd[name]["items"]["properties"])


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("15s", timedelta(seconds=15)),
        ("30m", timedelta(minutes=30)),
        ("2160h", timedelta(days=90)),
        ("90d", timedelta(days=90)),
    ],
)
def test_intervals(text, interval):
    assert parse_wanted(a_manifest(rotation={"interval": text})).rotation_interval == interval


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"rotation": {"interval": "1h30m"}}, id="an interval of two units"),
        pytest.param({"rotation": {"interval": "0s"}}, id="an interval of zero"),
        pytest.param({"rotation": {"interval": 90}}, id="an interval without a unit"),
        pytest.param({"type": "Other"}, id="an unknown type"),
        pytest.param({"state": "Off"}, id="an unknown state"),
        pytest.param({"expirationDate": "2030-01-01T00:00:00"}, id="a time without a zone"),
        pytest.param({"expirationDate": "9999-12-31T23:59:59-05:00"}, id="a time after all times"),
        pytest.param({"adopt": "not a key"}, id="an id that is none"),
    ],
)
def test_a_value_that_this_version_does_not_know_is_refused_without_repeating_it(spec):
    (value,) = spec.values()

    with pytest.raises(InvalidRequestError) as caught:
        parse_wanted(a_manifest(**spec))

    assert str(value) not in caught.value.message


def test_the_owner_is_the_uid_so_a_recreated_resource_is_another():
    assert parse_identity(a_manifest()).owner == f"kubernetes/{IDENTITY.uid}"


def test_a_status_is_read_back_as_it_was_written():
    manifest = a_manifest() | {"status": _status()}

    assert parse_previous(manifest) == Previous(KEY_ID, 1, 3, (READY,))


def test_a_resource_without_a_status_was_not_looked_at():
    assert parse_previous(a_manifest()) == Previous()


def test_conditions_of_others_are_passed_over():
    status = _status()
    foreign = {**status["conditions"][0], "type": "Synced"}
    manifest = a_manifest() | {"status": {**status, "conditions": [foreign]}}

    assert parse_previous(manifest) == Previous(KEY_ID, 1, 3, ())


def test_a_status_that_somebody_spoilt_counts_as_none():
    assert parse_previous(a_manifest() | {"status": {"keyID": "nonsense"}}) == Previous()


def test_a_status_without_a_key_says_nothing_about_keys():
    assert set(_status(key=None)) == {"observedGeneration", "conditions"}


def test_only_the_newest_versions_are_shown():
    versions = tuple(a_version(number, VersionState.RETIRED) for number in range(1, 100))

    shown = _status(key=a_key(versions=versions))["versions"]

    assert [version["number"] for version in shown] == list(range(50, 100))
    in_crd = _schema()["status"]["properties"]["versions"]["maxItems"]
    assert in_crd == VERSIONS_SHOWN_MAX


def test_a_status_never_shows_wrapped_material():
    assert "wrapped" not in str(_status())


def test_no_change_makes_no_patch():
    manifest = a_manifest() | {"status": {k: v for k, v in _status().items() if v is not None}}

    assert status_changes(manifest, _status()) == {}


def test_a_patch_has_what_changed_and_removes_what_is_gone():
    manifest = a_manifest() | {"status": _status(next_rotation=NOW)}

    changes = status_changes(manifest, _status() | {"currentVersion": 2})

    assert changes == {"currentVersion": 2, "nextRotationTime": None}


def test_times_are_written_in_utc():
    time = datetime(2030, 3, 1, 14, 30, 15, 999999, tzinfo=timezone(timedelta(hours=2)))

    assert render_time(time) == "2030-03-01T12:30:15Z"


def test_a_resource_is_held_by_our_finalizer_only():
    manifest = a_manifest()

    assert is_held(manifest)
    manifest["metadata"]["finalizers"] = ["other.example/held"]
    assert not is_held(manifest)
    del manifest["metadata"]["finalizers"]
    assert not is_held(manifest)


def test_a_resource_with_a_deletion_time_is_being_deleted():
    manifest = a_manifest()

    assert not is_being_deleted(manifest)
    manifest["metadata"]["deletionTimestamp"] = "2030-03-01T12:00:00Z"
    assert is_being_deleted(manifest)


def test_the_instance_id_is_shown():
    assert _status()["instanceID"] == INSTANCE_ID
