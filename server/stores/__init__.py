"""What a store is to the chat: where sessions and turn logs outlive the process.

1. Nothing here blocks the event loop. Reads are awaited; `begin` and `end` report through a callback, on the loop (a
   store that can answer at once calls back before it returns), so that a caller who is cancelled meanwhile leaves no
   half-begun turn behind. `checkpoint` reports nothing.
2. When `begin`, `create`, `clear` or `delete` has reported success, it is on disk (where there is a disk).
3. A turn's log is kept as its parts: what `session_info` and `status` say, chunk texts with their timestamps, and the
   terminal event. Events read back are equal to those that were sent, to the byte.
4. Trouble with the disk is ChatError `unavailable`; a file that cannot be used is `StoreRefused`, at `open` only.
5. Parts may overlap or come twice: chunk numbers decide, so that there is never a chunk twice, nor one behind a hole.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from operator import attrgetter
from typing import NamedTuple, Protocol

from proto.answers import HistoryMessage
from proto.errors import ChatError
from proto.events import HEAD_EVENTS, Complete, Error, Usage

IDEMPOTENCY_SECONDS = 24 * 3600
INTERRUPTED = "The server stopped while it was answering; ask again."


class StoreRefused(Exception):
    """The store cannot be used as it is; the message names the file and says what to do."""


class SavedSession(NamedTuple):
    """A session's row. Times are seconds since the epoch; `active_at` orders the list of sessions."""

    id: str
    model: str
    created_at: float
    active_at: float
    user_messages: int
    model_messages: int
    input_tokens: int
    output_tokens: int
    cost: float


class SavedTurn(NamedTuple):
    """A turn's log in parts; `final` says that the last chunk carries `is_final`. Chunks are as in `Part`."""

    id: str
    session_id: str
    model: str
    message: str
    started_at: float
    timestamp: str
    is_new_session: bool
    context_messages: int
    omitted_messages: int
    chunks: tuple[str, ...] = ()
    final: bool = False
    terminal: Complete | Error | None = None


def interrupted(turn: SavedTurn) -> Error:
    """The end of a turn that nobody answers any more, right behind the last chunk that was saved."""
    now, seq = datetime.now(UTC).isoformat(timespec="microseconds"), HEAD_EVENTS + len(turn.chunks) // 2 + 1
    return Error(INTERRUPTED, turn.session_id, turn.id, seq, "interrupted", True, now)


class Part(NamedTuple):
    """Chunks of a growing answer, from chunk number `first` on (1 is the first of the turn): text, timestamp, text,
    timestamp. A flat tuple of strings costs the garbage collector nothing, however many turns are kept."""

    turn_id: str
    first: int
    chunks: tuple[str, ...]


class Key(NamedTuple):
    """An idempotency key; `scope` is the session's id, or tells the client where no session was named."""

    scope: str
    key: str


Done = Callable[[ChatError | None], None]
Used = Callable[[SavedTurn, Sequence[HistoryMessage]], Usage]


class Store(Protocol):
    @property
    def name(self) -> str:
        """As in `--store`: memory, sqlite:PATH."""

    async def open(self, used: Used | None = None) -> None:
        """Get ready. Turns that a dead process left without an end get the `error` event `interrupted`. Where there is
        text of one, it was paid for: its session is charged what `used` makes of it and of the history that ends with
        its question."""

    async def close(self) -> None:
        """Write what is pending, then let go."""

    @property
    def healthy(self) -> bool:
        """False while writing fails."""

    async def session(self, session_id: str) -> SavedSession | None: ...

    async def sessions(self, limit: int, before: tuple[float, str] | None) -> list[SavedSession]:
        """Newest activity first, at most `limit`, those older than `before` = (active_at, id)."""

    async def count(self) -> int:
        """How many sessions there are."""

    async def history(self, session_id: str) -> list[HistoryMessage]:
        """The messages since the last clear, oldest first: a turn's user message and, when it has ended with any text,
        its answer, with the timestamp of the end. The last of them tells how the turn ended."""

    async def turn(self, turn_id: str) -> SavedTurn | None: ...

    async def keyed(self, key: Key) -> str | None:
        """The id of the turn that was begun in the last 24 hours with this key, or with one of its name in the session
        that is its scope: a client that named no session at first may name the one that was made when it asks again."""

    async def create(self, session: SavedSession) -> None: ...

    def begin(self, session: SavedSession, turn: SavedTurn, key: Key | None, done: Done) -> None:
        """A new turn: its row and the session's (inserted or updated)."""

    def checkpoint(self, parts: Sequence[Part]) -> None:
        """More of the answers that are growing. What cannot be written is kept and tried again, as in `end`."""

    def end(self, session: SavedSession, part: Part, final: bool, terminal: Complete | Error, done: Done) -> None:
        """The rest of a turn's chunks and its last event, and the session's new figures. On failure `done` is told,
        once, and the store keeps them and tries again until it can write; reads see them meanwhile."""

    async def clear(self, session: SavedSession) -> None:
        """Take the session's turns out of its history; they can still be followed. `session` has the new figures."""

    async def delete(self, session_id: str) -> None:
        """Remove the session, its turns and its keys."""


def joined(parts: Iterable[Part]) -> tuple[str, ...]:
    """The chunks of a turn's parts, from number 1 up to the first hole."""
    chunks: list[str] = []
    for part in sorted(parts, key=attrgetter("first")):
        known = len(chunks) // 2 + 1 - part.first
        if known < 0:
            break
        chunks += part.chunks[2 * known :]
    return tuple(chunks)


def messages(turn: SavedTurn) -> list[HistoryMessage]:
    """What a turn adds to its session's history."""
    said = [HistoryMessage("user", turn.message, turn.id, turn.timestamp)]
    end, text = turn.terminal, "".join(turn.chunks[::2])
    if end is None:
        return said
    if text:
        said.append(HistoryMessage("model", text, turn.id, end.timestamp))
    if isinstance(end, Complete):
        said[-1] = said[-1]._replace(finish_reason=end.finish_reason)
    else:
        said[-1] = said[-1]._replace(code=end.code, error=end.message)
    return said
