"""`keyplane init`, `join`, `store migrate`, `status` and `doctor` with a store in PostgreSQL."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from testbed.postgresql import PostgreSql
from tests.integration.keycli.site import Site


def section_for(server: PostgreSql, dsn: str) -> str:
    """Return the settings that name a database."""
    return f'[store]\npostgresql = "{dsn}"\npassword_file = "{server.password_file}"\n'


@pytest.fixture
def section(postgresql: PostgreSql, postgresql_dsn: str) -> str:
    """The settings that name an empty database."""
    return section_for(postgresql, postgresql_dsn)


@pytest.fixture(scope="module")
def installed(postgresql: PostgreSql, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A first host that no test changes, of an installation in the database `installed_cli`."""
    site = Site(tmp_path_factory.mktemp("installed"))
    site.configure(section_for(postgresql, postgresql.create_database("installed_cli")))
    assert site.run("init").code == 0
    return site


@pytest.fixture
def shared(
    installed: Site, postgresql: PostgreSql, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """A first host of an installation in PostgreSQL."""
    site, name = Site(tmp_path_factory.mktemp("shared")), f"shared_{uuid4().hex}"
    shutil.copytree(installed.state, site.state)
    (site.state / "softhsm2.conf").unlink()
    dsn = postgresql.create_database(name, template="installed_cli")
    site.configure(section_for(postgresql, dsn))
    yield site
    postgresql.drop_database(name)


def settings_of_store(site: Site) -> str:
    return "[store]" + site.config.read_text(encoding="utf-8").split("[store]")[1]


@pytest.fixture
def second(shared: Site, tmp_path: Path) -> Site:
    """A second host, with nothing on it."""
    site = Site(tmp_path, node="cp-2")
    site.configure(settings_of_store(shared))
    return site


def give_token(first: Site, second: Site) -> None:
    """Let the second host reach the first one's keys, as an HSM in a network would."""
    second.state.mkdir(mode=0o700)
    shutil.copytree(first.state / "tokens", second.state / "tokens")


def test_a_host_that_joined_uses_the_keys_of_the_first_one(shared: Site, second: Site) -> None:
    made = shared.run("keys", "create", "etcd", "-o", "json").json
    give_token(shared, second)

    joined = second.run("join", "--pin-from", str(shared.pin_file), "-o", "json")

    assert joined.code == 0, joined.err
    assert second.pin_file.stat().st_mode & 0o777 == 0o600
    assert [key["id"] for key in second.run("keys", "list", "-o", "json").json] == [made["id"]]
    assert second.run("keys", "rotate", made["id"]).code == 0
    assert shared.run("keys", "show", made["id"], "-o", "json").json["currentVersion"] == 2


def test_joining_twice_changes_nothing(shared: Site, second: Site) -> None:
    give_token(shared, second)
    second.run("join", "--pin-from", str(shared.pin_file))
    before = own_files(second)

    again = second.run("join", "--pin-from", str(shared.pin_file))

    assert again.code == 0, again.err
    assert own_files(second) == before


def own_files(site: Site) -> dict[str, str]:
    """Return what a second look must not change: the audit grows, and a token counts logins."""
    return {
        name: content
        for name, content in site.contents().items()
        if not name.startswith(("audit", "tokens"))
    }


def test_a_host_without_the_token_cannot_join(shared: Site, second: Site) -> None:
    refused = second.run("join")

    assert refused.code == 2
    assert "there is no token" in refused.err
    assert "token.module" in refused.err


def test_a_host_with_another_token_cannot_join(shared: Site, second: Site, site: Site) -> None:
    give_token(site, second)

    refused = second.run("join", "--pin-from", str(site.pin_file))

    assert refused.code == 2
    assert "was not signed by this token" in refused.err
    assert second.run("keys", "list").code == 2


def test_two_hosts_that_make_an_installation_at_once_make_one(
    section: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    sites = [Site(tmp_path_factory.mktemp(name)) for name in ("one", "other")]
    for site in sites:
        site.configure(section)
    with ThreadPoolExecutor(len(sites)) as threads:
        # With one namespace for both, the database itself would refuse the second instance.
        ended = list(
            threads.map(
                lambda pair: pair[1].run("init", "--namespace", f"keys-{pair[0]}"),
                enumerate(sites),
            )
        )

    made, refused = sorted(ended, key=lambda end: end.code)
    assert (made.code, refused.code) == (0, 2), refused.err
    assert "keyplane join" in refused.err
    assert sites[ended.index(made)].run("status").code == 0


def test_a_host_without_a_pin_is_told_where_it_gets_one(shared: Site, second: Site) -> None:
    give_token(shared, second)

    refused = second.run("join")

    assert refused.code == 2
    for fact in (str(second.pin_file), "--pin-from", "pins/user.pin", "first host"):
        assert fact in refused.err


def test_a_host_that_has_joined_keeps_its_pin(shared: Site, second: Site, tmp_path: Path) -> None:
    give_token(shared, second)
    assert second.run("join", "--pin-from", str(shared.pin_file)).code == 0
    before, wrong = second.contents(), tmp_path / "wrong.pin"
    wrong.write_text("12345678", encoding="ascii")

    ended = second.run("join", "--pin-from", str(wrong))

    assert ended.code == 2
    assert str(second.pin_file) in ended.err
    assert second.contents() == before


def test_a_host_with_the_name_of_another_one_cannot_join(shared: Site, tmp_path: Path) -> None:
    """Rotations would wait for one of them alone."""
    twin = Site(tmp_path, node=shared.node)
    twin.configure(settings_of_store(shared))
    give_token(shared, twin)

    refused = twin.run("join", "--pin-from", str(shared.pin_file))
    assert refused.code == 2
    assert f"is called {shared.node} already" in refused.err
    assert "provider.node" in refused.err

    assert twin.run("join", "--again").code == 0
    assert twin.run("join").code == 0


@pytest.mark.parametrize("command", ["status", "join", "init", "keys list", "doctor"])
def test_a_store_that_was_not_moved_yet_is_told_and_how_to_move_it(
    site: Site, section: str, command: str
) -> None:
    site.configure(section)

    ended = site.run(*command.split())

    assert ended.code == 2
    assert "keyplane store migrate" in ended.out + ended.err


def test_a_misspelt_option_of_the_connection_string_is_named_with_the_settings(
    empty: Site,
) -> None:
    empty.configure('[store]\npostgresql = "host=db usr=keyplane dbname=secret-name"\n')

    refused = empty.run("status")

    assert refused.code == 2
    assert 'invalid connection option "usr"' in refused.err
    assert "secret-name" not in refused.err


def test_init_beside_an_installation_names_join(shared: Site, second: Site) -> None:
    refused = second.run("init")

    assert refused.code == 2
    assert "keyplane join" in refused.err


def test_an_embedded_installation_has_nothing_to_join(site: Site) -> None:
    refused = site.run("join")

    assert refused.code == 2
    assert "store.postgresql" in refused.err


def test_a_host_that_did_not_join_does_nothing(shared: Site, second: Site) -> None:
    give_token(shared, second)

    refused = second.run("keys", "list")

    assert refused.code == 2
    assert "keyplane join" in refused.err


def test_status_and_doctor_name_the_database(shared: Site) -> None:
    store = shared.run("status", "-o", "json").json["store"]
    doctor = shared.run("doctor", "-o", "json").json

    assert store["engine"] == "postgresql"
    assert "PostgreSQL database" in store["path"]
    (verdict,) = [check for check in doctor["findings"] if check["check"] == "store"]
    assert verdict["outcome"] == "ok", verdict


def test_status_shows_the_token_while_the_store_does_not_answer(
    shared: Site, postgresql: PostgreSql
) -> None:
    gone = f"gone_{uuid4().hex}"
    shared.configure(section_for(postgresql, postgresql.connection_to(gone)))

    people, program = shared.run("status"), shared.run("status", "-o", "json")

    assert (people.code, program.code) == (3, 3)
    assert "keyplane (answers)" in people.out
    token, store = program.json["token"], program.json["store"]
    assert (token["answers"], bool(token["serial"]), store["answers"]) == (True, True, False)
    assert f'database "{gone}" does not exist' in store["reason"]
    assert store["reason"] in people.out
    assert store["reason"] in people.err


def test_a_password_in_the_connection_string_is_refused_and_not_shown(empty: Site) -> None:
    empty.configure('[store]\npostgresql = "host=db password=hunter2 dbname=keyplane"')

    refused = empty.run("init")

    assert refused.code == 2
    assert "store.password_file" in refused.err
    assert "hunter2" not in refused.err


def test_a_password_file_open_to_others_is_refused(
    empty: Site, postgresql: PostgreSql, postgresql_dsn: str, tmp_path: Path
) -> None:
    copy = tmp_path / "password"
    shutil.copy(postgresql.password_file, copy)
    copy.chmod(0o644)
    empty.configure(f'[store]\npostgresql = "{postgresql_dsn}"\npassword_file = "{copy}"')

    refused = empty.run("init")

    assert refused.code == 2
    assert "open to other users" in refused.err


def test_a_wrong_password_is_told_and_nowhere_shown(
    empty: Site, postgresql_dsn: str, tmp_path: Path
) -> None:
    password = tmp_path / "password"
    password.write_text("not-the-right-one")
    password.chmod(0o600)
    empty.configure(f'[store]\npostgresql = "{postgresql_dsn}"\npassword_file = "{password}"')

    refused = empty.run("init")

    assert refused.code == 3
    assert "password authentication failed" in refused.err
    assert "not-the-right-one" not in refused.err


# --- store migrate ------------------------------------------------------------------


def test_everything_is_there_after_the_store_was_moved(site: Site, section: str) -> None:
    key = site.run("keys", "create", "etcd", "-o", "json").json["id"]
    for line in (("keys", "rotate", key), ("provider", "set", "keyplane", "--key", key)):
        assert site.run(*line).code == 0
    before = {what: site.run(what, "list", "-o", "json").json for what in ("keys", "instance")}
    bound = site.run("provider", "show", "keyplane", "-o", "json").json

    site.configure(section)
    moved = site.run("store", "migrate", "-o", "json")

    assert moved.code == 0, moved.err
    assert moved.json["rows"] > len(before["keys"])
    assert before == {what: site.run(what, "list", "-o", "json").json for what in before}
    assert site.run("provider", "show", "keyplane", "-o", "json").json == bound
    assert site.run("keys", "rotate", key).code == 0


def test_the_old_store_is_kept_and_nobody_can_use_it(site: Site, section: str) -> None:
    site.configure(section)
    site.run("store", "migrate")
    site.configure()

    assert (site.state / "keyplane.db.moved").is_file()
    assert site.run("keys", "list").code == 2
    refused = site.run("init")
    assert refused.code == 2
    assert "is missing, and it was there before" in refused.err


def test_nothing_of_the_old_store_is_left_but_the_file_that_is_kept(
    site: Site, section: str
) -> None:
    site.configure(section)
    site.run("store", "migrate")

    assert [path.name for path in site.state.glob("keyplane.db*")] == ["keyplane.db.moved"]


def test_what_a_forgotten_process_has_in_the_log_goes_with_the_file_that_is_kept(
    site: Site, section: str
) -> None:
    """Its reading keeps the log from being written back, as long as it goes on."""
    with closing(sqlite3.connect(site.state / "keyplane.db", isolation_level=None)) as forgotten:
        forgotten.execute("BEGIN")
        forgotten.execute("SELECT count(*) FROM keys").fetchone()
        site.run("instance", "create", "team-a")
        site.configure(section)
        assert site.run("store", "migrate").code == 0

    with closing(sqlite3.connect(site.state / "keyplane.db.moved")) as kept:
        assert ("team-a",) in kept.execute("SELECT name FROM instances").fetchall()
    assert not (site.state / "keyplane.db-wal").exists()


def test_a_database_with_tables_of_somebody_else_is_refused(
    site: Site, section: str, postgresql_dsn: str, postgresql: PostgreSql
) -> None:
    password = postgresql.password_file.read_text(encoding="ascii").strip()
    with psycopg.connect(postgresql_dsn, password=password) as connection:
        connection.execute("CREATE TABLE customers (id int)")
    site.configure(section)

    refused = site.run("store", "migrate")

    assert refused.code == 2
    assert "customers" in refused.err
    assert "a database for keyplane alone" in refused.err
    assert (site.state / "keyplane.db").is_file()
    with psycopg.connect(postgresql_dsn, password=password) as connection:
        tables = "SELECT count(*) FROM pg_tables WHERE schemaname = current_schema()"
        assert connection.execute(tables).fetchone() == (1,)


def test_a_store_is_moved_once(site: Site, section: str) -> None:
    site.configure(section)
    site.run("store", "migrate")

    again = site.run("store", "migrate")

    assert again.code == 2
    assert "was moved before" in again.err


def test_a_move_that_was_interrupted_before_its_end_is_finished_by_the_next_one(
    site: Site, section: str
) -> None:
    site.configure(section)
    site.run("store", "migrate")
    # As if the process had been killed between the commit and the renaming.
    (site.state / "keyplane.db.moved").rename(site.state / "keyplane.db")

    again = site.run("store", "migrate")

    assert again.code == 0, again.err
    assert not (site.state / "keyplane.db").exists()


def test_a_database_that_holds_other_rows_is_left_alone(shared: Site, site: Site) -> None:
    before = shared.run("instance", "list", "-o", "json").json
    site.configure(settings_of_store(shared))

    refused = site.run("store", "migrate")

    assert refused.code == 2
    assert "is not the same in both stores" in refused.err
    assert (site.state / "keyplane.db").is_file()
    assert shared.run("instance", "list", "-o", "json").json == before


def test_a_row_that_was_changed_by_hand_is_moved_as_it_is_and_still_found_out(
    site: Site, section: str
) -> None:
    key = site.run("keys", "create", "etcd", "-o", "json").json["id"]
    with sqlite3.connect(site.state / "keyplane.db") as connection:
        connection.execute("UPDATE keys SET name = 'other'")
    connection.close()
    site.configure(section)

    moved = site.run("store", "migrate")

    assert moved.code == 0, moved.err
    assert site.run("keys", "show", key).code == 4


def test_an_embedded_store_goes_nowhere_without_a_database(site: Site) -> None:
    refused = site.run("store", "migrate")

    assert refused.code == 2
    assert "store.postgresql" in refused.err
    assert (site.state / "keyplane.db").is_file()
