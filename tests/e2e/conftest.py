"""Fixtures that run a real control plane.

The binaries are found or built before the first test, not inside one: a build
takes minutes, must be seen, and must not count against a test's timeout.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from keycore.domain.providers import OutagePolicy
from testbed.binaries import Binaries, find_or_build
from testbed.cluster import Cluster
from testbed.errors import ControlPlaneError
from tests.e2e.generations_site import GenerationsSite, GenerationsStory
from tests.e2e.outage_site import OutageSite, OutageStory

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


_Sites = Mapping[str, Callable[[Path, Binaries], Any]]

_SITES: _Sites = {
    "coast": lambda here, binaries: OutageSite(here, binaries, OutagePolicy.COAST).live(),
    "fail_closed": lambda here, binaries: OutageSite(
        here, binaries, OutagePolicy.FAIL_CLOSED
    ).live(),
    "generations": lambda here, binaries: GenerationsSite(here, binaries).live(),
}
"""Stories that take minutes of waiting each, by the fixture that returns them."""


@pytest.fixture(scope="session")
def stories(
    request: pytest.FixtureRequest, binaries: Binaries
) -> Iterator[Mapping[str, Future[Any]]]:
    """The stories that the collected tests ask for, lived through side by side."""
    asked_for = {name for item in request.session.items for name in _asked_for(item)}
    wanted = asked_for & _SITES.keys()
    with ThreadPoolExecutor(len(_SITES)) as threads:
        yield {name: threads.submit(_story, name, binaries) for name in wanted}


def _asked_for(item: pytest.Item) -> list[str]:
    """Return the names of a test's fixtures, and its parameters, which may name more."""
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return [*getattr(item, "fixturenames", ()), *filter(lambda p: isinstance(p, str), parameters)]


def _story(name: str, binaries: Binaries) -> Any:
    # A short path: a unix socket lies in it.
    with TemporaryDirectory(prefix="keyplane-") as directory:
        return _SITES[name](Path(directory), binaries)


@pytest.fixture(scope="session")
def coast(stories: Mapping[str, Future[Any]]) -> OutageStory:
    """What happened at a site that coasts through an outage of its token."""
    story: OutageStory = stories["coast"].result()
    return story


@pytest.fixture(scope="session")
def fail_closed(stories: Mapping[str, Future[Any]]) -> OutageStory:
    """What happened at a site that fails closed in an outage of its token."""
    story: OutageStory = stories["fail_closed"].result()
    return story


@pytest.fixture(scope="session")
def generations(stories: Mapping[str, Future[Any]]) -> GenerationsStory:
    """What happened at a site with two nodes and several rotations."""
    story: GenerationsStory = stories["generations"].result()
    return story


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
