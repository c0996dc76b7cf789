"""``keyplane node-files``: what is written, and what is never written over."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from keycli.commands.node_files import DEFAULT_USER
from keycli.node_documents import Node
from keycli.node_pod import static_pod
from keycore.settings import Settings
from tests.unit.keycli.conftest import Run

UNIT = "etc/systemd/system/keyplane-provider.service"
POD = "etc/kubernetes/manifests/keyplane-provider.yaml"
DIRECTORIES = "etc/tmpfiles.d/keyplane.conf"
USERS = "etc/sysusers.d/keyplane.conf"
ENCRYPTION = "etc/kubernetes/keyplane/encryption-config.yaml"
LINES = "etc/kubernetes/keyplane/kube-apiserver-lines.yaml"


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """The directory that files are written to."""
    return tmp_path / "node"


def written(node: Path) -> dict[str, str]:
    """Return mode and name of every file."""
    files = [path for path in node.rglob("*") if path.is_file()]
    return {str(path.relative_to(node)): f"{path.stat().st_mode & 0o7777:04o}" for path in files}


def configure(config: Path, more: str) -> None:
    """Add lines to the settings' last section, which is about the provider."""
    config.write_text(config.read_text() + more)


def pod(node: Path) -> Mapping[str, Any]:
    """Return the static pod."""
    document: Mapping[str, Any] = yaml.safe_load((node / POD).read_text())
    return document


def test_a_unit_comes_with_user_directories_and_both_files_for_the_api_server(
    run: Run, node: Path
) -> None:
    ended = run("node-files", str(node))

    assert ended.code == 0
    assert written(node) == {
        UNIT: "0644",
        USERS: "0644",
        DIRECTORIES: "0644",
        ENCRYPTION: "0600",
        LINES: "0644",
    }


def test_a_static_pod_takes_the_place_of_the_unit(run: Run, node: Path) -> None:
    run("node-files", "--kind", "static-pod", str(node))

    assert {UNIT, USERS, POD} & written(node).keys() == {POD}


def test_modes_do_not_depend_on_the_umask(run: Run, node: Path) -> None:
    before = os.umask(0o077)
    try:
        run("node-files", str(node))
    finally:
        os.umask(before)

    assert written(node)[UNIT] == "0644"
    directories = [path for path in [node, *node.rglob("*")] if path.is_dir()]
    assert {f"{path.stat().st_mode & 0o7777:04o}" for path in directories} == {"0755"}


def test_the_encryption_configuration_is_the_one_that_the_other_command_prints(
    run: Run, node: Path
) -> None:
    printed = run("encryption-config", "--resources", "secrets,configmaps").out
    run("node-files", "--resources", "secrets,configmaps", str(node))

    assert (node / ENCRYPTION).read_text() == printed


def test_the_directories_have_owner_and_mode(run: Run, node: Path, tmp_path: Path) -> None:
    run("node-files", "--user", "4711", str(node))

    assert [line for line in (node / DIRECTORIES).read_text().splitlines() if line[0] == "d"] == [
        f'd "{tmp_path}/state" 0700 4711 4711 -',
        'd "/run/kp" 0700 4711 4711 -',
    ]


def test_a_keyring_elsewhere_can_be_written_by_the_unit(
    run: Run, node: Path, config: Path, tmp_path: Path
) -> None:
    configure(config, 'keyring = "/var/keyring/node.json"\n')
    run("node-files", str(node))

    assert f'ReadWritePaths="{tmp_path}/state" "/run/kp" "/var/keyring"' in (
        (node / UNIT).read_text()
    )
    assert f'd "/var/keyring" 0700 {DEFAULT_USER} {DEFAULT_USER} -' in (
        (node / DIRECTORIES).read_text()
    )


def test_a_uid_without_a_name_gets_one(run: Run, node: Path, tmp_path: Path) -> None:
    run("node-files", str(node))

    assert (node / USERS).read_text().splitlines()[1:] == [
        f'u keyplane {DEFAULT_USER} "keyplane" "{tmp_path}/state"'
    ]


def test_a_uid_that_has_a_name_keeps_it(run: Run, node: Path) -> None:
    run("node-files", "--user", "1", str(node))

    assert USERS not in written(node)


