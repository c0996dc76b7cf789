"""The repository can be built and imported without breaking the interpreter."""

from __future__ import annotations

import importlib.util
import operator
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def test_no_folder_called_operator_is_a_package() -> None:
    """It would shadow the standard library's module and break every import."""
    own = (
        path
        for path in ROOT.rglob("operator/__init__.py")
        if not {".venv", ".cache"} & set(path.relative_to(ROOT).parts)
    )

    assert list(own) == []


def test_operator_is_the_standard_librarys() -> None:
    assert Path(operator.__file__).parent == Path(sysconfig.get_path("stdlib"))


def test_the_wheel_holds_every_package_and_nothing_that_shadows(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    packages = {name.split("/")[0] for name in names if not name.startswith("keyplane-")}

    assert packages == {
        "keycore",
        "keywatch",
        "keyplugin",
        "keyrest",
        "keyoperator",
        "keycli",
    }
    assert "keycore/adapters/migrations/versions/0001_first_schema.py" in names
    assert "keycore/py.typed" in names


def test_the_lock_file_pins_every_dependency_and_names_no_address() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {line.split("==")[0] for line in lock.splitlines() if "==" in line}

    names = {text.split(">")[0].split("[")[0] for text in project["dependencies"]}
    assert names <= pinned
    assert "://" not in lock


@pytest.mark.parametrize(
    "name", ["keycore", "keywatch", "keyplugin", "keyrest", "keyoperator", "keycli"]
)
def test_a_package_is_found_in_its_own_root(name: str) -> None:
    spec = importlib.util.find_spec(name)

    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).parents[1].name in {"kmsplugin", "operator"}
