"""The policy file: its faults, all told at once, and how a changed file is taken over."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from keycore.domain.ids import InstanceId
from keycore.errors import AccessDeniedError, SettingsError
from keycore.settings import load_settings
from keyrest import following
from keyrest import policy as policy_module
from keyrest.following import SETTLED_SECONDS
from keyrest.identity import Identity
from keyrest.policy import Permission, PolicyFile, read_policy
from tests.fakes.fixed_clock import FixedClock

ISSUERS = ("idp", "cluster")
INSTANCE = InstanceId("5f3a1c52-7d1e-4f0a-9a53-2f1f0f1d7c11")
KEY = "c0f0d7a0-6a52-4d0a-8a0e-0e8f5a1b2c3d"

ROLES = "must be one of ClusterAdministrator, Administrator, Editor, Viewer"
NO_INSTANCE = "must name at least one instance; only a ClusterAdministrator has all"
NO_ISSUER = "the settings (rest.issuers) have no issuer of that name"

ALICE, BOBBY = (Identity("idp", name, frozenset(), 2e9) for name in ("alice", "bobby"))


def viewer(subject: str) -> str:
    """Return a file in which one subject may wrap."""
    return (
        f'[[bindings]]\nrole = "Viewer"\ninstances = ["{INSTANCE}"]\n'
        f'[[bindings.members]]\nissuer = "idp"\nsubject = "{subject}"\n'
    )


def one_binding(*lines: str, member: str = 'issuer = "idp"\nsubject = "alice"') -> str:
    text = "\n".join(lines)
    return f"[[bindings]]\n{text}\n[[bindings.members]]\n{member}\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "policy.toml"


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture
def file(path: Path, clock: FixedClock) -> PolicyFile:
    """A policy file that allows alice and was read a while ago."""
    path.write_text(viewer("alice"))
    made = PolicyFile(path, ISSUERS, clock)
    clock.advance(seconds=SETTLED_SECONDS)
    made.refresh()
    return made


def may_wrap(file: PolicyFile, identity: Identity) -> bool:
    try:
        file.current.ensure(identity, Permission.WRAP, INSTANCE)
    except AccessDeniedError:
        return False
    return True


def fault(path: Path, text: str) -> str:
    """Return what is wrong with a text, without the first line that names the file."""
    path.write_text(text)
    with pytest.raises(SettingsError) as refused:
        read_policy(path, ISSUERS)
    assert refused.value.hint == "docs/rest-identity.md describes the file"
    first, _, rest = refused.value.message.partition("\n")
    assert str(path) in first
    return rest


class TestForm:
    def test_a_good_file_is_a_policy(self, path: Path) -> None:
        path.write_text(viewer("alice"))

        read_policy(path, ISSUERS).ensure(ALICE, Permission.WRAP, INSTANCE)

    def test_a_file_that_allows_nobody_says_so(self, path: Path) -> None:
        path.write_text("bindings = []\n")

        with pytest.raises(AccessDeniedError):
            read_policy(path, ISSUERS).ensure(ALICE, Permission.WRAP, INSTANCE)

    def test_an_id_may_be_in_upper_case(self, path: Path) -> None:
        path.write_text(viewer("alice").replace(INSTANCE, INSTANCE.upper()))

        read_policy(path, ISSUERS).ensure(ALICE, Permission.WRAP, INSTANCE)

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("", "bindings: is missing"),
            ("bindings = 3", "bindings: must be a list"),
            ("bindings = [3]", "binding 1: must be a table"),
            ('bindings = []\nversion = "1"', "version: there is no such field"),
            (
                one_binding(f'instances = ["{INSTANCE}"]'),
                "binding 1, role: is missing",
            ),
            (
                one_binding('role = "Auditor"', f'instances = ["{INSTANCE}"]'),
                f"binding 1, role: {ROLES}",
            ),
            (
                one_binding('role = "Viewer"'),
                f"binding 1, instances: {NO_INSTANCE}",
            ),
            (
                one_binding('role = "Viewer"', "instances = []"),
                f"binding 1, instances: {NO_INSTANCE}",
            ),
            (
                one_binding('role = "Viewer"', f'instances = ["{INSTANCE}", "all"]'),
                "binding 1, instance 2: must be a UUID such as 0b1f8f4c-…, with hyphens",
            ),
            (
                one_binding('role = "Viewer"', f'instances = ["{INSTANCE.replace("-", "")}"]'),
                "binding 1, instance 1: must be a UUID such as 0b1f8f4c-…, with hyphens",
            ),
            (
                one_binding('role = "Viewer"', f'instances = "{INSTANCE}"'),
                "binding 1, instances: must be a list",
            ),
            (
                one_binding('role = "Viewer"', "instances = [5]"),
                "binding 1, instance 1: must be a text",
            ),
            (
                one_binding('role = "ClusterAdministrator"', f'instances = ["{INSTANCE}"]'),
                "binding 1, instances: a ClusterAdministrator has every instance: leave it away",
            ),
            (
                one_binding('role = "ClusterAdministrator"', f'keys = ["{KEY}"]'),
                "binding 1, keys: a ClusterAdministrator has every key: leave it away",
            ),
            (
                one_binding('role = "Viewer"', f'instances = ["{INSTANCE}"]', "keys = []"),
                "binding 1, keys: must name at least one key; leave it away for all keys",
            ),
            (
                one_binding('role = "Viewer"', f'instances = ["{INSTANCE}"]', 'keys = ["k"]'),
                "binding 1, key 1: must be a UUID such as 0b1f8f4c-…, with hyphens",
            ),
            (
                one_binding(
                    'role = "Viewer"', f'instances = ["{INSTANCE}", "{KEY}"]', f'keys = ["{KEY}"]'
                ),
                "binding 1, keys: needs exactly one instance, the one that the keys are in",
            ),
            (
                f'[[bindings]]\nrole = "Viewer"\ninstances = ["{INSTANCE}"]\n',
                "binding 1, members: is missing",
            ),
            (
                f'[[bindings]]\nrole = "Viewer"\ninstances = ["{INSTANCE}"]\nmembers = []\n',
                "binding 1, members: must hold at least one",
            ),
        ],
    )
    def test_a_fault_of_a_binding_is_told_with_its_place(
        self, path: Path, text: str, told: str
    ) -> None:
        assert fault(path, text) == f"  {told}"

    @pytest.mark.parametrize(
        ("member", "told"),
        [
            ('subject = "a"', ", issuer: is missing"),
            (
                'issuer = "nobody"\nsubject = "a"',
                f", issuer: {NO_ISSUER}",
            ),
            (
                'issuer = "idp"',
                ": needs exactly one of subject, group and service_account",
            ),
            (
                'issuer = "idp"\nsubject = "a"\ngroup = "b"',
                ": needs exactly one of subject, group and service_account",
            ),
            (
                'issuer = "idp"\ngroup = "a"\nservice_account = "a/b"',
                ": needs exactly one of subject, group and service_account",
            ),
            ('issuer = "idp"\nsubject = 5', ", subject: must be a text"),
            ('issuer = "idp"\nsubject = ""', ", subject: must be 1 to 255 printable characters"),
            ('issuer = "idp"\ngroup = "a\\tb"', ", group: must be 1 to 255 printable characters"),
            (
                'issuer = "idp"\nservice_account = "default"',
                ', service_account: must be "namespace/name"',
            ),
            (
                'issuer = "idp"\nservice_account = "a:b/c"',
                ', service_account: must be "namespace/name"',
            ),
            (
                'issuer = "idp"\nservice_account = "a/b/c"',
                ', service_account: must be "namespace/name"',
            ),
            (
                'issuer = "idp"\nsubject = "a"\nemail = "a@b"',
                ", email: there is no such field",
            ),
        ],
    )
    def test_a_fault_of_a_member_is_told_with_its_place(
        self, path: Path, member: str, told: str
    ) -> None:
        text = one_binding('role = "Viewer"', f'instances = ["{INSTANCE}"]', member=member)

        assert fault(path, text) == f"  binding 1, member 1{told}"

    def test_all_faults_are_told_at_once(self, path: Path) -> None:
        text = (
            viewer("alice")
            + one_binding('role = "Editr"', "instances = [1]", member='issuer = "x"\nsubject = "a"')
            + one_binding('role = "Viewer"', member='issuer = "idp"\nsubjct = "a"')
        )

        assert fault(path, text).splitlines() == [
            f"  binding 2, role: {ROLES}",
            "  binding 2, instance 1: must be a text",
            f"  binding 2, member 1, issuer: {NO_ISSUER}",
            f"  binding 3, instances: {NO_INSTANCE}",
            "  binding 3, member 1: needs exactly one of subject, group and service_account",
            "  binding 3, member 1, subjct: there is no such field",
        ]

    @pytest.mark.parametrize(
        "content",
        [b"bindings = [", b"\xff", b"a = 1\na = 2", b"a = " + b"[" * 10_000],
        ids=lambda content: repr(content[:12]),
    )
    def test_what_is_no_toml_is_a_fault(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)

        with pytest.raises(SettingsError, match=r"policy\.toml is (not TOML|nested too deeply)"):
            read_policy(path, ISSUERS)


class TestDocumentation:
    """What ``docs/rest-identity.md`` shows can be copied as it is."""

    def shown(self, beginning: str) -> str:
        text = (Path(__file__).parents[3] / "docs" / "rest-identity.md").read_text("utf-8")
        blocks = re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        return next(str(block) for block in blocks if block.startswith(beginning))

    def test_its_policy_is_a_good_one(self, path: Path) -> None:
        path.write_text(self.shown("[[bindings]]"))

        policy = read_policy(path, ISSUERS)

        security = Identity("idp", "bob", frozenset({"security"}), 2e9)
        policy.ensure(security, Permission.DELETE, INSTANCE)

    def test_its_issuers_are_good_settings(self, path: Path) -> None:
        path.write_text(self.shown("[[rest.issuers]]"))

        issuers = load_settings(path).rest.issuers

        assert [issuer.name for issuer in issuers] == list(ISSUERS)


class TestAtStart:
    def test_a_missing_file_names_the_fix(self, path: Path, clock: FixedClock) -> None:
        with pytest.raises(SettingsError, match="cannot be read: No such file") as refused:
            PolicyFile(path, ISSUERS, clock)

        assert refused.value.hint == (
            "write it as docs/rest-identity.md describes, or set rest.policy_file"
        )

    def test_a_broken_file_is_refused(self, path: Path, clock: FixedClock) -> None:
        path.write_text("bindings = 3")

        with pytest.raises(SettingsError, match="has faults"):
            PolicyFile(path, ISSUERS, clock)

    def test_a_directory_is_refused(self, path: Path) -> None:
        path.mkdir()

        with pytest.raises(SettingsError, match="is not a file"):
            read_policy(path, ISSUERS)

    def test_a_named_pipe_is_refused_without_waiting(self, path: Path) -> None:
        os.mkfifo(path)

        with pytest.raises(SettingsError, match="is not a file"):
            read_policy(path, ISSUERS)

    def test_an_endless_file_is_not_read_to_its_end(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(policy_module, "FILE_BYTES_MAX", 100)
        path.write_text(viewer("alice") + "#" * 100)

        with pytest.raises(SettingsError, match="longer than 100 bytes"):
            read_policy(path, ISSUERS)

    @pytest.mark.parametrize("mode", [0o660, 0o606, 0o622, 0o666])
    def test_a_file_that_others_may_write_is_refused(self, path: Path, mode: int) -> None:
        path.write_text(viewer("alice"))
        path.chmod(mode)

        with pytest.raises(SettingsError, match="may be written by other users") as refused:
            read_policy(path, ISSUERS)

        assert refused.value.hint == f"chmod go-w {path}"

    @pytest.mark.parametrize("mode", [0o400, 0o444, 0o600, 0o644])
    def test_a_file_that_others_may_read_is_not(self, path: Path, mode: int) -> None:
        path.write_text(viewer("alice"))
        path.chmod(mode)

        read_policy(path, ISSUERS)

    def test_a_file_of_another_user_is_refused(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path.write_text(viewer("alice"))
        owner = os.geteuid()
        if owner == 0:
            os.chown(path, 4242, -1)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: owner + 1)

        with pytest.raises(SettingsError, match="belongs to uid"):
            read_policy(path, ISSUERS)

    def test_a_file_of_root_is_accepted_by_another_user(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A ConfigMap's files belong to root."""
        path.write_text(viewer("alice"))
        if path.stat().st_uid != 0:
            pytest.skip("only root can make a file of root")
        monkeypatch.setattr(os, "geteuid", lambda: 4242)

        read_policy(path, ISSUERS)


