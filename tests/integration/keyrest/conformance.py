"""Schemathesis against the application: its requests are aimed, its findings collected.

Generated data fit the document and still miss the application: ids of no key,
ciphertexts that nobody made, an instance that does not exist. :class:`Aim` puts the
things that exist in their place, and touches nothing that is wrong on purpose.
"""

from __future__ import annotations

import base64
import copy
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import schemathesis
from hypothesis import strategies
from schemathesis.core.failures import AcceptedNegativeData
from schemathesis.engine import events, from_schema
from schemathesis.hooks import GLOBAL_HOOK_DISPATCHER
from schemathesis.openapi.checks import RejectedPositiveData

from keycore.domain.ids import KeyId, is_uuid
from keycore.domain.keys import ALIASES_MAX, Key, KeyState
from keycore.errors import KeyplaneError
from keyrest.openapi.bodies import ACTIONS, ALIAS_PATTERN
from tests.fakes.installation import CALLER
from tests.fakes.rest_site import RestSite

# No schema can say that a time lies in the future; the clock of the site is in 2030.
FUTURE = strategies.datetimes(datetime(2031, 1, 1), datetime(9000, 1, 1))  # noqa: DTZ001

CHECKS: Mapping[str, Mapping[str, Any]] = {
    # It expects 404 for a deleted key, which the contract wants shown; the ledger looks
    # whether such a key is still good for anything.
    "use_after_free": {"enabled": False},
    # It compares two users that it reads from a file; tests of isolation do that here.
    "object_level_authorization": {"enabled": False},
}
"""What is changed of schemathesis' checks. All others are on as they are."""

EXCUSED = {
    ("KEY_ROOT_REQ_ERR", ""): "the key is a standard key, which the request cannot show",
    ("KEY_PAYLOAD_REQ_ERR", ""): "the key was imported, which the request cannot show",
    ("INVALID_QUERY_PARAM_ERR", "payload"): "the key was generated, and takes no payload",
    ("INVALID_FIELD_ERR", "aliases of the key"): "the key has its five aliases already",
    ("KEY_DELETED_ERR", ""): "an earlier step of the same scenario deleted the key",
}
"""Refusals of well-formed requests, by code and field, that the state of the key explains."""


@dataclass
class Ledger:
    """Remembers what was answered, and finds what cannot be true together.

    Attributes:
        statuses: what was answered, by method and path.
        wrapped: the AAD that each answered ciphertext was made with, and its data key.
        latest: the last ciphertext of each key.
        unwrapped: how many ciphertexts were unwrapped.
        deleted: keys that were answered to be deleted.
        faults: what is not as an earlier answer promised.
    """

    site: RestSite
    statuses: dict[str, set[int]] = field(default_factory=dict)
    wrapped: dict[str, tuple[Any, str]] = field(default_factory=dict)
    latest: dict[str, str] = field(default_factory=dict)
    unwrapped: int = 0
    deleted: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)

    def note(self, case: schemathesis.Case, response: schemathesis.Response) -> None:
        """Take down one answer."""
        label, key_id = case.operation.label, str(case.path_parameters.get("id"))
        self.statuses.setdefault(label, set()).add(response.status_code)
        if not 200 <= response.status_code < 300:
            self._note_refusal(label, response.status_code, self.find(key_id))
            return
        answer = response.json() if response.content else {}
        if key_id in self.deleted:
            self._note_after_deletion(label, answer)
        elif label == "DELETE /keys/{id}" and not _is_preview(answer):
            self.deleted.add(key_id)
        self._note_data_key(case, answer)

    def find(self, named: str) -> Key | None:
        """Return the key of an id or alias, if the site has it."""
        keys, instance = self.site.core.keys, self.site.instance
        with suppress(KeyplaneError):
            found = KeyId(named) if is_uuid(named) else keys.resolve(named, within=instance)
            return keys.get(CALLER, found, within=instance)
        return None

    def _note_refusal(self, label: str, status: int, key: Key | None) -> None:
        if key is not None and status == 404:
            self.faults.append(f"{label}: a key that exists is not found")
        if key is not None and status == 410 and key.state is not KeyState.DESTROYED:
            self.faults.append(f"{label}: a key that lives is taken for a deleted one")

    def _note_after_deletion(self, label: str, answer: Mapping[str, Any]) -> None:
        # A deleted key is still shown, by contract; schemathesis expects a 404.
        if not label.startswith("GET "):
            self.faults.append(f"{label}: succeeded with a deleted key")
        elif not label.endswith("/versions"):
            [key] = answer["resources"]
            if "payload" in key or (key["state"], key["deleted"]) != (5, True):
                self.faults.append(f"{label}: does not show that the key is deleted")

    def _note_data_key(self, case: schemathesis.Case, answer: Mapping[str, Any]) -> None:
        label, key_id = case.operation.label, case.path_parameters.get("id", "")
        sent = case.body if isinstance(case.body, dict) else {}
        if label.endswith("/actions/wrap"):
            plaintext = sent.get("plaintext") or answer["plaintext"]
            self.wrapped[answer["ciphertext"]] = (sent.get("aad"), plaintext)
            self.latest[key_id] = answer["ciphertext"]
        elif label.endswith("/actions/unwrap") and sent["ciphertext"] in self.wrapped:
            self.unwrapped += 1
            if answer["plaintext"] != self.wrapped[sent["ciphertext"]][1]:
                self.faults.append(f"{label}: gives another data key than was wrapped")


