"""The gates are asked in their order, and every request ends in one answer and one audit line."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from keycore.domain.keys import Key
from keycore.errors import IssuerUnavailableError, StoreUnavailableError
from keycore.ports import AuditEvent
from keycore.service.wrapping import Wrapped
from keycore.settings import RestSettings, Settings, TokenSettings
from keyrest.answers import Answer, send_answer
from keyrest.requests import Request
from tests.fakes.rest_site import KEY_TYPE, FakeSite, RestSite, reason, rest_site

KEY = "0b000000-0000-4000-8000-000000000002"
UNKNOWN_INSTANCE = "0a000000-0000-4000-8000-00000000dead"


@pytest.fixture
def site() -> Iterator[FakeSite]:
    with rest_site() as site:
        yield site


def only(events: list[AuditEvent]) -> AuditEvent:
    [event] = events
    return event


# --- order ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_parts", "status"),
    [
        ({"method": "PUT", "path": "/nowhere", "caller": None, "instance": None}, 404),
        ({"method": "PUT", "path": "/keys", "caller": None, "instance": None}, 405),
        ({"method": "POST", "path": "/keys", "caller": None, "instance": None}, 401),
        ({"method": "POST", "path": "/keys", "caller": "Nobody", "instance": None}, 400),
        ({"method": "POST", "path": f"/keys/{KEY}?action=x", "caller": "Nobody"}, 400),
        ({"method": "POST", "path": "/keys?state=x", "caller": "Nobody"}, 403),
        ({"method": "GET", "path": "/keys/!", "caller": "Nobody"}, 403),
        (
            {
                "method": "POST",
                "path": "/keys",
                "caller": "ClusterAdministrator",
                "instance": UNKNOWN_INSTANCE,
                "content": b"x" * 2_000_000,
            },
            403,
        ),
        ({"method": "POST", "path": "/keys", "content": b"x" * 2_000_000}, 413),
        ({"method": "POST", "path": "/keys", "content": b"{", "headers": {"accept": "a/b"}}, 406),
        (
            {
                "method": "POST",
                "path": "/keys",
                "content": b"{",
                "headers": {"content-type": "a/b"},
            },
            415,
        ),
        ({"method": "POST", "path": "/keys", "content": b"{"}, 400),
    ],
    ids=[
        *("path", "method", "credential", "instance header", "action", "role before query"),
        *("role before id", "instance before body", "size", "accept", "type", "body"),
    ],
)
def test_of_several_faults_the_first_gate_decides(
    site: RestSite, request_parts: dict[str, Any], status: int
) -> None:
    response = site.send(**request_parts)

    assert response.status_code == status
    assert reason(response)["status"] == status


def test_a_viewer_who_sends_nonsense_to_rotate_is_told_of_his_role_only(site: RestSite) -> None:
    response = site.act("rotate", site.root_key().id, ["nonsense"], caller="Viewer")

    assert response.status_code == 403


def test_a_throttled_caller_is_told_before_anything_is_read() -> None:
    with limited_site(1 / 1000) as site:
        first = site.send("GET", "/keys", caller="Editor")
        second = site.send("GET", "/keys", caller="Editor", instance=None)
        other = site.send("GET", "/keys", caller="Administrator")

    assert (first.status_code, second.status_code, other.status_code) == (200, 429, 200)
    assert 990 <= int(second.headers["retry-after"]) <= 1001


def test_a_caller_without_a_credential_uses_up_nobodys_rate() -> None:
    with limited_site(1 / 1000) as site:
        statuses = [site.send("GET", "/keys", caller=None).status_code for _ in range(3)]

    assert statuses == [401, 401, 401]


# --- answers --------------------------------------------------------------------


@pytest.mark.parametrize(
    "parts",
    [
        {"method": "GET", "path": "/keys"},
        {"method": "GET", "path": "/keys", "caller": None},
        {"method": "GET", "path": "/nowhere"},
        {"method": "DELETE", "path": "/keys"},
        {"method": "GET", "path": f"/keys/{KEY}"},
        {"method": "POST", "path": f"/keys/{KEY}/actions/rotate", "caller": "Viewer"},
        {"method": "HEAD", "path": "/keys"},
        {"method": "GET", "path": "/livez"},
    ],
    ids=["200", "401", "404 path", "405", "404 key", "403", "head", "probe"],
)
def test_every_answer_has_the_callers_correlation_id(site: RestSite, parts: dict[str, Any]) -> None:
    response = site.send(**parts, headers={"correlation-id": "trace-1"})

    assert response.headers.get_list("correlation-id") == ["trace-1"]


def test_a_fault_of_our_own_has_it_too(site: RestSite, broken: Callable[[], None]) -> None:
    broken()

    response = site.send("GET", "/keys", headers={"X-Request-Id": "trace-1"})

    assert response.status_code == 500
    assert response.headers["correlation-id"] == "trace-1"


def test_an_answer_to_401_asks_for_a_bearer_token(site: RestSite) -> None:
    assert site.send("GET", "/keys", caller=None).headers["www-authenticate"] == "Bearer"


def test_nothing_is_kept_by_a_proxy(site: RestSite) -> None:
    assert site.send("GET", "/keys").headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "parts", [{}, {"caller": None}, {"caller": "Viewer"}, {"instance": None}], ids=repr
)
def test_head_has_no_body_and_says_so_once(site: RestSite, parts: dict[str, Any]) -> None:
    response = site.send("HEAD", "/keys", **parts)

    assert response.content == b""
    assert response.headers.get_list("content-length") == ["0"]


def test_an_answer_without_content_has_no_length(site: RestSite) -> None:
    response = site.act("rotate", site.root_key().id)

    assert response.status_code == 204
    assert "content-length" not in response.headers
    assert "content-type" not in response.headers


def test_an_issuer_that_does_not_answer_is_no_fault_of_the_caller(site: RestSite) -> None:
    site.callers.broken = IssuerUnavailableError("the issuer does not answer")

    assert site.send("GET", "/keys").status_code == 503


# --- last resort ------------------------------------------------------------------


@pytest.fixture
def broken(site: FakeSite, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function that gives the store a fault which nobody expects."""

    def breaks() -> None:
        def reading() -> None:
            raise RuntimeError("secret detail")

        monkeypatch.setattr(site.here.store, "reading", reading)

    return breaks