class TestChanges:
    def test_a_changed_file_is_taken_over(self, file: PolicyFile, path: Path) -> None:
        path.write_text(viewer("someone-else"))

        file.refresh()

        assert not may_wrap(file, ALICE)
        assert file.fault == ""

    def test_a_file_that_is_renamed_into_place_is_taken_over(
        self, file: PolicyFile, path: Path
    ) -> None:
        new = path.with_suffix(".new")
        new.write_text(viewer("bobby"))
        new.rename(path)

        file.refresh()

        assert may_wrap(file, BOBBY)

    def test_a_swapped_symbolic_link_is_followed(self, tmp_path: Path, clock: FixedClock) -> None:
        """So Kubernetes updates the files of a ConfigMap."""
        for name in ("alice", "bobby"):
            (tmp_path / f"..{name}").mkdir()
            (tmp_path / f"..{name}" / "policy.toml").write_text(viewer(name))
        data, path = tmp_path / "..data", tmp_path / "policy.toml"
        data.symlink_to("..alice")
        path.symlink_to("..data/policy.toml")
        file = PolicyFile(path, ISSUERS, clock)
        clock.advance(seconds=60)
        file.refresh()

        swapped = tmp_path / "..data_tmp"
        swapped.symlink_to("..bobby")
        swapped.rename(data)
        file.refresh()

        assert may_wrap(file, BOBBY)

    def test_an_edit_of_the_same_length_with_the_time_set_back_is_seen(
        self, file: PolicyFile, path: Path
    ) -> None:
        before = path.stat()
        path.write_text(viewer("bobby"))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert (path.stat().st_size, path.stat().st_mtime_ns) == (
            before.st_size,
            before.st_mtime_ns,
        )

        file.refresh()

        assert may_wrap(file, BOBBY)

    def test_two_edits_within_one_tick_of_the_file_systems_clock_are_both_seen(
        self,
        file: PolicyFile,
        path: Path,
        clock: FixedClock,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        tick = (1, 2, 3)
        monkeypatch.setattr(following, "attributes_of", lambda _: tick)
        file.refresh()
        path.write_text(viewer("bobby"))
        clock.advance(seconds=SETTLED_SECONDS / 2)

        file.refresh()

        assert may_wrap(file, BOBBY)

    def test_a_settled_file_is_not_read(
        self, file: PolicyFile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(_: Path) -> bytes:
            raise AssertionError("the file was read")

        monkeypatch.setattr(policy_module, "_read", refuse)

        file.refresh()

    def test_a_change_is_logged(self, file: PolicyFile, path: Path) -> None:
        path.write_text(viewer("bobby"))

        with capture_logs() as logs:
            file.refresh()
            file.refresh()

        assert [(line["log_level"], line["event"]) for line in logs] == [
            ("info", "policy file read again")
        ]


class TestFaultyChanges:
    def test_the_last_good_policy_stays_in_force(self, file: PolicyFile, path: Path) -> None:
        path.write_text("bindings = 3")

        file.refresh()

        assert may_wrap(file, ALICE)
        assert "bindings: must be a list" in file.fault

    @pytest.mark.parametrize("change", ["emptied", "removed", "opened", "replaced"])
    def test_what_can_happen_to_a_file_is_a_fault(
        self, file: PolicyFile, path: Path, change: str
    ) -> None:
        if change == "opened":
            path.chmod(0o666)
        elif change == "emptied":
            path.write_text("")
        else:
            path.unlink()
            if change == "replaced":
                path.mkdir()

        file.refresh()

        assert may_wrap(file, ALICE)
        assert str(path) in file.fault

    def test_each_fault_is_logged_once(
        self, file: PolicyFile, path: Path, clock: FixedClock
    ) -> None:
        with capture_logs() as logs:
            path.write_text("bindings = 3")
            file.refresh()
            file.refresh()
            clock.advance(seconds=60)
            file.refresh()
            path.write_text("bindings = [3]")
            file.refresh()
            file.refresh()

        assert [line["log_level"] for line in logs] == ["error", "error"]
        assert [str(line["fault"]).rpartition("  ")[2] for line in logs] == [
            "bindings: must be a list",
            "binding 1: must be a table",
        ]

    def test_a_mended_file_ends_the_fault(self, file: PolicyFile, path: Path) -> None:
        path.write_text("bindings = 3")
        file.refresh()
        path.write_text(viewer("bobby"))

        file.refresh()

        assert may_wrap(file, BOBBY)
        assert file.fault == ""

    def test_a_file_that_comes_back_as_it_was_ends_the_fault(
        self, file: PolicyFile, path: Path
    ) -> None:
        text = path.read_text()
        path.unlink()
        file.refresh()
        path.write_text(text)

        with capture_logs() as logs:
            file.refresh()

        assert file.fault == ""
        assert [line["event"] for line in logs] == ["policy file is as before again"]

    def test_an_issuer_that_is_not_in_the_settings_is_a_fault_of_a_change_too(
        self, file: PolicyFile, path: Path
    ) -> None:
        path.write_text(viewer("bobby").replace('"idp"', '"gone"'))

        file.refresh()

        assert "no issuer of that name" in file.fault
        assert may_wrap(file, ALICE)