def test_a_socket_group_may_enter_the_directory(run: Run, node: Path, config: Path) -> None:
    configure(config, 'socket_mode = "0660"\nsocket_group = "adm"\n')
    run("node-files", str(node))

    assert f'd "/run/kp" 0750 {DEFAULT_USER} adm -' in (node / DIRECTORIES).read_text()
    assert "SupplementaryGroups=adm" in (node / UNIT).read_text()


def test_the_owner_of_the_state_directory_runs_the_provider(
    run: Run, node: Path, tmp_path: Path
) -> None:
    (tmp_path / "state").mkdir()
    run("node-files", str(node))

    assert f"User={os.getuid()}\n" in (node / UNIT).read_text()


def test_an_empty_node_gets_the_user_of_image_and_chart(run: Run, node: Path) -> None:
    values = yaml.safe_load(
        (Path(__file__).parents[3] / "charts" / "keyplane" / "values.yaml").read_text()
    )
    run("node-files", str(node))

    assert f"User={values['user']}\n" in (node / UNIT).read_text()


def test_a_settings_file_of_another_place_is_named(run: Run, node: Path, config: Path) -> None:
    run("node-files", str(node))
    run("node-files", "--kind", "static-pod", "--force", str(node))
    container = pod(node)["spec"]["containers"][0]

    assert f'Environment="KEYPLANE_CONFIG={config}"' in (node / UNIT).read_text()
    assert container["env"] == [{"name": "KEYPLANE_CONFIG", "value": str(config)}]
    assert {"name": "config", "mountPath": str(config.parent), "readOnly": True} in container[
        "volumeMounts"
    ]


def test_a_percent_sign_and_a_quote_are_themselves_for_systemd(run: Run, node: Path) -> None:
    run("node-files", "--program", '/opt/100% "key"/keyplane', str(node))

    assert r'ExecStart="/opt/100%% \"key\"/keyplane" serve provider' in (node / UNIT).read_text()


# --- the static pod ---------------------------------------------------------------


def test_the_pod_runs_the_image_that_is_named(run: Run, node: Path) -> None:
    run("node-files", "--kind", "static-pod", "--image", "mine/keyplane:7", str(node))

    assert pod(node)["spec"]["containers"][0]["image"] == "mine/keyplane:7"


def test_the_pod_is_stopped_as_late_as_kube_apiserver(run: Run, node: Path) -> None:
    run("node-files", "--kind", "static-pod", str(node))
    spec = pod(node)["spec"]

    # What kubeadm writes into its own manifests.
    assert (spec["priorityClassName"], spec["priority"]) == ("system-node-critical", 2000001000)