def test_an_unexpected_fault_tells_the_caller_nothing(
    site: RestSite, broken: Callable[[], None]
) -> None:
    broken()

    response = site.send("GET", "/keys")

    assert reason(response)["code"] == "INTERNAL_ERR"
    assert "secret detail" not in response.text
    assert "Traceback" not in response.text


def test_an_unexpected_fault_is_logged_with_its_trace_and_counted(
    site: RestSite, broken: Callable[[], None]
) -> None:
    broken()

    with capture_logs() as logs:
        site.send("GET", "/keys", headers={"correlation-id": "trace-1"})
        site.send("GET", "/keys")

    assert [entry["failures"] for entry in logs] == [1, 2]
    assert isinstance(logs[0]["exc_info"], RuntimeError)
    assert logs[0]["correlation_id"] == "trace-1"


@pytest.mark.parametrize("before", ["gates", "use case"])
def test_an_unexpected_fault_leaves_one_audit_line(
    site: RestSite, broken: Callable[[], None], before: str
) -> None:
    if before == "gates":
        site.callers.broken = RuntimeError("secret detail")
    else:
        site.send("GET", "/keys")
        site.audited()
        broken()

    site.send("GET", "/keys")

    event = only(site.audited())
    assert (event.operation, event.outcome) == ("key.list", "internal_error")


def test_a_caller_that_hangs_up_gets_no_answer_and_leaves_no_line(site: RestSite) -> None:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    site.runner.run(
        site.app(
            {
                "type": "http",
                "method": "POST",
                "path": "/api/v2/keys",
                "query_string": b"",
                "headers": [
                    (b"authorization", b"Bearer Administrator"),
                    (b"icp-instance", site.instance.encode()),
                ],
            },
            receive,
            send,
        )
    )

    assert sent == []
    assert site.audited() == []


def test_other_protocols_are_left_alone(site: RestSite) -> None:
    async def never(*_: Any) -> Any:
        raise AssertionError("nothing is received or sent")

    site.runner.run(site.app({"type": "lifespan"}, never, never))


