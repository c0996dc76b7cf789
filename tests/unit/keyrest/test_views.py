"""What is shown of a key, and that nothing else is."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson

from keycore.domain.keys import Key, KeyKind, KeyState, KeyVersion, VersionState
from keycore.service.key_reading import DeletionPreview, OpenedKey
from keycore.service.wrapping import Rewrapped, Unwrapped, Wrapped
from keyrest import views
from keyrest.answers import Answer
from keyrest.views import KeyViews
from tests.fakes.fixed_clock import FixedClock
from tests.unit.keycore.examples import FIRST_VERSION_ID, INSTANCE_ID, KEY, KEY_ID

SHOWN = KeyViews(FixedClock(), "mycluster", mode="GCM")
"""Shows keys at noon on 1 March 2030, when the example key has expired."""

LIVE = replace(
    KEY,
    expires_at=datetime(2031, 1, 1, 0, 0, 0, 999999, tzinfo=UTC),
    deleted_at=None,
    deleted_by=None,
    aliases=(),
    tags=(),
    created_at=datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
)

MINIMAL = {"type", "id", "name", "state", "extractable", "crn", "imported", "deleted"}

OLD, NEW = LIVE.versions


def document(answer: Answer) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(answer.body)
    return found


def written(resource: dict[str, Any]) -> dict[str, Any]:
    """Return a resource as it goes over the wire."""
    [only] = orjson.loads(views.collection("some/type", [resource]))["resources"]
    found: dict[str, Any] = only
    return found


def test_the_minimal_view_has_what_identifies_a_key() -> None:
    shown = written(SHOWN.minimal(replace(LIVE, description=None, expires_at=None)))

    assert shown.keys() == MINIMAL


def test_the_minimal_view_shows_aliases_and_tags_where_there_are_some() -> None:
    shown = SHOWN.minimal(replace(LIVE, aliases=("etcd",), tags=("red",)))

    assert (shown["aliases"], shown["tags"]) == (["etcd"], ["red"])


def test_the_minimal_view_has_no_date_of_an_update() -> None:
    assert "lastUpdateDate" not in SHOWN.minimal(LIVE)


def test_the_whole_view_has_every_field_of_the_contract() -> None:
    shown = written(SHOWN.whole(LIVE))

    assert shown.keys() == MINIMAL | {
        *("aliases", "description", "tags", "expirationDate", "keyRingID", "creationDate"),
        *("createdBy", "algorithmType", "algorithmMetadata", "algorithmBitSize"),
        *("algorithmMode", "lastUpdateDate", "lastRotateDate", "keyVersion", "dualAuthDelete"),
    }


def test_dates_have_no_fractions() -> None:
    shown = written(SHOWN.whole(LIVE))

    assert shown["creationDate"] == "2030-01-02T03:04:05Z"
    assert shown["expirationDate"] == "2031-01-01T00:00:00Z"


def test_the_length_is_once_a_text_and_once_a_number() -> None:
    shown = written(SHOWN.whole(LIVE))

    assert shown["algorithmMetadata"] == {"bitLength": "384", "mode": "GCM"}
    assert shown["algorithmBitSize"] == 384


def test_the_crn_names_cluster_instance_and_key() -> None:
    assert SHOWN.minimal(LIVE)["crn"] == (
        f"crn:v1:icp:private:kms:mycluster:n/kube-system:{INSTANCE_ID}:key:{KEY_ID}"
    )


def test_an_expired_key_is_shown_as_deactivated_at_once() -> None:
    expired = replace(LIVE, expires_at=FixedClock().now())

    assert SHOWN.minimal(expired)["state"] == 3


def test_a_root_key_is_not_extractable_and_a_standard_key_is() -> None:
    standard = replace(LIVE, kind=KeyKind.STANDARD)

    assert SHOWN.minimal(LIVE)["extractable"] is False
    assert SHOWN.minimal(standard)["extractable"] is True


def test_a_key_that_was_never_rotated_has_no_date_of_a_rotation() -> None:
    assert "lastRotateDate" not in SHOWN.whole(replace(LIVE, versions=(OLD,)))


def test_a_tombstone_tells_when_and_by_whom() -> None:
    tombstone = replace(LIVE, state=KeyState.DESTROYED, deleted_at=OLD.created_at, deleted_by="a:b")

    shown = written(SHOWN.whole(tombstone))

    assert (shown["state"], shown["deleted"]) == (5, True)
    assert (shown["deletionDate"], shown["deletedBy"]) == ("2030-01-02T03:04:05Z", "a:b")


def test_a_payload_is_shown_of_an_opened_key_only() -> None:
    standard = replace(LIVE, kind=KeyKind.STANDARD)

    assert SHOWN.opened(OpenedKey(standard, b"abc"))["payload"] == "YWJj"
    assert "payload" not in SHOWN.opened(OpenedKey(LIVE, None))
    assert "payload" not in SHOWN.whole(standard)


def test_no_view_of_a_key_shows_wrapped_material() -> None:
    marked = replace(LIVE, versions=(replace(OLD, wrapped=b"\x07" * 40), NEW))
    everything = [
        SHOWN.minimal(marked),
        SHOWN.whole(marked),
        SHOWN.previewed(DeletionPreview(marked, 1)),
        views.version(marked.versions[0]),
    ]

    text = orjson.dumps(everything).decode()

    assert "wrapped" not in text
    assert "BwcH" not in text


def test_a_preview_counts_versions_and_ciphertexts() -> None:
    shown = SHOWN.previewed(DeletionPreview(LIVE, 65536))

    assert shown["deletion"] == {
        "dryRun": True,
        "losses": {"versions": 2, "ciphertexts": 65536},
    }


def test_a_collection_counts_its_resources() -> None:
    shown = orjson.loads(views.collection("some/type", [{}, {}], totalCount=7))

    assert shown == {
        "metadata": {"collectionType": "some/type", "collectionTotal": 2, "totalCount": 7},
        "resources": [{}, {}],
    }


def test_wrap_shows_a_data_key_that_it_made() -> None:
    shown = document(views.wrapped(Wrapped(b"ciphertext", NEW, b"plaintext")))

    assert shown == {
        "plaintext": "cGxhaW50ZXh0",
        "ciphertext": "Y2lwaGVydGV4dA==",
        "keyVersion": {"id": NEW.id, "creationDate": "2030-01-02T03:04:05Z"},
    }


def test_wrap_does_not_repeat_a_data_key_that_it_was_given() -> None:
    assert "plaintext" not in document(views.wrapped(Wrapped(b"ciphertext", NEW, None)))


def test_unwrap_of_the_newest_version_shows_no_new_ciphertext() -> None:
    shown = document(views.unwrapped(Unwrapped(b"plaintext", NEW, None)))

    assert shown.keys() == {"plaintext", "keyVersion"}


def test_unwrap_of_an_older_version_shows_both_versions() -> None:
    fresh = Rewrapped(b"new", OLD, NEW)

    shown = document(views.unwrapped(Unwrapped(b"plaintext", OLD, fresh)))

    assert shown["ciphertext"] == "bmV3"
    assert shown["keyVersion"]["id"] == FIRST_VERSION_ID
    assert shown["rewrappedKeyVersion"]["id"] == NEW.id


def test_rewrap_never_shows_the_plaintext() -> None:
    shown = document(views.rewrapped(Rewrapped(b"new", OLD, NEW)))

    assert shown.keys() == {"ciphertext", "keyVersion", "rewrappedKeyVersion"}


def test_an_alias_names_its_key_and_who_gave_it() -> None:
    assert views.alias(LIVE, "etcd", by="idp:me") == {
        "keyId": KEY_ID,
        "alias": "etcd",
        "createdBy": "idp:me",
        "creationDate": LIVE.updated_at,
    }


def test_a_pending_version_is_not_the_one_that_encrypts() -> None:
    pending = KeyVersion(NEW.id, 2, VersionState.PENDING, NEW.created_at, None)
    waiting: Key = replace(LIVE, versions=(replace(OLD, state=VersionState.ACTIVE), pending))

    assert SHOWN.whole(waiting)["keyVersion"]["id"] == OLD.id
