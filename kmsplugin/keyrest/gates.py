"""Who may come in, and in which order that is asked.

The order is fixed: path and method, credential, rate, instance, role, existence of
the instance, and only then what was sent. So nobody without a role learns anything
from his mistakes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from anyio.to_thread import run_sync
from starlette.types import Receive

from keycore.bootstrap import Core
from keycore.domain.ids import InstanceId, KeyId, is_uuid, parse_key_id
from keycore.domain.keys import is_alias
from keycore.errors import InvalidRequestError, KeyNotFoundError
from keycore.service.caller import Caller
from keyrest.handlers import Call
from keyrest.identity import Identity
from keyrest.policy import Policy
from keyrest.queries import Query, read_query
from keyrest.requests import Request
from keyrest.routes import Operation, Route
from keyrest.throttle import Throttle

FACE = "rest"
"""This face's name in audit lines and on the command line."""

NOBODY = "unauthenticated"
"""The actor of a request that is refused before its caller is known."""


class Authentication(Protocol):
    """Tells who a caller is; :class:`keyrest.credentials.Authenticator` does."""

    async def authenticate(self, authorization: str | None) -> Identity:
        """Return who sent a request with this header.

        Raises:
            UnauthenticatedError: nobody is proven.
            IssuerUnavailableError: nobody can be, at the moment.
        """

    def faults(self) -> dict[str, str]:
        """Return what is wrong, by the names of the issuers; empty when all is well."""


class PolicyInForce(Protocol):
    """Holds the policy; :class:`keyrest.policy.PolicyFile` does."""

    @property
    def current(self) -> Policy:
        """The policy."""

    @property
    def fault(self) -> str:
        """Why it is not the newest; empty when it is."""


@dataclass(slots=True)
class Trail:
    """What is known of a request while it goes through the gates, for its audit line.

    Attributes:
        failure: what the caller is told did not come about, if it is refused.
    """

    caller: Caller
    operation: str = "http.request"
    failure: str = "Request could not be processed"
    facts: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, request: Request) -> Trail:
        """Return the trail of a request that has just arrived."""
        return cls(Caller(FACE, NOBODY, request.correlation_id))

    def note(self, operation: Operation) -> None:
        """Remember what was asked for."""
        self.operation, self.failure = operation.name, operation.failure


class Gates:
    """Lets requests in. Every method may raise a ``KeyplaneError``, and has decided nothing yet."""

    def __init__(self, core: Core, authentication: Authentication, policy: PolicyInForce) -> None:
        """Let callers in that ``authentication`` knows and ``policy`` allows."""
        self._keys = core.keys
        self._instances = core.instances
        self._authentication = authentication
        self._policy = policy
        self._throttle = Throttle(core.settings.rest.requests_per_second, core.clock)

    async def admit(
        self,
        request: Request,
        route: Route,
        receive: Receive,
        *,
        action: Callable[[Query], Operation],
        trail: Trail,
    ) -> tuple[Operation, Call]:
        """Return the operation and all that it needs to know.

        Args:
            request: its head.
            route: where it goes.
            receive: gives its body, which is read last.
            action: tells the operation where only the query does.
            trail: is filled on the way.

        Raises:
            KeyplaneError: one of the gates stays closed.
            ClientDisconnect: the caller hung up.
        """
        if route.operation is not None:
            trail.note(route.operation)
        identity = await self._authentication.authenticate(request.authorization())
        trail.caller = Caller(FACE, identity.actor, request.correlation_id)
        self._throttle.admit(identity.actor)
        instance_id = request.instance_id()
        trail.facts["instance"] = instance_id
        query = read_query(request.query_string)
        operation = route.operation or action(query)
        trail.note(operation)
        key_id = await self._enter(identity, operation, instance_id, named=route.key, trail=trail)
        request.accepts()
        body = await request.body(receive)
        request.ensure_json(body)
        call = Call(request, query, body, trail.caller, instance_id, key_id, route.alias)
        return operation, call

    async def _enter(
        self,
        identity: Identity,
        operation: Operation,
        instance_id: InstanceId,
        *,
        named: str,
        trail: Trail,
    ) -> KeyId | None:
        """Check role and instance, and return the key that the path names, if it names one."""
        policy = self._policy.current
        if is_alias(named) and not policy.names_keys(identity, instance_id):
            # Looking for the alias first would take longer where there is one.
            policy.ensure(identity, operation.permission, instance_id)
        key_id = await self._key_named(named, instance_id)
        if key_id is not None:
            trail.facts["key"] = key_id
        policy.ensure(identity, operation.permission, instance_id, key_id)
        await self._ensure_instance(instance_id)
        if named and key_id is None:
            # Told to those only who may see the whole instance.
            if is_alias(named):
                raise KeyNotFoundError(named)
            raise InvalidRequestError("it is neither a UUID nor an alias", field="id")
        return key_id

    async def _key_named(self, named: str, instance_id: InstanceId) -> KeyId | None:
        if is_uuid(named):
            return parse_key_id(named)
        if is_alias(named):
            with suppress(KeyNotFoundError):
                return await run_sync(lambda: self._keys.resolve(named, within=instance_id))
        return None

    async def _ensure_instance(self, instance_id: InstanceId) -> None:
        if not self._instances.is_known(instance_id):
            await run_sync(self._instances.ensure_exists, instance_id)