# --- audit --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "operation", "outcome", "actor"),
    [
        ({"path": "/nowhere"}, "http.request", "unknown_path", "unauthenticated"),
        (
            {"path": "/keys", "method": "PUT"},
            "http.request",
            "method_not_allowed",
            "unauthenticated",
        ),
        ({"path": "/keys", "caller": None}, "key.list", "unauthenticated", "unauthenticated"),
        ({"path": "/keys", "instance": None}, "key.list", "instance_header", "idp:Administrator"),
        ({"path": "/keys", "caller": "Viewer"}, "key.list", "access_denied", "idp:Viewer"),
        ({"path": "/keys?limit=0"}, "key.list", "invalid_query", "idp:Administrator"),
        (
            {"path": f"/keys/{KEY}", "method": "POST"},
            "http.request",
            "invalid_query",
            "idp:Administrator",
        ),
        ({"path": "/keys/!"}, "key.get", "invalid_request", "idp:Administrator"),
        ({"path": "/keys/no-such-alias"}, "key.get", "key_not_found", "idp:Administrator"),
        ({"path": f"/keys/{KEY}"}, "key.get", "key_not_found", "idp:Administrator"),
        (
            {"path": "/keys", "method": "POST", "content": b"{"},
            "key.create",
            "invalid_body",
            "idp:Administrator",
        ),
        ({"path": "/keys"}, "key.list", "ok", "idp:Administrator"),
    ],
)
def test_every_request_leaves_one_line(
    site: RestSite, parts: dict[str, Any], operation: str, outcome: str, actor: str
) -> None:
    site.send(**{"method": "GET", **parts}, headers={"correlation-id": "trace-1"})

    event = only(site.audited())
    assert (event.operation, event.outcome, event.actor) == (operation, outcome, actor)
    assert (event.face, event.correlation_id) == ("rest", "trace-1")


def test_the_line_of_a_refused_credential_says_why(site: RestSite) -> None:
    site.send("GET", "/keys", caller="Mallory")

    assert only(site.audited()).details == {"reason": "signature"}


def test_the_line_of_a_refused_role_names_instance_and_key(site: RestSite) -> None:
    site.send("DELETE", f"/keys/{KEY}", caller="Viewer")

    assert only(site.audited()).details == {"instance": site.instance, "key": KEY}


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_probes_leave_no_line(site: RestSite, path: str) -> None:
    assert site.send("GET", path, caller=None, instance=None).status_code == 200
    assert site.audited() == []


# --- pages ----------------------------------------------------------------------------


def test_a_probe_answers_head_without_a_body(site: RestSite) -> None:
    response = site.send("HEAD", "/readyz", caller=None)

    assert (response.status_code, response.content) == (200, b"")
    assert response.headers.get_list("content-length") == ["0"]


def test_a_probe_takes_no_other_method(site: RestSite) -> None:
    response = site.send("POST", "/livez", caller=None)

    assert response.status_code == 405
    assert response.headers["allow"] == "GET, HEAD"


def test_a_broken_policy_file_is_shown_and_stops_nothing(site: RestSite) -> None:
    site.policy.fault = "the new file is broken"

    response = site.send("GET", "/readyz", caller=None)

    assert response.status_code == 200
    assert response.json()["checks"]["policy"] == "degraded"


def test_without_the_only_issuer_nothing_is_ready() -> None:
    with rest_site(settings=settings_of(issuers=[issuer("a")])) as site:
        site.callers.issuer_faults = {"a": "does not answer"}

        response = site.send("GET", "/readyz", caller=None)

    assert response.status_code == 503
    assert response.json()["checks"]["issuers"] == "failed"


def test_one_of_two_issuers_is_enough() -> None:
    with rest_site(settings=settings_of(issuers=[issuer("a"), issuer("b")])) as site:
        site.callers.issuer_faults = {"a": "does not answer"}

        response = site.send("GET", "/readyz", caller=None)

    assert response.status_code == 200
    assert response.json()["checks"]["issuers"] == "degraded"


def test_further_pages_need_no_credential() -> None:
    async def page() -> Answer:
        return Answer(200, b"{}", "application/json")

    with rest_site(pages={"/openapi.json": page}) as site:
        response = httpx_get(site, "/openapi.json")

    assert (response.status_code, response.content) == (200, b"{}")
    assert response.headers["content-type"] == "application/json"


# --- threads ----------------------------------------------------------------------------


def test_a_key_in_use_needs_no_store(site: FakeSite) -> None:
    key = site.root_key()
    site.wrapped(key.id)
    site.here.store.lost = True

    assert site.act("wrap", key.id).status_code == 200


def test_a_token_elsewhere_is_never_waited_for_by_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads: list[threading.Thread] = []
    settings = Settings(token=TokenSettings(module=Path("/usr/lib/hsm.so")))
    with rest_site(settings=settings) as elsewhere:
        key = elsewhere.root_key()
        elsewhere.wrapped(key.id)
        real = elsewhere.core.wrapping.wrap

        def wrap(*arguments: Any) -> Wrapped:
            threads.append(threading.current_thread())
            return real(*arguments)

        monkeypatch.setattr(elsewhere.core.wrapping, "wrap", wrap)
        response = elsewhere.act("wrap", key.id)

    assert response.status_code == 200
    assert threads[0] is not threading.main_thread()


