"""Whether token and store answer, each by itself, for when the core cannot be opened."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

from keycore.adapters.sql_store import SqlStore
from keycore.bootstrap import open_token, store_place
from keycore.errors import (
    KeyplaneError,
    StoreUnavailableError,
    TokenUnavailableError,
    UnavailableError,
)
from keycore.ports import TokenDescription
from keycore.settings import Settings


@dataclass(frozen=True, slots=True)
class Condition:
    """How token and store are.

    Attributes:
        token: what the token is; ``None`` while it does not answer.
        token_fault: why it does not; empty while it answers.
        store_fault: the same of the store.
    """

    token: TokenDescription | None
    token_fault: str
    store_fault: str


def look_apart(settings: Settings, met: UnavailableError) -> Condition:
    """Ask token and store, whatever the other one says.

    Args:
        settings: where they are.
        met: what was met before. Whom it is about is not asked again: that would take as
            long once more.
    """
    if isinstance(met, TokenUnavailableError):
        token, token_fault = None, met.message
    else:
        token, token_fault = _token(settings)
    known = isinstance(met, StoreUnavailableError)
    return Condition(token, token_fault, met.message if known else _store_fault(settings))


def _token(settings: Settings) -> tuple[TokenDescription | None, str]:
    try:
        with closing(open_token(settings)) as token:
            token.check()
            return token.describe(), ""
    except KeyplaneError as error:
        return None, error.message


def _store_fault(settings: Settings) -> str:
    try:
        with closing(SqlStore.open(store_place(settings))) as store:
            store.changes_since(0)
    except KeyplaneError as error:
        return error.message
    return ""
