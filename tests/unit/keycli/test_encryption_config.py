"""``keyplane encryption-config``; a real kube-apiserver reads it in the end-to-end tests."""

from __future__ import annotations

import json

import pytest
import yaml

from tests.unit.keycli.conftest import Run


def test_the_file_names_socket_provider_and_resources(run: Run) -> None:
    ended = run("encryption-config", "--resources", "secrets, configmaps")

    assert yaml.safe_load(ended.out) == {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "EncryptionConfiguration",
        "resources": [
            {
                "resources": ["secrets", "configmaps"],
                "providers": [
                    {
                        "kms": {
                            "apiVersion": "v2",
                            "name": "keyplane",
                            "endpoint": "unix:///run/kp/kms.sock",
                            "timeout": "3s",
                        }
                    },
                    {"identity": {}},
                ],
            }
        ],
    }


def test_json_and_yaml_say_the_same(run: Run) -> None:
    text = run("encryption-config").out

    assert json.loads(run("encryption-config", "-o", "json").out) == yaml.safe_load(text)


def test_the_comments_tell_what_an_administrator_must_know(run: Run) -> None:
    comments = [line.strip() for line in run("encryption-config").out.splitlines() if "#" in line]
    text = " ".join(comments).replace("# ", "")

    assert "--encryption-provider-config-automatic-reload=true" in text
    assert "this name can never change" in text
    assert "then remove this line" in text


@pytest.mark.parametrize("resources", ["*.apps", "*.", "keys.kms.keyplane.dev", "*.*"])
def test_resources_of_groups_and_wildcards_survive_yaml(run: Run, resources: str) -> None:
    parsed = yaml.safe_load(run("encryption-config", "--resources", resources).out)

    assert parsed["resources"][0]["resources"] == [resources]


@pytest.mark.parametrize("resources", ["", ",", "Secrets", 'secrets"', "a b", "secrets;"])
def test_what_is_no_resource_is_a_wrong_command_line(run: Run, resources: str) -> None:
    ended = run("encryption-config", "--resources", resources)

    assert (ended.code, ended.out) == (2, "")


def test_a_resource_is_listed_once(run: Run) -> None:
    ended = run("encryption-config", "--resources", "secrets,secrets", "-o", "json")

    assert ended.json["resources"][0]["resources"] == ["secrets"]


def test_a_name_that_etcds_prefix_cannot_hold_is_refused(run: Run) -> None:
    ended = run("encryption-config", "--provider", "a:b")

    assert (ended.code, ended.out) == (1, "")


def test_another_provider_can_be_named(run: Run) -> None:
    parsed = yaml.safe_load(run("encryption-config", "--provider", "007").out)

    assert parsed["resources"][0]["providers"][0]["kms"]["name"] == "007"
