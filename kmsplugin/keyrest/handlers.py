"""One function for each operation: read what was sent, and say what to do with it.

A handler only reads; what it returns is the use case, ready to be called and
translated back. So everything before that call is a refusal that the face itself
must record, and everything in it records itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from keycore.bootstrap import Core
from keycore.domain.ids import InstanceId, KeyId
from keycore.domain.keys import is_alias
from keycore.errors import InvalidRequestError
from keycore.ports import KeyFilter
from keycore.service.caller import Caller
from keyrest import schemas, views
from keyrest.answers import ALIAS_TYPE, KEY_TYPE, VERSION_TYPE, Answer
from keyrest.queries import Query
from keyrest.requests import Request
from keyrest.views import KeyViews

UseCase = Callable[[], Answer]
"""Does what was asked for and returns the answer; it may wait for token and store."""


@dataclass(slots=True)
class Call:
    """A request whose caller was let in.

    Attributes:
        key: the key that the path names; ``None`` where it names none.
        alias: the alias at the end of the path; empty where there is none.
    """

    request: Request
    query: Query
    body: bytes
    caller: Caller
    instance_id: InstanceId
    key: KeyId | None = None
    alias: str = ""

    @property
    def key_id(self) -> KeyId:
        """The key, for operations whose paths always name one."""
        if self.key is None:
            raise AssertionError("the path of this operation names no key")
        return self.key


class Handlers:
    """The operations on one core. Each may raise ``InvalidRequestError`` for what was sent."""

    def __init__(self, core: Core) -> None:
        """Call ``core``."""
        self._keys = core.keys
        self._wrapping = core.wrapping
        self._views = KeyViews(core.clock, core.settings.rest.cluster, mode=core.token.suite.mode)

    def create(self, call: Call) -> UseCase:
        """Make or import a key."""
        wanted = schemas.read_new_key(call.body)
        idempotency_key = call.request.idempotency_key()
        whole = call.request.prefers_representation()

        def answer() -> Answer:
            if whole:
                opened = self._keys.create_opened(
                    call.caller, call.instance_id, wanted, idempotency_key=idempotency_key
                )
                return _preferred(_one_key(201, self._views.opened(opened)))
            key = self._keys.create(
                call.caller, call.instance_id, wanted, idempotency_key=idempotency_key
            )
            return _one_key(201, self._views.minimal(key))

        return answer

    def list(self, call: Call) -> UseCase:
        """Show one page of keys, without any material."""
        wanted = _filter(call)
        offset, limit = call.query.offset(), call.query.limit()

        def answer() -> Answer:
            page = self._keys.page(call.caller, wanted, offset=offset, limit=limit)
            resources = [self._views.whole(key) for key in page.keys]
            return Answer(
                200,
                views.collection(KEY_TYPE, resources),
                headers=(_key_total(page.total),),
            )

        return answer

    def count(self, call: Call) -> UseCase:
        """Tell how many keys a list would have."""
        wanted = _filter(call)

        def answer() -> Answer:
            total = self._keys.count(call.caller, wanted)
            return Answer(200, headers=(_key_total(total),))

        return answer

    def get(self, call: Call) -> UseCase:
        """Show a key, a standard one with its payload."""

        def answer() -> Answer:
            opened = self._keys.open(call.caller, call.key_id, within=call.instance_id)
            return _one_key(200, self._views.opened(opened))

        return answer

    def metadata(self, call: Call) -> UseCase:
        """Show a key, never with a payload."""

        def answer() -> Answer:
            key = self._keys.get(call.caller, call.key_id, within=call.instance_id)
            return _one_key(200, self._views.whole(key))

        return answer

    def versions(self, call: Call) -> UseCase:
        """List the versions of a key, the newest first."""
        offset, limit = call.query.offset(), call.query.limit()
        counted = call.query.flag("totalCount")
        call.query.flag("allKeyStates")

        def answer() -> Answer:
            key = self._keys.get(call.caller, call.key_id, within=call.instance_id)
            newest_first = key.versions[::-1]
            resources = [views.version(v) for v in newest_first[offset : offset + limit]]
            total = {"totalCount": len(newest_first)} if counted else {}
            return Answer(
                200,
                views.collection(VERSION_TYPE, resources, **total),
                VERSION_TYPE,
            )

        return answer

    def wrap(self, call: Call) -> UseCase:
        """Encrypt a data key."""
        given = schemas.read_wrap(call.body)
        return lambda: views.wrapped(
            self._wrapping.wrap(
                call.caller, call.instance_id, call.key_id, given.plaintext, given.aad
            )
        )

    def unwrap(self, call: Call) -> UseCase:
        """Decrypt a data key."""
        given = schemas.read_unwrap(call.body, "unwrap")
        return lambda: views.unwrapped(
            self._wrapping.unwrap(
                call.caller, call.instance_id, call.key_id, given.ciphertext, given.aad
            )
        )

    def rewrap(self, call: Call) -> UseCase:
        """Carry a wrapped data key over to the newest version."""
        given = schemas.read_unwrap(call.body, "rewrap")
        return lambda: views.rewrapped(
            self._wrapping.rewrap(
                call.caller, call.instance_id, call.key_id, given.ciphertext, given.aad
            )
        )

    def rotate(self, call: Call) -> UseCase:
        """Give a key a new version."""
        material = schemas.read_rotate(call.body)

        def answer() -> Answer:
            self._keys.rotate(call.caller, call.key_id, within=call.instance_id, material=material)
            # Without a body, whatever is preferred: clients take nothing else.
            return Answer(204)

        return answer

    def enable(self, call: Call) -> UseCase:
        """End the suspension of a key."""
        schemas.read_nothing(call.body, "enable")

        def answer() -> Answer:
            self._keys.resume(call.caller, call.key_id, within=call.instance_id)
            return Answer(204)

        return answer

    def disable(self, call: Call) -> UseCase:
        """Suspend a key."""
        schemas.read_nothing(call.body, "disable")

        def answer() -> Answer:
            self._keys.suspend(call.caller, call.key_id, within=call.instance_id)
            return Answer(204)

        return answer

    def delete(self, call: Call) -> UseCase:
        """Destroy a key for ever, or tell what that would destroy."""
        # Key Protect deletes protected keys by force; here nothing does.
        call.query.flag("force")
        whole = call.request.prefers_representation()

        def preview() -> Answer:
            found = self._keys.deletion_preview(call.caller, call.key_id, within=call.instance_id)
            return _one_key(200, self._views.previewed(found))

        def answer() -> Answer:
            key = self._keys.delete(call.caller, call.key_id, within=call.instance_id)
            if whole:
                return _preferred(_one_key(200, self._views.whole(key)))
            return Answer(204)

        return preview if call.query.flag("dryRun") else answer

    def add_alias(self, call: Call) -> UseCase:
        """Give a key one more name."""
        _check_alias(call.alias)

        def answer() -> Answer:
            key = self._keys.add_alias(
                call.caller, call.key_id, call.alias, within=call.instance_id
            )
            resource = views.alias(key, call.alias, by=call.caller.actor)
            return Answer(201, views.collection(ALIAS_TYPE, [resource]), ALIAS_TYPE)

        return answer

    def remove_alias(self, call: Call) -> UseCase:
        """Take a name from a key."""
        _check_alias(call.alias)

        def answer() -> Answer:
            self._keys.remove_alias(call.caller, call.key_id, call.alias, within=call.instance_id)
            return Answer(204)

        return answer


def _filter(call: Call) -> KeyFilter:
    return KeyFilter(call.instance_id, states=call.query.states(), kind=call.query.kind())


def _check_alias(alias: str) -> None:
    if not is_alias(alias):
        raise InvalidRequestError("the alias in the path has another form", field="alias")


def _one_key(status: int, resource: views.Resource) -> Answer:
    return Answer(status, views.collection(KEY_TYPE, [resource]))


def _key_total(total: int) -> tuple[bytes, bytes]:
    return (b"key-total", b"%d" % total)


def _preferred(answer: Answer) -> Answer:
    """Say that the preference was followed (RFC 7240, 3)."""
    answer.headers += ((b"preference-applied", b"return=representation"),)
    return answer
