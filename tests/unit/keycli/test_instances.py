"""``keyplane instance …`` on a core with fakes."""

from __future__ import annotations

import pytest

from keycore.domain.ids import new_uuid
from tests.fakes.installation import FakeInstallation
from tests.unit.keycli.conftest import Run


def test_create_takes_id_and_namespace(run: Run) -> None:
    chosen = new_uuid()

    made = run(
        "instance", "create", "team-a", "--id", chosen, "--namespace", "team-a", "-o", "json"
    ).json

    assert made == {
        "id": chosen,
        "name": "team-a",
        "namespace": "team-a",
        "createdAt": "2030-03-01T12:00:00Z",
    }


def test_an_id_that_is_taken_is_refused(run: Run, here: FakeInstallation) -> None:
    assert run("instance", "create", "again", "--id", here.instance.id).code == 1


def test_list_shows_every_instance_to_people_and_programs(run: Run, here: FakeInstallation) -> None:
    run("instance", "create", "team-a")

    listed = run("instance", "list", "-o", "json").json

    assert sorted(each["name"] for each in listed) == ["default", "team-a"]
    lines = run("instance", "list").out.splitlines()
    assert lines[0].split() == ["ID", "NAME", "NAMESPACE"]
    assert f"{here.instance.id}  default  keyplane-system" in lines


def test_bind_gives_an_instance_a_namespace_and_takes_it_back(
    run: Run, here: FakeInstallation
) -> None:
    bound = run("instance", "bind", here.instance.id, "--namespace", "other", "-o", "json").json
    unbound = run("instance", "bind", here.instance.id, "--unbind", "-o", "json").json

    assert (bound["namespace"], unbound["namespace"]) == ("other", None)


@pytest.mark.parametrize(
    "options", [(), ("--unbind", "--namespace", "other")], ids=["none", "both"]
)
def test_bind_wants_either_a_namespace_or_none(
    run: Run, here: FakeInstallation, options: tuple[str, ...]
) -> None:
    ended = run("instance", "bind", here.instance.id, *options)

    assert ended.code == 2
    assert "--namespace / --unbind" in ended.err
