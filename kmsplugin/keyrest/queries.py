"""The query of a request, taken apart and checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import parse_qs

from keycore.domain.keys import KeyKind, KeyState
from keycore.service.key_reading import OFFSET_MAX, PAGE_MAX
from keyrest.request_errors import InvalidQueryError

LIMIT_DEFAULT = 200

_QUERY_PARAMETERS_MAX = 64

_NUMBER = re.compile(r"[0-9]{1,10}")

_STATES = {str(state.value): state for state in KeyState}


@lru_cache(maxsize=256)
def read_query(query_string: bytes) -> Query:
    """Return the query of a request; most are one of a few, such as ``action=wrap``.

    Raises:
        InvalidQueryError: it has too many parameters.
    """
    if not query_string:
        return Query({})
    try:
        values = parse_qs(
            query_string.decode("latin-1"),
            keep_blank_values=True,
            max_num_fields=_QUERY_PARAMETERS_MAX,
        )
    except ValueError:
        raise InvalidQueryError("*", f"one of {_QUERY_PARAMETERS_MAX} at most") from None
    return Query(values)


@dataclass(frozen=True, slots=True)
class Query:
    """The query's parameters. An empty value counts as none; unknown names are passed over."""

    values: Mapping[str, list[str]]

    def text(self, name: str) -> str:
        """Return a parameter, empty when it is not given.

        Raises:
            InvalidQueryError: it is given more than once.
        """
        given = self.values.get(name, [""])
        if len(given) > 1:
            raise InvalidQueryError(name, "given once")
        return given[0]

    def number(self, name: str, *, default: int, least: int, most: int) -> int:
        """Return a whole number within bounds.

        Raises:
            InvalidQueryError: it is none.
        """
        text = self.text(name)
        if not text:
            return default
        value = int(text) if _NUMBER.fullmatch(text) else -1
        if not least <= value <= most:
            raise InvalidQueryError(name, f"an integer between {least} and {most} (inclusive)")
        return value

    def offset(self) -> int:
        """Return how many resources to skip.

        Raises:
            InvalidQueryError: out of bounds.
        """
        return self.number("offset", default=0, least=0, most=OFFSET_MAX)

    def limit(self) -> int:
        """Return how many resources to answer at most.

        Raises:
            InvalidQueryError: out of bounds.
        """
        return self.number("limit", default=LIMIT_DEFAULT, least=1, most=PAGE_MAX)

    def flag(self, name: str) -> bool | None:
        """Return ``true`` or ``false``, ``None`` when it is not given.

        Raises:
            InvalidQueryError: it is something else.
        """
        text = self.text(name).lower()
        if text not in ("", "true", "false"):
            raise InvalidQueryError(name, "true or false")
        return text == "true" if text else None

    def kind(self) -> KeyKind | None:
        """Return which keys ``extractable`` takes, ``None`` for both.

        Raises:
            InvalidQueryError: it is neither true nor false.
        """
        extractable = self.flag("extractable")
        if extractable is None:
            return None
        return KeyKind.STANDARD if extractable else KeyKind.ROOT

    def states(self) -> frozenset[KeyState] | None:
        """Return the states of a comma-separated ``state``, ``None`` for all that live.

        Raises:
            InvalidQueryError: one is no state.
        """
        text = self.text("state")
        if not text:
            return None
        numbers = [number.strip() for number in text.split(",")]
        if any(number not in _STATES for number in numbers):
            raise InvalidQueryError("state", "a list of states from 0, 1, 2, 3 and 5, by commas")
        return frozenset(_STATES[number] for number in numbers)
