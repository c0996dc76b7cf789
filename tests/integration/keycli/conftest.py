"""One initialised installation on SoftHSM2, and a copy of it for each test."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.keycli.site import Ended, Site


@pytest.fixture(scope="session")
def initialised() -> Iterator[tuple[Site, Ended]]:
    """An installation that no test changes, and how its ``init`` ended."""
    with tempfile.TemporaryDirectory(prefix="kp-") as directory:
        site = Site(Path(directory))
        yield site, site.run("init", "--output", "json")


@pytest.fixture
def empty() -> Iterator[Site]:
    """Settings without an installation."""
    with tempfile.TemporaryDirectory(prefix="kp-") as directory:
        yield Site(Path(directory))


@pytest.fixture
def site(initialised: tuple[Site, Ended], empty: Site) -> Site:
    """A fresh installation."""
    template, _ = initialised
    shutil.copytree(template.state, empty.state)
    # It holds the path of the token directory, and is written anew where it is missing.
    (empty.state / "softhsm2.conf").unlink()
    return empty
