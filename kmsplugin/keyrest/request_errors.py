"""What only an HTTP request can do wrong, beside what the core refuses.

Each class is on a branch of the core's tree, so every other face's table knows it
too. The answers to them are in :mod:`keyrest.errors`.
"""

from __future__ import annotations

from collections.abc import Sequence

from keycore.errors import InvalidRequestError


class UnknownPathError(InvalidRequestError):
    """There is nothing at the path."""

    code = "unknown_path"

    def __init__(self) -> None:
        """Say the one fixed sentence; the path itself may hold anything."""
        super().__init__("there is no such path", hint="docs/rest.md lists those that there are")


class MethodNotAllowedError(InvalidRequestError):
    """The path is served, but not with this method.

    Attributes:
        allowed: the methods that are.
    """

    code = "method_not_allowed"

    def __init__(self, allowed: Sequence[str]) -> None:
        """Keep ``allowed`` for the header ``Allow``."""
        super().__init__(f"the path is served with {', '.join(allowed)} only")
        self.allowed = allowed


class InstanceHeaderError(InvalidRequestError):
    """The header that names the instance is missing, malformed or contradicts its synonym."""

    code = "instance_header"

    def __init__(self) -> None:
        """Say the one sentence that the original says, whatever is wrong with the header."""
        super().__init__("Request requires valid Instance Header containing a valid UUID")


class InvalidQueryError(InvalidRequestError):
    """A query parameter has a value that can never be accepted."""

    code = "invalid_query"

    def __init__(self, name: str, must_be: str) -> None:
        """Say what the parameter ``name`` must be."""
        super().__init__(f"The query_param '{name}' must be: {must_be}", field=name)


class InvalidHeaderError(InvalidRequestError):
    """A request header has a value that can never be accepted."""

    code = "invalid_header"

    def __init__(self, name: str, must_be: str) -> None:
        """Say what the header ``name`` must be."""
        super().__init__(f"The header '{name}' must be: {must_be}", field=name)


class NotAcceptableError(InvalidRequestError):
    """The caller wants an answer in a form that none has here."""

    code = "not_acceptable"

    def __init__(self) -> None:
        """Say the one fixed sentence."""
        super().__init__("answers are JSON only", hint="send 'accept: application/json'")


class BodyTooLargeError(InvalidRequestError):
    """The body is larger than any legal one; the rest of it was not read."""

    code = "body_too_large"

    def __init__(self, bytes_max: int) -> None:
        """Name the bound."""
        super().__init__(f"a body has up to {bytes_max} bytes")


class UnsupportedMediaTypeError(InvalidRequestError):
    """The body is declared to be something else than JSON."""

    code = "unsupported_media_type"


class MissingBodyError(InvalidRequestError):
    """The operation needs a body and got none."""

    code = "missing_body"

    def __init__(self) -> None:
        """Say the one fixed sentence."""
        super().__init__("Missing body in request")


class InvalidBodyError(InvalidRequestError):
    """The body is not JSON, or not of the form that the operation takes."""

    code = "invalid_body"


class CollectionTotalError(InvalidBodyError):
    """``collectionTotal`` is not the number of resources."""

    code = "collection_total"

    def __init__(self) -> None:
        """Say the one fixed sentence."""
        super().__init__(
            "Collection total does not match number of resources", field="collectionTotal"
        )


class BodyActionMismatchError(InvalidBodyError):
    """The body has a field that belongs to another action."""

    code = "body_action_mismatch"

    def __init__(self, field: str, action: str) -> None:
        """Name the field and the action that does not take it."""
        super().__init__(f"the action '{action}' takes no field '{field}'", field=field)
