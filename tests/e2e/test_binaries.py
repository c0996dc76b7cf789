"""Where the control plane's binaries come from, tried with a stand-in for Go."""

import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rich.console import Console

from testbed.binaries import built_directory, find_or_build
from testbed.errors import BinaryUnavailableError
from testbed.progress import BuildProgress

pytestmark = pytest.mark.e2e

_NAMES = ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")

# It writes down each call, and names a binary after the last element of its
# package's path, as Go does (without a major version such as v3).
_STAND_IN_FOR_GO = """\
#!/bin/sh
if [ "$1" = env ]; then echo '{"GOVERSION": "go99.1"}'; exit; fi
echo "$@" >>"$CALLS"
[ "$1" = install ] || exit 0
if [ -n "$BROKEN" ]; then echo "undefined: everything" >&2; exit 1; fi
for package; do :; done
name=$(basename "${package%/v3}")
printf '#!/bin/sh\\n' >"$GOBIN/$name"
chmod +x "$GOBIN/$name"
"""


def _make_program(path: Path, text: str = "#!/bin/sh\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with nothing but a stand-in for Go, whose calls are lines here."""
    calls = tmp_path / "calls"
    calls.touch()
    _make_program(tmp_path / "path" / "go", _STAND_IN_FOR_GO)
    for program in ("sh", "chmod", "basename", "setpriv"):
        (tmp_path / "path" / program).symlink_to(Path("/usr/bin", program))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CALLS", str(calls))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    return calls


def _silent() -> BuildProgress:
    return BuildProgress(Console(file=io.StringIO()))


def test_binaries_in_the_assets_directory_are_used_without_building(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assets = tmp_path / "assets"
    for name in _NAMES:
        _make_program(assets / name)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(assets))

    binaries = find_or_build(_silent())

    assert binaries.etcd == assets / "etcd"
    assert binaries.kubectl == assets / "kubectl"
    assert calls.read_text() == ""


def test_only_what_is_missing_in_the_assets_directory_is_built(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assets = tmp_path / "assets"
    for name in ("etcd", "kube-apiserver", "kubectl"):
        _make_program(assets / name)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(assets))

    binaries = find_or_build(_silent())

    assert binaries.kube_apiserver == assets / "kube-apiserver"
    assert binaries.kube_controller_manager == built_directory() / "kube-controller-manager"
    assert calls.read_text().count("install") == 1


def test_a_kubectl_on_the_path_is_used(calls: Path, tmp_path: Path) -> None:
    kubectl = _make_program(tmp_path / "path" / "kubectl")

    assert find_or_build(_silent()).kubectl == kubectl
    assert "cmd/kubectl" not in calls.read_text()


def test_a_kubectl_on_the_path_that_does_not_start_is_built(calls: Path, tmp_path: Path) -> None:
    _make_program(tmp_path / "path" / "kubectl", "#!/bin/sh\nexit 1\n")

    assert find_or_build(_silent()).kubectl == built_directory() / "kubectl"
    assert "cmd/kubectl" in calls.read_text()


def test_what_was_built_once_is_not_built_again(calls: Path) -> None:
    first = find_or_build(_silent())
    calls.write_text("")

    assert find_or_build(_silent()) == first
    assert calls.read_text() == ""
    assert os.access(first.etcd, os.X_OK)


def test_two_builders_at_once_build_everything_once(calls: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        builders = [pool.submit(find_or_build, _silent()) for _ in range(2)]

    assert builders[0].result() == builders[1].result()
    assert calls.read_text().count("install") == len(_NAMES)


def test_a_failed_build_names_the_cause_the_log_and_the_way_out(
    calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKEN", "yes")

    with pytest.raises(BinaryUnavailableError) as raised:
        find_or_build(_silent())

    message = str(raised.value)
    assert message.startswith("Building etcd failed: ")
    assert "KUBEBUILDER_ASSETS" in message.splitlines()[0]
    assert str(built_directory() / "building-etcd.log") in message
    assert "undefined: everything" in message
    assert not any(path.name.startswith(".") for path in built_directory().iterdir())
