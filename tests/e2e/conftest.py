"""Fixtures that run a real control plane.

The binaries are found or built before the first test, not inside one: a build
takes minutes, must be seen, and must not count against a test's timeout.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from testbed.binaries import Binaries, find_or_build
from testbed.cluster import Cluster
from testbed.errors import ControlPlaneError

_OUTCOME = pytest.StashKey[Binaries | ControlPlaneError]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Get the binaries ready when a collected test asks for them."""
    wanted = any("binaries" in getattr(item, "fixturenames", ()) for item in session.items)
    if not wanted or session.config.option.collectonly:
        return
    try:
        session.config.stash[_OUTCOME] = find_or_build()
    except ControlPlaneError as fault:
        # Only the tests that need the binaries fail, each with this message.
        session.config.stash[_OUTCOME] = fault


@pytest.fixture(scope="session")
def binaries(request: pytest.FixtureRequest) -> Binaries:
    """The programs of a control plane."""
    outcome = request.config.stash[_OUTCOME]
    if isinstance(outcome, ControlPlaneError):
        pytest.fail(str(outcome), pytrace=False)
    return outcome


@pytest.fixture
def make_cluster(binaries: Binaries, tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """A function that starts a cluster of its own; it takes Cluster's options.

    All are stopped after the test.
    """
    with ExitStack() as stack:
        count = 0

        def make(**options: Path | bool | None) -> Cluster:
            nonlocal count
            count += 1
            cluster = Cluster(tmp_path / f"cluster-{count}", binaries, **options)  # type: ignore[arg-type]
            return stack.enter_context(cluster)

        yield make


@pytest.fixture(scope="module")
def plain_cluster(
    binaries: Binaries, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """A cluster without encryption, shared by the tests of one module."""
    with Cluster(tmp_path_factory.mktemp("plain-cluster"), binaries) as cluster:
        yield cluster
