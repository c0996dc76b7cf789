"""The token port on PKCS#11: a few token objects, and root keys as short-lived session objects.

Key objects never leave the adapter. A root key version is unwrapped into a session
object once, used many times through its handle, and destroyed when it is evicted;
python-pkcs11's garbage collection destroys nothing in the token.

Faults are healed where they are met. A call that fails gets a new session, a new login
if that was lost, and one more try. When that fails too the token counts as lost:
working copies go on serving, because many modules keep session objects when the token is
pulled out, and a thread waits until *another process* has proved that the token is back.
Only then is the module initialised again, which ends everything there was before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

import pkcs11

from keycore.adapters.pkcs11_connection import Connection
from keycore.adapters.pkcs11_errors import domain_error, pkcs11_errors
from keycore.adapters.pkcs11_lanes import Lane, Lanes
from keycore.adapters.pkcs11_presence import NOT_BACK
from keycore.adapters.pkcs11_profile import Login, is_signed, sign
from keycore.adapters.pkcs11_recovery import Recovery
from keycore.domain.envelope import Suite
from keycore.domain.ids import VersionId
from keycore.errors import KeyplaneError, TokenSetupError, TokenUnavailableError
from keycore.ports import TokenCondition, TokenDescription, TokenObserver, WrappedKey

HANDLES_MAX: Final = 1000
"""Root keys held in the token at once, 11 kB each in SoftHSM. Beyond a few thousand
session objects SoftHSM gets slower."""

_HANDLES_MIN: Final = 50

DEADLINE_SECONDS: Final = 2.0

_T = TypeVar("_T")


class Pkcs11Token:
    """One logged-in token. Every method takes a lane and holds the module's guard."""

    def __init__(
        self,
        connection: Connection,
        *,
        parallelism: int = 1,
        deadline_seconds: float = DEADLINE_SECONDS,
        handles_max: int = HANDLES_MAX,
        observe: TokenObserver | None = None,
    ) -> None:
        """Open a first session and prove what the token promises.

        Args:
            connection: the login, identified.
            parallelism: calls of the module at once.
            deadline_seconds: how long a call waits for its turn.
            handles_max: root keys held in the token at once, by all sessions together.
            observe: told of every use.

        Raises:
            TokenSetupError: an object is missing, doubled, or weaker than it must be.
            TokenUnavailableError: the token did not answer.
        """
        self._connection = connection
        self._guard = connection.guard
        self._profile = connection.profile
        self._observe = observe
        self._deadline_seconds = deadline_seconds
        copies_max = max(handles_max // parallelism, min(handles_max, _HANDLES_MIN))
        lanes = [Lane(self._profile, copies_max) for _ in range(parallelism)]
        self._lanes = Lanes(lanes, self._guard, deadline_seconds)
        self._recovery = Recovery(connection, self._lanes)
        guards_unwrapping = self._use(
            "sign", "be tried out", lambda _, login: self._profile.refuses_readable_unwrap(login)
        )
        token = connection.token
        self._description = TokenDescription(
            label=token.label,
            serial=connection.place.serial or "",
            manufacturer=token.manufacturer_id,
            model=token.model,
            guards_unwrapping=guards_unwrapping,
        )

    # --- root keys -----------------------------------------------------------

    @property
    def suite(self) -> Suite:
        """What ciphertexts of this token are made of; its profile's."""
        return self._profile.suite

    def generate_key(self) -> bytes:
        """Make a root key inside the token and return it wrapped.

        Raises:
            TokenUnavailableError: the token did not answer.
        """
        return self._use(
            "generate", "generate a key", lambda _, login: self._profile.generate(login)
        )

    def import_key(self, material: bytes) -> bytes:
        """Return 32 bytes of given key material wrapped.

        Raises:
            TokenUnavailableError: the token did not answer.
        """
        return self._use(
            "import",
            "import a key",
            lambda _, login: self._profile.wrap_material(login, material),
        )

    def encrypt(self, key: WrappedKey, plaintext: bytes, aad: bytes) -> bytes:
        """Return the body of a ciphertext, as the profile's suite has it.

        Raises:
            TokenUnavailableError: the token did not answer.
        """

        def work(lane: Lane, login: Login) -> bytes:
            copy = lane.working_copy(login, key)
            return self._profile.encrypt(login, copy, plaintext, aad)

        return self._use("encrypt", "encrypt", work, key)

    def decrypt(self, key: WrappedKey, body: bytes, aad: bytes) -> bytes:
        """Return the plaintext of what :meth:`encrypt` returned.

        Raises:
            CiphertextRejectedError: it does not open under this key and AAD.
            TokenUnavailableError: the token did not answer.
        """

        def work(lane: Lane, login: Login) -> bytes:
            copy = lane.working_copy(login, key)
            return self._profile.decrypt(login, copy, body, aad)

        return self._use("decrypt", "decrypt", work, key)

    def forget(self, version_ids: Iterable[VersionId]) -> None:
        """Destroy the working copies of these versions, at the latest when a running call ends.

        A copy that the token has lost already is forgotten all the same.
        """
        self._lanes.forget(version_ids)

    # --- sealing -------------------------------------------------------------

    def random_bytes(self, count: int) -> bytes:
        """Return ``count`` bytes from ``C_GenerateRandom``.

        Raises:
            TokenUnavailableError: the token did not answer.
        """
        return self._use(
            "random",
            "generate random bytes",
            lambda _, login: login.session.generate_random(8 * count),
        )

    def seal(self, payload: bytes, aad: bytes) -> bytes:
        """Return ``payload`` encrypted by the sealing key.

        Raises:
            TokenUnavailableError: the token did not answer.
        """
        return self._use(
            "seal", "seal a payload", lambda _, login: self._profile.seal(login, payload, aad)
        )

    def unseal(self, sealed: bytes, aad: bytes) -> bytes:
        """Return the payload that :meth:`seal` encrypted under the same ``aad``.

        Raises:
            CiphertextRejectedError: it does not open.
            TokenUnavailableError: the token did not answer.
        """
        return self._use(
            "unseal", "unseal a payload", lambda _, login: self._profile.unseal(login, sealed, aad)
        )

    # --- record MACs ---------------------------------------------------------

    def sign(self, data: bytes) -> bytes:
        """Return the 32-byte HMAC-SHA-256 of ``data``.

        Raises:
            TokenUnavailableError: the token did not answer.
        """
        return self._use("sign", "sign a record", lambda _, login: sign(login, data))

    def is_signed(self, data: bytes, mac: bytes) -> bool:
        """Tell whether ``mac`` is the HMAC of ``data``.

        Raises:
            TokenUnavailableError: the token did not answer.
        """
        return self._use("verify", "verify a record", lambda _, login: is_signed(login, data, mac))

    # --- the token itself ----------------------------------------------------

    def check(self) -> None:
        """Prove that the token is there, by a call on a token object.

        Session keys go on working after a token was removed, so they prove nothing.

        Raises:
            TokenUnavailableError: it is not.
        """
        self.sign(b"keyplane/check/1")

    def condition(self) -> TokenCondition:
        """Return how the token is, from memory: no call to it, and no waiting."""
        stalled = self._lanes.stalled_seconds()
        lost = self._recovery.fault
        if stalled > self._deadline_seconds:
            fault = (
                f"a call of the token has not returned within {self._deadline_seconds:.1f} "
                "seconds; check the HSM, then restart this process"
            )
        else:
            fault = lost
        return TokenCondition(fault, stalled, lost=bool(lost))

    def describe(self) -> TokenDescription:
        """Return what the token is; no call to the module."""
        return self._description

    def close(self) -> None:
        """Destroy all working copies and log out; the object is not used afterwards.

        A call that hangs in the module is left alone, and so is the module then.
        """
        self._recovery.close()
        try:
            with self._lanes.all() as lanes, self._guard:
                for lane in lanes:
                    lane.renew(None)
                self._connection.close()
        except TokenUnavailableError:
            return

    # --- one use -------------------------------------------------------------

    def _use(
        self,
        operation: str,
        action: str,
        work: Callable[[Lane, Login], _T],
        key: WrappedKey | None = None,
    ) -> _T:
        if self._observe is None:
            return self._in_a_lane(action, work, key)
        started, outcome = time.monotonic(), "ok"
        try:
            return self._in_a_lane(action, work, key)
        except KeyplaneError as error:
            outcome = error.code
            raise
        finally:
            self._observe(operation, outcome, time.monotonic() - started)

    def _in_a_lane(
        self, action: str, work: Callable[[Lane, Login], _T], key: WrappedKey | None
    ) -> _T:
        try:
            return self._done_in(self._lanes.take(), action, work)
        except TokenUnavailableError:
            if key is None or not self._recovery.fault:
                raise
            # While the token is lost, a lane that has a working copy can still serve.
            lane = self._lanes.take_holding(key.version_id)
            if lane is None:
                raise
        return self._done_in(lane, action, work)

    def _done_in(self, lane: Lane, action: str, work: Callable[[Lane, Login], _T]) -> _T:
        try:
            with self._guard:
                if lane.login and lane.login.number != self._connection.logins:
                    # Nobody is logged in since then, or again: what the lane has is gone,
                    # and its handles may mean something else by now.
                    lane.abandon()
                login = lane.login or self._opened(lane)
                try:
                    return work(lane, login)
                except pkcs11.PKCS11Error as error:
                    fault = domain_error(error, action)
                    login = self._new_login(fault)
                    lane.renew(login)
                # Everything that a lane does can be done twice.
                try:
                    with pkcs11_errors(action):
                        return work(lane, login)
                except TokenUnavailableError:
                    # Whatever this try has left in the session is not the next one's.
                    lane.renew(None)
                    raise
        finally:
            self._lanes.give_back(lane)

    def _opened(self, lane: Lane) -> Login:
        lane.login = login = self._new_login(None)
        return login

    def _new_login(self, fault: KeyplaneError | None) -> Login:
        """Open a session, or find out that the token is lost.

        Args:
            fault: what has happened in the session before; ``None`` for a first one.

        Raises:
            TokenUnavailableError: it is lost. The session before is still there, and its
                working copies may serve on.
        """
        self._recovery.refuse_if_lost()
        try:
            return self._connection.new_login()
        except KeyplaneError as error:
            self._recovery.begin(error)
            if isinstance(fault, TokenSetupError):
                fault = None
            raise fault or TokenUnavailableError(self._recovery.fault or NOT_BACK) from error
