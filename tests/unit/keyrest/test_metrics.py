"""What Prometheus is told about a process of the REST face."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from keycore.domain.ids import new_uuid
from keycore.service.use_budget import RESERVED_AHEAD, RESERVED_MAX
from keyrest.app import PAGE_OPERATION
from keyrest.metrics import FAMILIES, RestMetrics, uses_ratio_max
from keywatch.looks import Look
from tests.fakes.rest_site import FakeSite, new_key, rest_site
from tests.scraping import Scraped, declared

REQUESTS = "keyplane_rest_requests_total"
SECONDS = "keyplane_rest_request_seconds"


class CountedSite:
    """A site whose answers are counted."""

    def __init__(self, site: FakeSite, metrics: RestMetrics) -> None:
        self.site = site
        self.metrics = metrics
        self.store = Look("the store", site.core.cache.refresh, site.core.clock, explain=str)
        self.store.take()
        metrics.follow(site.core, self.store, lambda: 7)

    def scrape(self) -> Scraped:
        return Scraped(self.metrics.all.render())

    def counted(self) -> dict[tuple[str, str], float]:
        """Return how many requests were counted, by operation and status."""
        samples = self.scrape().of(REQUESTS)
        return {(s.labels["operation"], s.labels["status"]): s.value for s in samples}


@pytest.fixture
def counted() -> Iterator[CountedSite]:
    metrics = RestMetrics()
    with rest_site(count=metrics.count) as site:
        yield CountedSite(site, metrics)


def test_every_answer_is_counted_by_its_operation_and_status(counted: CountedSite) -> None:
    site = counted.site
    key = site.root_key()
    site.send("POST", "/keys", json=new_key())
    site.wrapped(key.id)
    site.wrapped(key.id)
    site.act("wrap", key.id, {"plaintext": "AAAA"}, caller="Nobody")

    assert counted.counted() == {
        ("key.create", "201"): 1,
        ("key.wrap", "200"): 2,
        ("key.wrap", "403"): 1,
    }
    assert counted.scrape().value(f"{SECONDS}_count", operation="key.wrap") == 3


def test_pages_share_one_operation_of_their_own(counted: CountedSite) -> None:
    """Probes would otherwise make the times of requests look better than they are."""
    counted.site.send("GET", "/livez", caller=None)
    counted.site.send("GET", "/readyz", caller=None)

    assert counted.counted() == {(PAGE_OPERATION, "200"): 2}


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ({"method": "GET", "path": "/nowhere"}, "404"),
        ({"method": "BREW", "path": "/keys"}, "405"),
        ({"method": "POST", "path": f"/keys/{new_uuid()}?action=planted"}, "400"),
    ],
)
def test_what_is_refused_early_shares_one_operation_whatever_was_sent(
    counted: CountedSite, parts: dict[str, Any], status: str
) -> None:
    counted.site.send(**parts)

    assert counted.counted() == {("http.request", status): 1}
    for sent in ("/nowhere", "BREW", "planted"):
        assert sent not in counted.scrape().text


def test_a_request_without_a_credential_is_counted_under_what_it_asked_for(
    counted: CountedSite,
) -> None:
    counted.site.send("GET", "/keys", caller=None)

    assert counted.counted() == {("key.list", "401"): 1}


def test_a_fault_of_ours_is_counted_as_500(
    counted: CountedSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(type(counted.site.core.keys), "page", fail)
    counted.site.send("GET", "/keys")

    assert counted.counted() == {("key.list", "500"): 1}


def test_everything_that_is_shown_is_declared_and_everything_declared_is_shown(
    counted: CountedSite,
) -> None:
    counted.site.wrapped(counted.site.root_key().id)
    counted.site.core.budget.settle()
    counted.metrics.observe_token("encrypt", "ok", 0.001)

    assert counted.scrape().described() == declared(FAMILIES)
    assert counted.scrape().value("keyplane_rest_connections") == 7


def test_the_share_of_uses_is_that_of_the_most_used_version(counted: CountedSite) -> None:
    core = counted.site.core
    assert uses_ratio_max(core) is None
    for spent in (0, RESERVED_MAX // 2):
        key = counted.site.root_key()
        counted.site.here.store._tables.uses[key.current.id] = spent
        counted.site.wrapped(key.id)

    assert uses_ratio_max(core) == (RESERVED_MAX // 2 + RESERVED_AHEAD) / RESERVED_MAX
    assert counted.scrape().value("keyplane_rest_uses_ratio_max") == uses_ratio_max(core)


def test_a_rotation_takes_the_old_version_out_of_the_share_of_uses(counted: CountedSite) -> None:
    """Otherwise an alert would go on after what it asks for was done."""
    site = counted.site
    key = site.root_key()
    site.here.store._tables.uses[key.current.id] = RESERVED_MAX // 2
    site.wrapped(key.id)
    assert (uses_ratio_max(site.core) or 0) > 0.5
    site.rotate_later(key.id)
    site.wrapped(key.id)

    assert uses_ratio_max(site.core) == 0.0


def test_a_scrape_calls_neither_token_nor_store(counted: CountedSite) -> None:
    counted.site.wrapped(counted.site.root_key().id)
    counted.site.here.token.lost = counted.site.here.store.lost = True

    assert counted.scrape().value("keyplane_store_available") == 1
    assert counted.scrape().of("keyplane_rest_uses_ratio_max")
