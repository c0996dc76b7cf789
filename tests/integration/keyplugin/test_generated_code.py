"""What is committed under kmsapi is what ``make proto`` generates."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
GENERATED = ["api_pb2.py", "api_pb2.pyi", "api_pb2_grpc.py"]


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with freshly generated code."""
    target = tmp_path_factory.mktemp("generated")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            "-Ikeyplugin/kmsapi=protos/kms/v2",
            f"--python_out={target}",
            f"--pyi_out={target}",
            f"--grpc_python_out={target}",
            "protos/kms/v2/api.proto",
        ],
        cwd=ROOT,
        check=True,
    )
    return target / "keyplugin" / "kmsapi"


@pytest.mark.parametrize("name", GENERATED)
def test_committed_code_is_what_the_proto_generates(generated: Path, name: str) -> None:
    committed = ROOT / "kmsplugin" / "keyplugin" / "kmsapi" / name

    assert committed.read_bytes() == (generated / name).read_bytes()


def test_nothing_else_is_generated(generated: Path) -> None:
    assert sorted(path.name for path in generated.iterdir()) == sorted(GENERATED)