@dataclass
class Aim:
    """Makes generated requests hit what exists at a site."""

    site: RestSite
    ledger: Ledger
    _fresh: dict[bool, KeyId] = field(default_factory=dict)

    def take(self, case: schemathesis.Case) -> None:
        """Change a request before it is sent."""
        self._name_the_instance(case)
        self._send_whole_numbers(case)
        if case.operation.label == "POST /keys":
            self._ask_for_a_key(case)
        body = case.body if isinstance(case.body, dict) else {}
        if case.query.get("action") in ACTIONS:
            case.query["action"] = _fitting(case.query["action"], body)
        if _may_name_a_key(case.path_parameters.get("id")):
            self._name_a_key(case, body)
            self._send_a_ciphertext(case, body)

    def _name_the_instance(self, case: schemathesis.Case) -> None:
        names = [name for name in ("icp-instance", "Bluemix-Instance") if name in case.headers]
        if case.path.startswith("/keys") and all(is_uuid(case.headers[name]) for name in names):
            # Two good ones must be equal, and a client may send either.
            for name in names or ["Bluemix-Instance"]:
                case.headers[name] = self.site.instance

    def _send_whole_numbers(self, case: schemathesis.Case) -> None:
        # 2.0 is an integer to JSON Schema, but no client writes a query like that.
        for name, value in case.query.items():
            if isinstance(value, float) and value.is_integer():
                case.query[name] = int(value)

    def _ask_for_a_key(self, case: schemathesis.Case) -> None:
        case.body = _printable(case.body)
        resources = case.body.get("resources") if isinstance(case.body, dict) else ()
        for resource in resources if _is_step(case) and _is_good(case) else ():
            # Scenarios begin with the kind of key that they can go on with.
            resource["extractable"] = False

    def _name_a_key(self, case: schemathesis.Case, body: Mapping[str, Any]) -> None:
        """Put a key in the path, unless a scenario goes on with its own."""
        named = case.path_parameters["id"]
        if not (_is_step(case) and self.ledger.find(named)):
            case.path_parameters["id"] = self._fresh_key(imported="payload" in body)

    def _fresh_key(self, *, imported: bool) -> KeyId:
        """Return a key that will do whatever a well-formed request asks of it."""
        key = self.ledger.find(self._fresh.get(imported, ""))
        if key is None or key.state is not KeyState.ACTIVE or len(key.aliases) == ALIASES_MAX:
            key = self.site.root_key(material=bytes(32) if imported else None)
            self._fresh[imported] = key.id
        return key.id

    def _send_a_ciphertext(self, case: schemathesis.Case, body: dict[str, Any]) -> None:
        given, named = body.get("ciphertext"), case.path_parameters["id"]
        if not isinstance(given, str) or not 64 <= len(given) <= 5572:
            return
        if _is_step(case) and _is_good(case):
            given = self.ledger.latest.get(named, given)
        if given in self.ledger.wrapped:
            body["ciphertext"] = given
            body["aad"], _ = self.ledger.wrapped[given]
            return
        key = self.ledger.find(named)
        # A key that cannot wrap must at least be asked to open something well-formed.
        for key_id in (key.id if key else "", self._fresh_key(imported=False)):
            with suppress(KeyplaneError, TypeError, AttributeError):
                body["ciphertext"] = self._wrapped(KeyId(key_id), body.get("aad"))
                return

    def _wrapped(self, key_id: KeyId, aad: Any) -> str:
        wrapping, instance = self.site.core.wrapping, self.site.instance
        wrapped = wrapping.wrap(CALLER, instance, key_id, b"data key", aad or ())
        return base64.b64encode(wrapped.ciphertext).decode()


