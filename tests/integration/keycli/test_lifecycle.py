"""The life of a key through the real program, its token and its store."""

from __future__ import annotations

import signal
import subprocess
import sys

import yaml

from testbed.audit import audit_lines
from testbed.waiting import wait_until
from tests.integration.keycli.site import Site, environment


def test_a_key_lives_from_creation_to_deletion(site: Site) -> None:
    created = site.run("keys", "create", "etcd", "--description", "for etcd")
    (key,) = site.run("keys", "list", "--output", "json").json
    rotated = site.run("--output", "json", "keys", "rotate", key["id"])
    deleted = site.run("keys", "delete", key["id"], "--output", "json", typed="etcd\n")

    assert (created.code, rotated.code, deleted.code) == (0, 0, 0)
    assert created.out.startswith(f"id           {key['id']}\nname         etcd\n")
    assert rotated.json["currentVersion"] == 2
    assert [v["state"] for v in deleted.json["versions"]] == ["destroyed", "destroyed"]


def test_a_key_that_a_provider_needs_survives_a_deletion(site: Site) -> None:
    key = site.run("keys", "create", "etcd", "--output", "json").json
    bound = site.run("provider", "set", "keyplane", "--key", key["id"], "--output", "json").json

    refused = site.run("keys", "delete", key["id"], "--yes")
    status = site.run("status")

    assert (refused.code, refused.out) == (1, "")
    assert "is needed by KMS provider keyplane" in refused.err
    assert status.code == 0
    assert bound["active"]["keyIdHash"] in status.out


def test_the_commands_of_one_installation_are_audited(site: Site) -> None:
    site.run("instance", "create", "team-a")

    lines = audit_lines(site.state, "cli")
    assert [line["operation"] for line in lines] == ["init", "instance.create"]


def test_a_rotation_waits_for_the_provider_that_runs(site: Site) -> None:
    key = site.run("keys", "create", "etcd", "--output", "json").json
    serving = subprocess.Popen(
        site.command("serve", "provider"), env=environment(), stderr=subprocess.PIPE
    )
    try:
        wait_until(site.socket.exists, what="the socket", within_seconds=30)
        bound = site.run("provider", "set", "keyplane", "--key", key["id"], "--wait", "30")
        rotated = site.run("keys", "rotate", key["id"], "--wait", "30", "--output", "json")
        nodes = site.run("nodes", "list", "--output", "json").json
        serving.send_signal(signal.SIGTERM)
        code = serving.wait(30)
    finally:
        serving.kill()
        serving.communicate()

    assert (bound.code, rotated.code, code) == (0, 0, 0)
    assert (rotated.json["currentVersion"], rotated.json["waitingFor"]) == (2, [])
    assert [(node["name"], node["ready"]) for node in nodes] == [("cp-1", True)]


def test_the_encryption_configuration_needs_no_installation(empty: Site) -> None:
    ended = empty.run("encryption-config", "--resources", "secrets,configmaps")

    (rule,) = yaml.safe_load(ended.out)["resources"]
    assert rule["providers"][0]["kms"]["endpoint"] == f"unix://{empty.socket}"
    assert rule["resources"] == ["secrets", "configmaps"]


def test_a_reader_that_ends_early_ends_the_command_quietly(empty: Site) -> None:
    command = empty.command("encryption-config")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        complaints = running.stderr.read()

    assert (running.returncode, complaints) == (141, b"")


def test_the_console_script_is_the_same_program() -> None:
    script = f"{sys.prefix}/bin/keyplane"

    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)

    assert done.stdout.startswith("keyplane ")
