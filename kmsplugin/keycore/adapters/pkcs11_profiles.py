"""Which profile a token has, or gets by ``init``."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import pkcs11
from pkcs11 import Mechanism

from keycore.adapters.pkcs11_gcm import GcmProfile
from keycore.adapters.pkcs11_profile import Profile
from keycore.errors import TokenSetupError

PROFILES: Final[tuple[Profile, ...]] = (GcmProfile(),)
"""The best one first."""

AUTO: Final = "auto"


def profile_for(offered: Collection[Mechanism], wanted: str) -> Profile:
    """Return the profile for a token that offers these mechanisms.

    Args:
        offered: by the token's slot.
        wanted: ``token.profile`` of the settings.

    Raises:
        TokenSetupError: the token lacks what the wanted one, or every one, needs.
    """
    candidates = [profile for profile in PROFILES if wanted in (AUTO, profile.name)]
    for profile in candidates:
        if set(profile.mechanisms) <= set(offered):
            return profile
    missing = [m.name for m in candidates[-1].mechanisms if m not in offered]
    raise TokenSetupError(
        f"the token lacks the mechanisms {', '.join(missing)}",
        hint="enable them in the HSM's policy or configuration, or use another token",
    )


def profile_of(session: pkcs11.Session, wanted: str) -> Profile:  # noqa: ARG001 - one profile so far
    """Return the profile that the token was initialised with.

    Args:
        session: logged in.
        wanted: ``token.profile`` of the settings.

    Raises:
        TokenSetupError: it has another one than is wanted.
    """
    return PROFILES[0]


def profile_named(name: str) -> Profile:
    """Return the profile of that name."""
    return next(profile for profile in PROFILES if profile.name == name)