@dataclass
class Findings:
    """What a run brought to light.

    Attributes:
        faults: each with what to send to see it again.
        ledger: what was answered.
    """

    faults: list[str]
    ledger: Ledger


def run(
    site: RestSite,
    document: Mapping[str, Any],
    *,
    role: str,
    only: Sequence[str] = (),
    **config: Any,
) -> Findings:
    """Let schemathesis try everything that it knows, and return what it found.

    Args:
        site: whose application is tried.
        document: what it must keep to.
        role: whose credential is sent.
        only: ids of operations; by default all of them.
        config: schemathesis' own configuration.
    """
    schemathesis.openapi.format("date-time", FUTURE.map(lambda time: f"{time.isoformat()}Z"))
    auth = {"openapi": {"bearer": {"bearer": role}}}
    settings = schemathesis.Config.from_dict({"checks": CHECKS, "auth": auth, **config})
    schema = schemathesis.openapi.from_dict(copy.deepcopy(dict(document)), config=settings)
    schema.app = site.app
    selected = schema.include(operation_id=list(only)) if only else schema
    ledger = Ledger(site)
    with _hooked(selected, Aim(site, ledger), ledger):
        faults = [fault for event in from_schema(selected).execute() for fault in _faults(event)]
    return Findings([*faults, *ledger.faults], ledger)


@contextmanager
def _hooked(schema: Any, aim: Aim, ledger: Ledger) -> Iterator[None]:
    def before_call(context: Any, case: schemathesis.Case, kwargs: Any) -> None:
        aim.take(case)

    @schema.hook
    def after_call(context: Any, case: schemathesis.Case, response: schemathesis.Response) -> None:
        ledger.note(case, response)

    @schema.hook
    def filter_failure(
        context: Any, failure: Any, case: schemathesis.Case, response: schemathesis.Response
    ) -> bool:
        if isinstance(failure, RejectedPositiveData):
            return _reason_of(case, response) not in EXCUSED
        # Nothing but white space is no JSON, and the face takes it for no body at all.
        sent = response.request.body
        is_blank = isinstance(sent, bytes | str) and sent.isspace()
        return not (isinstance(failure, AcceptedNegativeData) and is_blank)

    schemathesis.hook(before_call)
    try:
        yield
    finally:
        GLOBAL_HOOK_DISPATCHER.unregister(before_call)


def _faults(event: Any) -> Iterator[str]:
    if isinstance(event, events.NonFatalError):
        yield f"{event.label}: {event.value!r}"
    elif isinstance(event, events.FatalError):
        yield repr(event.exception)
    elif isinstance(event, events.ScenarioFinished):
        for check in itertools.chain.from_iterable(event.recorder.checks.values()):
            if check.failure_info is not None:
                failure, sample = check.failure_info.failure, check.failure_info.code_sample
                yield f"{failure.operation}: {check.name}: {failure.message}\n{sample}"


def _reason_of(case: schemathesis.Case, response: schemathesis.Response) -> tuple[str, str]:
    """Return the code of a refusal, and the field it is about where that matters."""
    [reason] = response.json()["resources"][0]["reasons"]
    name = reason.get("target", {}).get("name", "")
    if name == "aliases" and case.operation.label != "POST /keys":
        name += " of the key"
    return reason["code"], name


def _fitting(action: str, body: Mapping[str, Any]) -> str:
    """Return an action that takes the body: no schema can tie a body to a query."""
    fitting: Sequence[str] = ("wrap", "rotate", "enable", "disable")
    if "ciphertext" in body:
        fitting = ("unwrap", "rewrap")
    elif "payload" in body:
        fitting = ("rotate",)
    elif body:
        fitting = ("wrap",)
    return fitting[ACTIONS.index(action) % len(fitting)]


def _is_preview(answer: Mapping[str, Any]) -> bool:
    return any("deletion" in key for key in answer.get("resources", ()))


def _printable(value: Any) -> Any:
    """Return a body whose texts lack what names, descriptions and tags may not have.

    A schema that said so would be one that many tools cannot read.
    """
    match value:
        case str():
            return "".join(c if c.isprintable() else "?" for c in value)
        case list():
            return [_printable(item) for item in value]
        case dict():
            return {name: _printable(item) for name, item in value.items()}
        case _:
            return value


def _may_name_a_key(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(ALIAS_PATTERN, value) is not None


def _is_good(case: schemathesis.Case) -> bool:
    return case.meta is not None and case.meta.generation.mode.is_positive


def _is_step(case: schemathesis.Case) -> bool:
    return case.meta is not None and case.meta.phase.name.value == "stateful"
