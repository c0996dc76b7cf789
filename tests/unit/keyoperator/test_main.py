"""How the operator reaches the cluster, and which marks kopf may leave."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from keycore.errors import SettingsError
from keyoperator.cluster import load_configuration
from keyoperator.main import connection_info, kopf_settings

CA = "-----BEGIN CERTIFICATE-----\n"


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Path:
    path = tmp_path / "kubeconfig"
    ca_data = base64.b64encode(CA.encode()).decode()
    cluster = {"server": "https://127.0.0.1:6443", "certificate-authority-data": ca_data}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "here", "cluster": cluster}],
        "users": [{"name": "me", "user": {"token": "credential"}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        "current-context": "here",
    }
    path.write_text(json.dumps(config))
    return path


def test_the_authority_of_the_kubeconfig_counts_and_no_other(kubeconfig: Path, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nonexistent")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.invalid:3128")

    info = connection_info(load_configuration(kubeconfig))

    assert Path(str(info.ca_path)).read_text() == CA
    assert (info.server, info.scheme, info.token) == (
        "https://127.0.0.1:6443",
        "Bearer",
        "credential",
    )
    assert info.proxy_url is None
    assert not info.insecure


def test_a_kubeconfig_that_is_missing_is_named(tmp_path: Path):
    with pytest.raises(SettingsError) as caught:
        load_configuration(tmp_path / "missing")

    assert "missing" in caught.value.message
    assert "operator.kubeconfig" in caught.value.hint


def test_kopf_marks_resources_with_our_names_only():
    settings = kopf_settings()

    assert settings.persistence.finalizer == "kms.keyplane.dev/key"
    for storage in (settings.persistence.progress_storage, settings.persistence.diffbase_storage):
        assert storage.prefix == "kms.keyplane.dev"


def test_log_lines_of_kopf_never_become_events():
    assert not kopf_settings().posting.loggers
