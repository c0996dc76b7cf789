"""Without room for audit lines REST does nothing, and says that it may be asked again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakes.rest_site import FakeSite, new_key, reason, rest_site


@pytest.fixture
def full() -> Iterator[FakeSite]:
    with rest_site() as site:
        site.audit.full = True
        yield site


def test_a_key_is_not_made_when_its_line_could_not_be_written(full: FakeSite) -> None:
    answer = full.send("POST", "/keys", json=new_key())

    assert answer.status_code == 503
    assert reason(answer)["message"] == "no audit line can be written; nothing was done"
    full.audit.full = False
    assert full.send("HEAD", "/keys").headers["Key-Total"] == "0"


def test_nobody_is_refused_when_the_refusal_could_not_be_written(full: FakeSite) -> None:
    assert full.send("GET", "/keys", caller=None).status_code == 503
    assert full.audit.events == []


def test_it_goes_on_as_soon_as_there_is_room(full: FakeSite) -> None:
    full.send("POST", "/keys", json=new_key())

    full.audit.full = False

    assert full.send("POST", "/keys", json=new_key()).status_code == 201