def test_the_pod_is_confined(run: Run, node: Path) -> None:
    run("node-files", "--kind", "static-pod", str(node))
    spec = pod(node)["spec"]

    assert spec["securityContext"] == {
        "runAsUser": DEFAULT_USER,
        "runAsGroup": DEFAULT_USER,
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert spec["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_pod_has_every_file_that_the_settings_name(
    run: Run, node: Path, config: Path, tmp_path: Path
) -> None:
    configure(
        config,
        'keyring = "/var/keyring/node.json"\nsocket_mode = "0660"\nsocket_group = "adm"\n'
        '[token]\npin_file = "/etc/hsm/pin"\n'
        '[store]\npostgresql = "dbname=k"\npassword_file = "/etc/db/password"\n',
    )
    run("node-files", "--kind", "static-pod", str(node))
    volumes = {v["name"]: v["hostPath"] for v in pod(node)["spec"]["volumes"]}

    assert volumes == {
        "run": {"path": "/run/kp", "type": "Directory"},
        "state": {"path": f"{tmp_path}/state", "type": "Directory"},
        "config": {"path": str(config.parent), "type": "Directory"},
        # The directories, since a file that is mounted alone stays the old one.
        "pin": {"path": "/etc/hsm", "type": "Directory"},
        "store-password": {"path": "/etc/db", "type": "Directory"},
        "keyring": {"path": "/var/keyring", "type": "Directory"},
        "groups": {"path": "/etc/group", "type": "File"},
    }


def secrets_of(node: Path) -> dict[str, str]:
    """Return which places PIN and password come from, by the names of their volumes."""
    volumes = {v["name"]: v["hostPath"]["path"] for v in pod(node)["spec"]["volumes"]}
    return {name: path for name, path in volumes.items() if name in {"pin", "store-password"}}


def test_secrets_of_one_directory_share_a_volume(run: Run, node: Path, config: Path) -> None:
    pin, password = "/etc/keys/pin", "/etc/keys/password"
    configure(config, f'[token]\npin_file = "{pin}"\n[store]\npassword_file = "{password}"\n')
    run("node-files", "--kind", "static-pod", str(node))

    assert secrets_of(node) == {"pin": "/etc/keys"}


@pytest.mark.parametrize("file", ["/run/pin", "/var/lib/pin", "/opt/hsm/pin", "/opt/keyplane/pin"])
def test_a_directory_that_the_image_needs_is_not_hidden_from_it(
    run: Run, node: Path, config: Path, file: str
) -> None:
    configure(config, f'[token]\nmodule = "/opt/hsm/lib/pkcs11.so"\npin_file = "{file}"\n')
    ended = run("node-files", "--kind", "static-pod", str(node))

    assert secrets_of(node) == {"pin": file}
    assert f"would not see another file in the place of {file}" in ended.err


def test_settings_inside_the_state_directory_are_mounted_once(
    run: Run, node: Path, config: Path, tmp_path: Path
) -> None:
    inside = tmp_path / "state" / "keyplane.toml"
    inside.parent.mkdir()
    config.rename(inside)
    run("--config", str(inside), "node-files", "--kind", "static-pod", str(node))
    (container,) = pod(node)["spec"]["containers"]

    # The API server refuses a path that is mounted twice.
    assert [m["mountPath"] for m in container["volumeMounts"]] == ["/run/kp", str(inside.parent)]


@pytest.mark.usefixtures("config")
def test_a_node_without_settings_gets_their_directory() -> None:
    text = static_pod(Node(Settings(), DEFAULT_USER, None, ["secrets"]), "keyplane").text
    volumes = {v["name"]: v["hostPath"] for v in yaml.safe_load(text)["spec"]["volumes"]}

    # Here it cannot be a misspelt one, and kubelet would wait for it for ever.
    assert volumes["config"] == {"path": "/etc/keyplane", "type": "DirectoryOrCreate"}


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:28675", {"host": "127.0.0.1", "port": 28675, "path": "/livez"}),
        ("0.0.0.0:1", {"host": "127.0.0.1", "port": 1, "path": "/livez"}),
        ("[::]:2", {"host": "::1", "port": 2, "path": "/livez"}),
        ("", None),
    ],
)
def test_kubelet_asks_where_the_provider_answers(
    run: Run, node: Path, config: Path, address: str, expected: dict[str, Any] | None
) -> None:
    configure(config, f'health_address = "{address}"\n')
    run("node-files", "--kind", "static-pod", str(node))
    probe = pod(node)["spec"]["containers"][0].get("livenessProbe", {})

    assert probe.get("httpGet") == expected


def test_a_module_of_ones_own_has_to_be_in_the_image(run: Run, node: Path, config: Path) -> None:
    configure(config, '[token]\nmodule = "/opt/hsm.so"\n')

    ended = run("node-files", "--kind", "static-pod", str(node))

    assert "the image must have the token's module /opt/hsm.so" in ended.err


def test_the_api_servers_lines_lead_to_both_files(run: Run, node: Path) -> None:
    run("node-files", str(node))
    spec = yaml.safe_load((node / LINES).read_text())["spec"]
    (container,) = spec["containers"]

    assert f"--encryption-provider-config=/{ENCRYPTION}" in container["command"]
    assert {v["hostPath"]["path"] for v in spec["volumes"]} == {
        "/etc/kubernetes/keyplane",
        "/run/kp",
    }
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in spec["volumes"]}


