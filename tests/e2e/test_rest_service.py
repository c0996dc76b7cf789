"""The test bed's own REST service: what other tests take for granted about it."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import timedelta

import httpx
import pytest

from testbed.authority import Authority
from testbed.loopback import request
from testbed.rest import ROLES, RestService
from testbed.waiting import wait_until

pytestmark = pytest.mark.e2e

KEYS = "/api/v2/keys"

KEY = {
    "metadata": {"collectionType": "application/vnd.ibm.kms.key+json", "collectionTotal": 1},
    "resources": [{"name": "root key", "extractable": False}],
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestService]:
    with RestService(tmp_path_factory.mktemp("rest"), instances=("other",)) as running:
        yield running


def test_every_role_may_do_in_every_instance_what_the_role_says(service: RestService) -> None:
    for instance in ("default", "other"):
        for role in ROLES:
            with service.client(role, instance=instance) as client:
                listed = client.get(KEYS)

            assert listed.status_code == (403 if role == "Viewer" else 200)

    with service.client(None) as nobody:
        assert nobody.get(KEYS).status_code == 401


def test_credentials_say_what_a_test_wants(service: RestService) -> None:
    cases = (
        (service.credential(ttl=timedelta(minutes=-5)), 401),
        (service.credential(claims={"aud": "somebody"}), 401),
        (service.credential(claims={"sub": None}), 401),
        (service.credential(groups=()), 403),
        (service.credential(), 200),
    )
    with service.client(None) as client:
        for credential, status in cases:
            answer = client.get(KEYS, headers={"Authorization": f"Bearer {credential}"})

            assert answer.status_code == status


def test_requests_are_found_in_the_audit(service: RestService) -> None:
    with service.client("Editor") as client:
        answer = client.get(KEYS, headers={"Correlation-Id": "find-me"})

    assert answer.headers["Correlation-Id"] == "find-me"
    [line] = [each for each in service.audit_lines() if each.get("correlation_id") == "find-me"]
    assert (line["operation"], line["actor"]) == ("key.list", "testbed:editor")


def test_a_service_that_is_started_again_has_its_keys_and_callers(service: RestService) -> None:
    with service.client() as client:
        made = client.post(KEYS, json=KEY).json()["resources"][0]["id"]

        assert service.process.stop() == 0
        service.issuer.stop()
        assert not service.is_ready()
        service.start()

        assert client.get(f"{KEYS}/{made}").status_code == 200


def test_an_instance_that_is_made_while_it_runs_can_be_used(service: RestService) -> None:
    service.create_instance("late")

    with service.client(instance="late") as client:
        wait_until(
            lambda: client.get(KEYS).status_code == 200,
            what="the new instance can be used",
            within_seconds=10,
        )


def test_settings_are_taken_over(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("options")
    authority = Authority(directory / "tls")
    server, caller = authority.server("server"), authority.client("caller")
    options = {
        "tls.certificate": str(server.certificate),
        "tls.key": str(server.key),
        "cluster": "blue",
        "requests_per_second": 1,
    }
    service = RestService(directory, options=options)
    service.ca_file = authority.certificate_file

    with service, service.client() as client:
        [key] = client.post(KEYS, json=KEY).json()["resources"]
        assert ":blue:" in key["crn"]
        assert 429 in {client.get(KEYS).status_code for _ in range(5)}

    # A certificate for clients is one, and it is not one for servers.
    context = ssl.create_default_context(cafile=authority.certificate_file)
    context.load_cert_chain(caller.certificate, caller.key)


def test_the_issuer_serves_what_a_relying_party_reads(service: RestService) -> None:
    issuer = service.issuer
    status, metadata = request(f"{issuer.url}/.well-known/openid-configuration", ca=issuer.ca_file)
    assert status == 200
    keys_url = httpx.Response(200, content=metadata).json()["jwks_uri"]

    assert b'"ES256"' in request(keys_url, ca=issuer.ca_file)[1]
    assert request(f"{issuer.url}/elsewhere", ca=issuer.ca_file)[0] == 404
