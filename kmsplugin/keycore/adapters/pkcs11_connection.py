"""This process's login to one token, and sessions that share it."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass, replace

import pkcs11

from keycore.adapters.pin_file import PinFile
from keycore.adapters.pkcs11_attributes import UnwrapTemplateMapper
from keycore.adapters.pkcs11_errors import pkcs11_errors
from keycore.adapters.pkcs11_module import Guard, Pkcs11Module, serial_of
from keycore.adapters.pkcs11_profile import (
    Login,
    Profile,
    find_objects,
    is_signed,
    labelled,
    make_object,
    sign,
)
from keycore.adapters.pkcs11_profiles import profile_for, profile_in, profile_of
from keycore.errors import TokenSetupError, TokenUnavailableError

_CANARY_TEXT = b"keyplane/canary/1"


@dataclass(frozen=True, slots=True)
class TokenPlace:
    """Which token; slot numbers change, so they tell nothing.

    Attributes:
        serial: ``None`` while the label alone tells it from others.
    """

    label: str
    serial: str | None


class Connection:
    """One session holds the login and does nothing else; the others come and go.

    Closing the session that has logged in would log out all others (PKCS#11 v3.0, 5.6),
    so it stays open until :meth:`close`.

    Attributes:
        logins: how often this process has logged in.
    """

    def __init__(
        self, module: Pkcs11Module, place: TokenPlace, pin_file: PinFile, *, writable: bool = False
    ) -> None:
        """Find the token and log in.

        Raises:
            TokenSetupError: there is no such token.
            PinRejectedError: the PIN is wrong, now or before.
            SettingsError: the PIN file cannot be used.
            TokenUnavailableError: the token does not answer.
        """
        self._module = module
        self._pin_file = pin_file
        self._writable = writable
        self._login_lock = threading.Lock()
        self.logins = 0
        self.token = self._find(place)
        # From now on it must be this one, whatever else has the same label.
        self._place = TokenPlace(place.label, serial_of(self.token))
        self.anchor = self._log_in()

    def _find(self, place: TokenPlace) -> pkcs11.Token:
        try:
            return self._module.token(place.label, place.serial)
        except (TokenSetupError, TokenUnavailableError):
            # SoftHSM writes the token's file at each login, and has a token without a name
            # for whoever begins to read it then. Nobody logs in under this lock.
            with self._pin_file.no_login_elsewhere():
                self._module.reinitialise()
                return self._module.token(place.label, place.serial)

    @property
    def guard(self) -> Guard:
        """What every call of the module is made under."""
        return self._module.guard

    @property
    def place(self) -> TokenPlace:
        """The token's label and serial number."""
        return self._place

    def provision(self, wanted: str) -> None:
        """Make the token objects that are missing, and check those that are there.

        An interrupted run leaves whole objects only, and the next run goes on where it
        stopped. The connection must be writable.

        Args:
            wanted: ``token.profile`` of the settings.

        Raises:
            TokenSetupError: a mechanism is missing, the token has another profile
                already, or an object of that label is weaker than it must be.
            TokenUnavailableError: the token does not answer.
        """
        with self.guard, pkcs11_errors("list its mechanisms and objects"):
            offered = self.token.slot.get_mechanisms()
            begun = profile_in(self.anchor)
            profile = profile_for(offered, wanted, begun)
        if begun is None:
            with self.guard, pkcs11_errors(f"do what the profile {profile.name} needs"):
                profile.rehearse(self.anchor)
        for label, plan in profile.plans.items():
            with self.guard, pkcs11_errors(f"make the object {label}"):
                if not labelled(self.anchor, label):
                    make_object(self.anchor, label, plan)
        self.identify(wanted)

    def identify(self, wanted: str) -> None:
        """Find out the profile, and remember how to know this token again.

        Args:
            wanted: ``token.profile`` of the settings.

        Raises:
            TokenSetupError: an object is missing, doubled or weak, or of another profile,
                or a mechanism of its profile is not offered any more.
            TokenUnavailableError: the token does not answer.
        """
        with self.guard, pkcs11_errors("find its objects"):
            found = profile_of(self.anchor, wanted)
            self.profile: Profile = profile_for(
                self.token.slot.get_mechanisms(), wanted, begun=found
            )
            self.canary = sign(find_objects(self.anchor, self.profile), _CANARY_TEXT)

    def to_recognise(self) -> dict[str, str | None]:
        """Return what another process needs to know the token again; no secret is in it."""
        return {
            "module": str(self._module.path),
            "label": self._place.label,
            "serial": self._place.serial,
            "pin_file": str(self._pin_file.path),
            "marker": str(self._pin_file.marker),
            "profile": self.profile.name,
            "canary": self.canary.hex(),
        }

    def recognise(self, profile: Profile, canary: bytes) -> Login:
        """Check that the token is the one that another process has identified.

        Raises:
            TokenSetupError: it is not, or an object is missing.
            TokenUnavailableError: the token does not answer.
        """
        self.profile, self.canary = profile, canary
        return self.new_login()

    def new_login(self) -> Login:
        """Return a new session with the token objects, proved to be those that were identified.

        Raises:
            TokenSetupError: the objects are gone, or it is another token.
            PinRejectedError: the login was lost, and the PIN is not accepted any more.
            TokenUnavailableError: the token does not answer.
        """
        with self.guard, pkcs11_errors("open a session"):
            session = self.token.open(attribute_mapper=UnwrapTemplateMapper())
            try:
                return self._recognised(session)
            except BaseException:
                close_quietly(session)
                raise

    def reconnect(self) -> None:
        """Initialise the module again and log in; nothing of before may be used afterwards.

        Raises:
            KeyplaneError: as the constructor.
        """
        self._module.reinitialise()
        self.token = self._module.token(self._place.label, self._place.serial)
        self.anchor = self._log_in()

    def close(self) -> None:
        """Log out. A token that is gone needs no logout."""
        with self.guard:
            close_quietly(self.anchor)

    def _recognised(self, session: pkcs11.Session) -> Login:
        with self._login_lock:
            try:
                login = find_objects(session, self.profile)
            except TokenSetupError:
                # Without a login private objects cannot be seen. A token that is gone
                # looks the same, and is still logged in for SoftHSM2. So does one, for a
                # moment, whose files another process has just looked at.
                with suppress(TokenUnavailableError):
                    self.anchor = self._log_in()
                login = find_objects(session, self.profile)
        if not is_signed(login, _CANARY_TEXT, self.canary):
            raise TokenSetupError(
                f"the token {self._place.label!r} is not the one it was",
                hint="connect the token of this installation",
            )
        return replace(login, number=self.logins)

    def _log_in(self) -> pkcs11.Session:
        with self._pin_file.login() as pin, self.guard, pkcs11_errors("log in"):
            session = self.token.open(
                rw=self._writable, user_pin=pin, attribute_mapper=UnwrapTemplateMapper()
            )
            self.logins += 1
            return session


def close_quietly(session: pkcs11.Session) -> None:
    """Close a session that may be closed already, or whose token may be gone."""
    with suppress(pkcs11.PKCS11Error):
        session.close()