def test_a_slow_store_stops_nobody_who_needs_it_not(
    site: RestSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = site.root_key()
    site.wrapped(key.id)
    order: list[str] = []

    async def both() -> None:
        loop = asyncio.get_running_loop()
        waiting, go_on = asyncio.Event(), asyncio.Event()

        def count(*_: Any) -> int:
            loop.call_soon_threadsafe(waiting.set)
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(30)
            raise StoreUnavailableError("it did not answer in the end")

        monkeypatch.setattr(site.core.keys, "count", count)
        slow = asyncio.create_task(site._send("HEAD", "/api/v2/keys", headers=headers(site)))
        await waiting.wait()
        quick = await site._send(
            "POST", f"/api/v2/keys/{key.id}/actions/wrap", headers=headers(site)
        )
        order.append(f"wrap {quick.status_code}")
        go_on.set()
        order.append(f"count {(await slow).status_code}")

    site.runner.run(both())

    assert order == ["wrap 200", "count 503"]


def headers(site: RestSite) -> list[tuple[str, str]]:
    return [("authorization", "Bearer Administrator"), ("icp-instance", site.instance)]


def httpx_get(site: RestSite, path: str) -> httpx.Response:
    return site.runner.run(site._send("GET", path))


def issuer(name: str) -> dict[str, str]:
    return {"name": name, "url": f"https://{name}.example", "audience": "kms"}


def settings_of(**rest: Any) -> Settings:
    return Settings(rest=RestSettings.model_validate(rest))


def limited_site(requests_per_second: float) -> Any:
    return rest_site(settings=settings_of(requests_per_second=requests_per_second))


def test_many_who_wait_for_the_stores_writer_leave_threads_for_readers(
    site: RestSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = site.root_key()
    go_on = threading.Event()
    create = site.core.keys.create

    def slow(*arguments: Any, **named: Any) -> Key:
        assert go_on.wait(10)
        return create(*arguments, **named)

    monkeypatch.setattr(site.core.keys, "create", slow)
    body = {
        "metadata": {"collectionType": KEY_TYPE, "collectionTotal": 1},
        "resources": [{"type": KEY_TYPE, "name": "many"}],
    }
    headers = [("authorization", "Bearer Administrator"), ("bluemix-instance", site.instance)]

    async def crowd() -> list[int]:
        creating = [
            asyncio.create_task(site._send("POST", "/api/v2/keys", headers=headers, json=body))
            for _ in range(60)
        ]
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(10):
                read = await site._send("GET", f"/api/v2/keys/{key.id}", headers=headers)
        finally:
            go_on.set()
        return [read.status_code, *[(await each).status_code for each in creating]]

    assert site.runner.run(crowd()) == [200, *[201] * 60]


def test_a_large_answer_is_sent_in_pieces(site: RestSite) -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    request = Request.of({"method": "GET", "path": "/", "query_string": b"", "headers": []})
    body = bytes(range(256)) * 1000
    site.runner.run(send_answer(Answer(200, body), request, send))

    pieces = [message["body"] for message in sent[1:]]
    assert b"".join(pieces) == body
    assert max(map(len, pieces)) <= 64 * 1024
    assert [message.get("more_body", False) for message in sent[1:]] == [True] * 3 + [False]


@pytest.mark.parametrize("size", [0, 1, 64 * 1024, 64 * 1024 + 1, 128 * 1024])
def test_an_answer_of_any_size_is_sent_whole(site: RestSite, size: int) -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    request = Request.of({"method": "GET", "path": "/", "query_string": b"", "headers": []})
    site.runner.run(send_answer(Answer(200, b"x" * size), request, send))

    assert sum(len(message["body"]) for message in sent[1:]) == size
    assert sent[-1].get("more_body", False) is False


@pytest.mark.parametrize("alias", ["known", "unknown"])
def test_for_a_caller_without_a_role_no_alias_is_looked_for(
    site: RestSite, monkeypatch: pytest.MonkeyPatch, alias: str
) -> None:
    """The time that it takes would tell whether there is one."""
    site.root_key(aliases=("known",))

    def looked(*_: object, **__: object) -> None:
        raise AssertionError("it was looked for")

    monkeypatch.setattr(site.core.keys, "resolve", looked)

    assert site.send("GET", f"/keys/{alias}", caller="Nobody").status_code == 403
