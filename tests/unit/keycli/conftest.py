"""Runs whole command lines in this process, on a core with fakes below it."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog

from keycli import logs
from keycli.invocation import Invocation
from keycli.main import main
from keycore.domain.keys import Key
from keycore.service.creation import NewKey
from tests.fakes.installation import CALLER, FakeInstallation, fake_installation


@dataclass(frozen=True)
class Ended:
    """How a command line ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ended]


@pytest.fixture
def here() -> FakeInstallation:
    """A fresh installation on fakes."""
    return fake_installation()


@pytest.fixture
def key(here: FakeInstallation) -> Key:
    """A root key in the default instance."""
    return here.core.keys.create(CALLER, here.instance.id, NewKey("etcd"))


@pytest.fixture
def run(
    here: FakeInstallation,
    config: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """A function that runs one command line; ``typed`` is what a person would type."""
    monkeypatch.setenv("KEYPLANE_CONFIG", str(config))
    invocation = Invocation(opener=lambda _settings, _face: nullcontext(here.core))

    def run_line(*arguments: str, typed: str = "") -> Ended:
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        capsys.readouterr()
        code = main(arguments, invocation=invocation)
        return Ended(code, *capsys.readouterr())

    return run_line


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A settings file; no setting comes from the environment of the tests."""
    for name in [name for name in os.environ if name.startswith("KEYPLANE_")]:
        monkeypatch.delenv(name)
    file = tmp_path / "keyplane.toml"
    file.write_text(f'state_dir = "{tmp_path}/state"\n[provider]\nsocket = "/run/kp/kms.sock"\n')
    return file


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """Take back what a command line does to the logging of its process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    libraries = {name: logging.getLogger(name).level for name in logs._TALKATIVE}
    yield
    for name, before in libraries.items():
        logging.getLogger(name).setLevel(before)
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()
