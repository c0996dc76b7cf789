"""Which profile a token has, or gets by ``init``."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import pkcs11
from pkcs11 import Mechanism

from keycore.adapters.pkcs11_cbc import SEALING_MAC, CbcHmacProfile
from keycore.adapters.pkcs11_gcm import GcmProfile
from keycore.adapters.pkcs11_profile import Profile, labelled
from keycore.errors import TokenSetupError

_GCM: Final[Profile] = GcmProfile()
_CBC_HMAC: Final[Profile] = CbcHmacProfile()

PROFILES: Final = (_GCM, _CBC_HMAC)
"""The best one first."""

AUTO: Final = "auto"


def profile_for(
    offered: Collection[Mechanism], wanted: str, begun: Profile | None = None
) -> Profile:
    """Return the profile that ``init`` gives a token.

    Args:
        offered: the mechanisms of the token's slot.
        wanted: ``token.profile`` of the settings.
        begun: the one that the token has objects of; it stays, whatever is offered now.

    Raises:
        TokenSetupError: the token lacks what the wanted one, or every one, needs; or
            it has another one than is wanted.
    """
    if begun is not None:
        _refuse_contradiction(begun, wanted)
    candidates = (begun,) if begun else [one for one in PROFILES if wanted in (AUTO, one.name)]
    for profile in candidates:
        if set(profile.mechanisms) <= set(offered):
            return profile
    lacks = "; ".join(f"{one.name} needs {_missing(one, offered)}" for one in candidates)
    raise TokenSetupError(
        f"the token lacks mechanisms: {lacks}",
        hint="enable them in the HSM's policy or configuration, or use another token",
    )


def profile_in(session: pkcs11.Session) -> Profile | None:
    """Return the profile that the token has objects of; ``None`` for an empty token.

    Args:
        session: logged in.
    """
    if labelled(session, SEALING_MAC):
        return _CBC_HMAC
    return _GCM if any(labelled(session, label) for label in _GCM.plans) else None


def profile_of(session: pkcs11.Session, wanted: str) -> Profile:
    """Return the profile that the token was initialised with.

    Args:
        session: logged in.
        wanted: ``token.profile`` of the settings.

    Raises:
        TokenSetupError: it has another one than is wanted, or none.
    """
    found = profile_in(session)
    if found is None:
        raise TokenSetupError(
            f"the token {session.token.label!r} holds no keys of keyplane",
            hint="is it the token of this installation? If it is new, run keyplane init",
        )
    _refuse_contradiction(found, wanted)
    return found


def profile_named(name: str) -> Profile:
    """Return the profile of that name."""
    return next(profile for profile in PROFILES if profile.name == name)


def _refuse_contradiction(found: Profile, wanted: str) -> None:
    if wanted not in (AUTO, found.name):
        raise TokenSetupError(
            f"the token was initialised with the profile {found.name}, "
            f"and token.profile says {wanted}",
            hint=f"set token.profile to {found.name} or {AUTO}; a token keeps its profile",
        )


def _missing(profile: Profile, offered: Collection[Mechanism]) -> str:
    return ", ".join(m.name for m in profile.mechanisms if m not in offered)