def test_kubeadm_is_told_the_same_as_the_api_server(run: Run, node: Path, config: Path) -> None:
    config.write_text("")
    guide = (Path(__file__).parents[3] / "docs" / "install.md").read_text()
    _, _, block = guide.partition("```yaml\n# ClusterConfiguration")
    told = yaml.safe_load(block[block.index("\n") : block.index("```")])["apiServer"]
    run("node-files", "--user", "1", str(node))
    spec = yaml.safe_load((node / LINES).read_text())["spec"]
    (container,) = spec["containers"]

    assert [f"--{a['name']}={a['value']}" for a in told["extraArgs"]] == container["command"]
    assert [
        {"name": v["name"], "mountPath": v["mountPath"], "readOnly": v["readOnly"]}
        for v in told["extraVolumes"]
    ] == container["volumeMounts"]
    assert [
        {"name": v["name"], "hostPath": {"path": v["hostPath"], "type": v["pathType"]}}
        for v in told["extraVolumes"]
    ] == spec["volumes"]


def test_kubelet_never_sees_a_manifest_that_is_not_whole(run: Run, node: Path) -> None:
    (node / POD).mkdir(parents=True)

    ended = run("node-files", "--kind", "static-pod", "--force", str(node))

    assert ended.code == 2
    assert {path.name[0] for path in (node / POD).parent.iterdir() if path.is_file()} == {"."}


# --- what was there before --------------------------------------------------------


def test_a_second_run_changes_nothing(run: Run, node: Path) -> None:
    run("node-files", str(node))
    before = {path: path.stat().st_ino for path in node.rglob("*")}

    ended = run("node-files", str(node), "-o", "json")

    assert {file["state"] for file in ended.json["files"]} == {"unchanged"}
    assert {path: path.stat().st_ino for path in node.rglob("*")} == before


def test_a_file_with_another_content_is_never_written_over(run: Run, node: Path) -> None:
    other = node / ENCRYPTION
    other.parent.mkdir(parents=True)
    other.write_text("mine")

    ended = run("node-files", str(node))

    assert (ended.code, other.read_text()) == (1, "mine")
    assert str(other) in ended.err
    # Half of a tree would be worse than none.
    assert list(written(node)) == [ENCRYPTION]


@pytest.mark.parametrize(("first", "then"), [("systemd", "static-pod"), ("static-pod", "systemd")])
def test_two_that_would_run_the_provider_are_warned_of(
    run: Run, node: Path, first: str, then: str
) -> None:
    alone = run("node-files", "--kind", first, str(node))
    both = run("node-files", "--kind", then, str(node))

    assert "warning" not in alone.err
    former = {"systemd": UNIT, "static-pod": POD}[first]
    assert f"warning: {node / former} is there too" in both.err
    assert both.code == 0


def test_force_replaces_it(run: Run, node: Path) -> None:
    other = node / ENCRYPTION
    other.parent.mkdir(parents=True)
    other.write_text("mine")

    ended = run("node-files", "--force", str(node), "-o", "json")

    assert ended.code == 0
    assert [f["path"] for f in ended.json["files"] if f["state"] == "replaced"] == [
        f"/{ENCRYPTION}"
    ]
    assert "EncryptionConfiguration" in other.read_text()


def test_a_mode_that_is_too_open_is_another_file(run: Run, node: Path) -> None:
    run("node-files", str(node))
    (node / ENCRYPTION).chmod(0o644)

    assert run("node-files", str(node)).code == 1


def test_a_link_is_not_followed_to_what_it_points_at(run: Run, node: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (node / UNIT).parent.mkdir(parents=True)
    (node / UNIT).symlink_to(victim)

    refused = run("node-files", str(node))
    forced = run("node-files", "--force", str(node))

    assert (refused.code, forced.code, victim.read_text()) == (1, 0, "mine")


def test_the_table_names_every_file_and_its_mode(run: Run, node: Path) -> None:
    lines = run("node-files", str(node)).out.splitlines()

    assert lines[0].split() == ["PATH", "MODE", "STATE"]
    assert [f"/{ENCRYPTION}", "0600", "written"] in [line.split() for line in lines]


def test_a_directory_that_cannot_be_written_to_is_told(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    ended = run("node-files", str(tmp_path / "file"))

    assert ended.code == 2
    assert "error: " in ended.err
