"""Where commands are given: the conversation, the screen, what the prompt lets them do, and which session is meant."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from client.conversation import Conversation
from client.screen import Screen
from proto.requests import Cursor, check_session_id


@dataclass
class Seat:
    talk: Conversation
    screen: Screen
    raw: bool
    waiting: Callable[[], bool]  # whether messages wait to be sent
    resume: Callable[[Cursor], None]
    leave: Callable[[], None]
    confirm: Callable[[str], Awaitable[bool]]
    listed: list[str] = field(default_factory=list)  # the sessions on the rows that /sessions has printed, for good
    next_page: str | None = None  # of /sessions


class Refused(Exception):
    """The command makes no sense now; the message says what does."""


def idle(seat: Seat) -> None:
    if seat.talk.answer is not None:
        raise Refused("The answer is still growing: Ctrl-C stops it.")
    if seat.waiting():
        raise Refused("Messages wait to be sent in this session: Ctrl-C drops them.")


def session_meant(seat: Seat, argument: str = "") -> str:
    """A row of the list, an id, the beginning of one of the list, or the current session."""
    if not argument:
        if seat.talk.session_id is None:
            raise Refused("There is no session yet: say something, or /switch to one.")
        return seat.talk.session_id
    if argument.isdecimal() and 0 < int(argument) <= len(seat.listed):
        return seat.listed[int(argument) - 1]
    fits = [session_id for session_id in seat.listed if session_id.startswith(argument.rstrip(".…"))]
    return fits[0] if len(fits) == 1 else check_session_id(argument)
