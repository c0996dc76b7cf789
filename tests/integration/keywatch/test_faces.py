"""Every face as a real process, seen through its health address as Prometheus sees it."""

from __future__ import annotations

import json
import re
import socket
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import pytest

from keywatch.families import Family
from testbed.keyplane import KeyplaneInstallation
from testbed.loopback import HOST, free_port, request
from testbed.metrics_page import FACES
from testbed.processes import ChildProcess
from testbed.rest import RestService
from testbed.waiting import wait_until
from tests.scraping import Scraped, declared

SECONDS_MAX = 30

KEY_TYPE = "application/vnd.ibm.kms.key+json"

KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{{name: here, cluster: {{server: "https://{host}:{port}"}}}}]
users: [{{name: me, user: {{token: planted-credential}}}}]
contexts: [{{name: here, context: {{cluster: here, user: me}}}}]
current-context: here
"""


def port_with_a_free_one_above() -> int:
    """Return a port for the first of two workers."""
    while True:
        port = free_port()
        with closing(socket.socket()) as second:
            try:
                second.bind((HOST, port + 1))
            except OSError:
                continue
        return port


@pytest.fixture(scope="module")
def service() -> Iterator[RestService]:
    """A REST face with two workers, and an installation for the other faces."""
    port = port_with_a_free_one_above()
    options = {"workers": 2, "health_address": f"{HOST}:{port}"}
    with tempfile.TemporaryDirectory(prefix="kp-") as directory:
        service = RestService(Path(directory), options=options)
        service.installation.rest_health = f"http://{HOST}:{port}"
        with service:
            for url in worker_urls(service.installation):
                wait_until(partial(answers, url), what="a worker", within_seconds=SECONDS_MAX)
            yield service


@pytest.fixture(scope="module")
def installation(service: RestService) -> KeyplaneInstallation:
    return service.installation


@contextmanager
def serving(process: ChildProcess, url: str) -> Iterator[ChildProcess]:
    """Run a face, from its first answer to a probe until the block ends."""
    with process:
        process.wait_until(
            lambda: answers(url), what="the health address", within_seconds=SECONDS_MAX
        )
        yield process


def answers(url: str) -> bool:
    try:
        return request(f"{url}/livez")[0] == HTTPStatus.OK
    except OSError:
        return False


@pytest.fixture(scope="module")
def provider(installation: KeyplaneInstallation) -> Iterator[ChildProcess]:
    with serving(installation.face("provider"), installation.health) as process:
        yield process


@pytest.fixture(scope="module")
def operator(installation: KeyplaneInstallation) -> Iterator[ChildProcess]:
    """An operator whose API server is away."""
    text = KUBECONFIG.format(host=HOST, port=free_port())
    (installation.directory / "kubeconfig").write_text(text, encoding="utf-8")
    with serving(installation.face("operator"), installation.operator_health) as process:
        yield process


def scrape(url: str) -> Scraped:
    status, body = request(f"{url}/metrics")
    assert status == HTTPStatus.OK
    return Scraped(body)


def probe(url: str) -> tuple[int, dict[str, Any]]:
    status, body = request(f"{url}/readyz?verbose")
    return status, json.loads(body)


def worker_urls(installation: KeyplaneInstallation) -> list[str]:
    port = int(installation.rest_health.rpartition(":")[2])
    return [f"http://{HOST}:{port + worker}" for worker in range(2)]


def ensure_declared(scraped: Scraped, families: tuple[Family, ...]) -> None:
    """Check that everything that is shown stands in the documentation, with its labels."""
    known = declared(families)
    for name, shown in scraped.described().items():
        assert known[name] == shown


def test_every_worker_of_the_rest_face_is_seen_on_a_port_of_its_own(
    installation: KeyplaneInstallation,
) -> None:
    for url in worker_urls(installation):
        scraped = scrape(url)

        assert scraped.label_values("keyplane_build_info", "face") == {"rest"}
        assert scraped.value("keyplane_store_engine_info", engine="sqlite") == 1
        assert scraped.value("keyplane_store_available") == 1
        assert scraped.value("keyplane_token_available") == 1
        assert probe(url)[0] == HTTPStatus.OK
        ensure_declared(scraped, FACES["REST face"])


def test_the_requests_of_all_workers_together_are_all_requests(service: RestService) -> None:
    urls = worker_urls(service.installation)

    def wraps() -> float:
        name = "keyplane_rest_requests_total"
        return sum(scrape(url).sum(name, operation="key.wrap", status="200") for url in urls)

    before = wraps()
    with service.client() as client:
        key_id = created_key(client)
        for _ in range(5):
            path = f"/api/v2/keys/{key_id}/actions/wrap"
            assert client.post(path, json={"plaintext": "cGxhbnRlZA=="}).status_code == 200

    wait_until(lambda: wraps() == before + 5, what="the count", within_seconds=SECONDS_MAX)
    # Reserved in the background, and told from then on.
    wait_until(
        lambda: any(scrape(url).of("keyplane_rest_uses_ratio_max") for url in urls),
        what="the share of uses",
        within_seconds=SECONDS_MAX,
    )
    text = "".join(scrape(url).text for url in urls)
    assert key_id not in text
    assert "cGxhbnRlZA" not in text
    assert service.instance_id not in text


def created_key(client: httpx.Client) -> str:
    resource = {"type": KEY_TYPE, "name": "planted name", "extractable": False}
    body = {
        "metadata": {"collectionType": KEY_TYPE, "collectionTotal": 1},
        "resources": [resource],
    }
    return str(client.post("/api/v2/keys", json=body).json()["resources"][0]["id"])


def test_a_connection_is_counted_while_it_is_open(service: RestService) -> None:
    urls = worker_urls(service.installation)

    def connections() -> float:
        return sum(scrape(url).value("keyplane_rest_connections") for url in urls)

    with service.client(None) as client:
        client.get(f"{service.root_url}/livez")
        wait_until(lambda: connections() == 1, what="it is open", within_seconds=SECONDS_MAX)
    wait_until(lambda: connections() == 0, what="it is closed", within_seconds=SECONDS_MAX)


@pytest.mark.usefixtures("provider")
def test_a_provider_without_a_key_is_alive_and_not_ready(
    installation: KeyplaneInstallation,
) -> None:
    scraped = scrape(installation.health)
    status, document = probe(installation.health)

    assert (status, document["checks"]["key"]) == (HTTPStatus.SERVICE_UNAVAILABLE, "failed")
    assert document["checks"]["audit"] == "ok"
    assert scraped.label_values("keyplane_build_info", "face") == {"provider"}
    assert scraped.of("keyplane_kms_uses_ratio") == []
    ensure_declared(scraped, FACES["provider"])


@pytest.mark.usefixtures("operator")
def test_an_operator_without_its_cluster_is_alive_and_not_ready_and_says_why(
    installation: KeyplaneInstallation,
) -> None:
    wait_until(
        lambda: "API server did not answer" in reason_of(installation, "cluster"),
        what="the reason",
        within_seconds=SECONDS_MAX,
    )
    scraped = scrape(installation.operator_health)
    status, document = probe(installation.operator_health)

    assert (status, document["status"]) == (HTTPStatus.SERVICE_UNAVAILABLE, "failed")
    assert document["checks"] == {
        "token": "ok",
        "store": "ok",
        "cluster": "failed",
        "audit": "ok",
    }
    assert "planted-credential" not in json.dumps(document) + scraped.text
    assert scraped.label_values("keyplane_build_info", "face") == {"operator"}
    assert scraped.value("keyplane_operator_keys", ready="True") == 0
    assert scraped.value("keyplane_operator_reconciles_total", outcome="ok") == 0
    ensure_declared(scraped, FACES["operator"])


def reason_of(installation: KeyplaneInstallation, check: str) -> str:
    return str(probe(installation.operator_health)[1]["reasons"].get(check, ""))


@pytest.mark.usefixtures("operator")
def test_the_store_is_looked_at_although_there_is_nothing_to_do(
    installation: KeyplaneInstallation,
) -> None:
    database = installation.state / "keyplane.db"
    away = database.with_suffix(".away")
    database.rename(away)
    try:
        wait_for_store(installation.operator_health, "failed")
        assert scrape(installation.operator_health).value("keyplane_store_available") == 0
        wait_for_store(worker_urls(installation)[0], "failed")
    finally:
        away.rename(database)
    wait_for_store(installation.operator_health, "ok")
    wait_for_store(worker_urls(installation)[0], "ok")


def wait_for_store(url: str, outcome: str) -> None:
    wait_until(
        lambda: probe(url)[1]["checks"]["store"] == outcome,
        what=f"the store is {outcome}",
        within_seconds=SECONDS_MAX,
    )


@pytest.mark.usefixtures("provider", "operator")
def test_every_name_follows_the_scheme_and_no_secret_is_shown(
    installation: KeyplaneInstallation,
) -> None:
    pins = [path.read_text().strip() for path in (installation.state / "pins").iterdir()]
    urls = [installation.health, installation.operator_health, *worker_urls(installation)]
    for url in urls:
        scraped = scrape(url)

        assert pins
        for family in scraped.families:
            assert re.match(r"(keyplane|process)_[a-z_]+$", family.name)
        assert not any(pin in scraped.text for pin in pins)
        assert str(installation.directory) not in scraped.text


def test_an_address_that_is_taken_is_told_and_the_operator_goes_on(
    installation: KeyplaneInstallation, operator: ChildProcess
) -> None:
    """Not by one of ours: those would share it."""
    with closing(socket.create_server((HOST, 0))) as other:
        address = "{}:{}".format(*other.getsockname())
        command = ("env", f"KEYPLANE_OPERATOR__HEALTH_ADDRESS={address}", *operator.command)
        second = ChildProcess("second", command, directory=installation.directory / "logs")
        with second:
            second.wait_until(
                lambda: "operator: waiting" in second.log.read_text(),
                what="it goes on",
                within_seconds=SECONDS_MAX,
            )
            assert "metrics and health are not served" in second.log.read_text()
