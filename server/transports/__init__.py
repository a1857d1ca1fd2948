"""What an HTTP transport is to the server: routes, each with what the documentation says about it.

`/`, `/openapi.json` and `/docs` are drawn from the routes: a route says here what it takes and gives, and nowhere else.
"""

from typing import Any, NamedTuple

from server.edge import Handler


class Parameter(NamedTuple):
    """A path, query or header parameter; `kind` is string or integer."""

    name: str
    place: str
    text: str
    kind: str = "string"


IDEMPOTENCY_KEY = Parameter(
    "Idempotency-Key",
    "header",
    "The same key attaches to the same turn for 24 hours, to one that broke, too (ask again with a new key); in its "
    "session, or without one for the caller's address.",
)


class Route(NamedTuple):
    """One method and path. `body` and `answer` are words; `media` are the other forms that the answer may take."""

    method: str
    path: str
    handler: Handler
    summary: str
    text: str = ""
    body: type[Any] | None = None
    answer: type[Any] | None = None
    media: tuple[str, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    errors: tuple[str, ...] = ()
    refused: tuple[int, ...] = ()  # other statuses of an invalid request than 400
    status: int = 200
    also: tuple[tuple[int, str], ...] = ()  # other answers than errors: the status, and what it says
    example: dict[str, Any] | None = None
    listed: bool = True  # False: served, but no part of the interface
    at_once: bool = False  # whether its handler may begin outside of a task
