"""How a turn is read: readers, their place in the log, and the lane that all readers of one framing share.

1. A reader owns a place in the log (its cursor), never a queue: history, live, late joiner, resume and slow reader are
   one mechanism, and memory is bounded by the log, however many follow.
2. Pushing is a plain call: no task, no wake-up, no await. An event is encoded once per lane, at once. What one pass of
   the loop has pushed is handed to each live reader (straight to its socket, where possible) at the end of the pass,
   several events in one. That order, first all the thinking, then all the sending, is worth a sixth of a chunk's cost:
   `send` leaves the processor's caches full of other things. Before a reader comes or goes its lane is flushed, so that
   what is pending always belongs to the readers that are live. A reader that pauses while it is handed something takes
   it all the same. A pass that has gathered `PASS_BYTES` hands it over before it ends.
3. The producer never waits. A reader whose transport is full pauses there and then: it leaves the lane with its cursor.
   When the transport drains it resumes: what it missed is written in few large writes, then it is live again. The lane
   keeps the frames that it has made for as long as somebody is behind, so nothing is encoded twice.
4. A reader that takes no byte for `STALL_SECONDS` is dropped; it may come back with its cursor.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from itertools import repeat
from typing import TYPE_CHECKING, Any, Protocol

from proto.events import HEAD_EVENTS, Chunk, Event
from server.clock import timestamp
from server.direct import Sender, Writer

if TYPE_CHECKING:
    from server.turn import Turn

log = logging.getLogger(__name__)

STALL_SECONDS = 30.0

PASS_BYTES = 8192  # how much may gather in one pass of the loop: then a full transport must have its say
SLICE_EVENTS = 256  # how many events a reader that catches up is written at once,
SLICE_BYTES = 2**18  # unless so many bytes come together before


class Framing(ABC):
    """How events become bytes on a transport. One object per framing and process: it is the identity of a lane."""

    name: str
    beats = False  # whether a silent stream needs a sign of life, because the transport has none of its own

    @abstractmethod
    def encode(self, turn: "Turn", event: Event) -> bytes: ...

    def opening(self, turn: "Turn") -> tuple[bytes, bytes]:
        """What `encode` makes of a turn's first two events."""
        return self.encode(turn, turn.info), self.encode(turn, turn.status)

    @property
    def framer(self) -> Callable[[Any, str, int, str], bytes]:
        """A function that makes of what `of_turn` has given, text, seq and timestamp what `encode` makes of such a
        chunk (not of the last one). To do it without a `Chunk` takes half the time."""
        return self._framer_of_all

    def _framer_of_all(self, turn: "Turn", text: str, seq: int, timestamp: str) -> bytes:
        return self.encode(turn, Chunk(text, seq - HEAD_EVENTS, False, timestamp, turn.id, seq))

    def of_turn(self, turn: "Turn") -> Any:
        """What the `framer` needs of a turn."""
        return turn

    def heartbeat(self) -> bytes:
        """That sign of life."""
        return b""


class Reader(Protocol):
    """What a transport gives to follow a turn. Nothing of it may block."""

    follower: "Follower | None"  # from before the first write, which may find the transport full, until it is closed

    @property
    def framing(self) -> Framing: ...

    @property
    def writer(self) -> Writer:
        """Takes its bytes; the same one from the first of them on."""

    def ended(self, follower: "Follower") -> None:
        """Everything up to the terminal event is written."""

    def drop(self) -> None:
        """The peer has taken nothing for `STALL_SECONDS`."""


class Counter:
    """What was handed to readers."""

    def __init__(self) -> None:
        self.bytes = 0


class Observer(Protocol):
    """Who keeps count of readers (the chat's statistics do)."""

    def counter(self, framing: Framing) -> Counter: ...

    def joined(self, follower: "Follower") -> None: ...

    def left(self, follower: "Follower") -> None: ...


class Follower:
    """One reader's place in one turn's log."""

    __slots__ = (
        "_behind",
        "_closed",
        "_cursor",
        "_live",
        "_paused",
        "_stall",
        "lane",
        "reader",
        "start",
        "turn",
    )

    def __init__(self, turn: "Turn", reader: Reader, after: int, lane: "Lane") -> None:
        self.turn = turn
        self.reader = reader
        self.start = after
        self._cursor = after
        self.lane = lane
        self._live = self._paused = self._behind = self._closed = False
        self._stall: asyncio.TimerHandle | None = None

    @property
    def cursor(self) -> int:
        """The seq of the last event that was written to this reader."""
        return self.turn.last_seq if self._live else self._cursor

    @property
    def chunks(self) -> int:
        """How many chunks were written to this reader."""
        return max(0, self.turn.chunks_up_to(self.cursor) - self.turn.chunks_up_to(self.start))

    def pause(self) -> None:
        """The transport is full: whatever comes now waits in the log."""
        if self._paused or self._closed:
            return
        self._paused = True
        self._leave_lane()
        if not self._behind:
            self._behind = True
            self.lane.keep()
        self._stall = asyncio.get_running_loop().call_later(STALL_SECONDS, self._stalled, self.reader.writer.taken())

    def resume(self) -> None:
        """The transport has drained: go on from the cursor."""
        if not self._paused or self._closed:
            return
        self._paused = False
        self._stop_watch()
        self.catch_up()

    def catch_up(self) -> None:
        """Write what the log has after the cursor, then go live, or end."""
        turn, lane = self.turn, self.lane
        lane.flush()
        while not self._paused and not self._closed and self._cursor < turn.last_seq:
            frames = lane.frames_after(self._cursor)
            self._cursor += len(frames)
            lane.write(self.reader, frames)  # may call pause()
        if self._closed:
            return
        if turn.terminal is not None and self._cursor == turn.last_seq:
            self.end()
        elif not self._paused:
            self._caught_up()
            self._live = True
            lane.join(self)

    def close(self) -> None:
        """The reader is gone, or has had everything."""
        if self._closed:
            return
        self._closed = True
        self._stop_watch()
        self._leave_lane()
        self._caught_up()
        self.turn.left(self)
        self.reader.follower = None  # else the log would be held by a cycle, and wait for the garbage collector

    def end(self) -> None:
        """All is written: the reader is told."""
        self.close()
        self.reader.ended(self)

    def _leave_lane(self) -> None:
        if self._live:
            self.lane.flush()
        if self._live:  # still: what was handed over may have made it leave
            self._cursor = self.turn.last_seq
            self._live = False
            self.lane.leave(self)

    def _caught_up(self) -> None:
        if self._behind:
            self._behind = False
            self.lane.let_go()

    def _stop_watch(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _stalled(self, taken: int) -> None:
        """The stall timer: a slow reader that takes some bytes is slow, not stalled."""
        now = self.reader.writer.taken()
        if now > taken:
            self._stall = asyncio.get_running_loop().call_later(STALL_SECONDS, self._stalled, now)
        else:
            self._stall = None
            self.reader.drop()


class Outbox:
    """One pass of the loop: its time, which all that is said in it shares, and the lanes that have something to hand
    over when it ends."""

    __slots__ = ("lanes", "now")

    def __init__(self) -> None:
        self.now = ""  # nobody has asked in this pass
        self.lanes: list[Lane] = []

    def time(self) -> str:
        """Now, for the first who asks in this pass."""
        self.begin()
        self.now = timestamp()
        return self.now

    def begin(self) -> None:
        """The first who has something to say in this pass sees to its end."""
        if not self.lanes and not self.now:
            asyncio.get_running_loop().call_soon(self._end)

    def _end(self) -> None:
        self.now = ""
        lanes, self.lanes = self.lanes, []
        hand_over(lanes)


_NONE: list[bytes] = []  # one for all lanes that keep none
_OPENING = 0, SLICE_EVENTS, HEAD_EVENTS  # the slice that is asked for most: all of a turn that has just begun


class _Hot:
    """What every chunk touches, side by side, as in `server.turn`."""

    __slots__ = ("behind", "counter", "framer", "next", "of_turn", "pending", "recent", "sender")


class Lane(_Hot):
    """The live readers of one framing of one turn."""

    __slots__ = ("_outbox", "first", "frames", "framing", "live", "turn")

    def __init__(
        self, turn: "Turn", framing: Framing, outbox: Outbox, counter: Counter, next_lane: "Lane | None"
    ) -> None:
        self.next = next_lane  # of the turn
        self.turn = turn
        self.framing = framing
        self.framer = framing.framer
        self.of_turn = framing.of_turn(turn)
        self._outbox = outbox
        self.counter = counter
        self.pending = b""  # pushed, and not yet handed to the live readers
        self.live: dict[Follower, Writer] = {}
        self.sender: Sender | None = None  # of the one who is live, where it is one
        self.behind = 0
        self.frames = _NONE  # made while somebody was behind; the first is of the event with seq `first`
        self.first = 0
        self.recent: tuple[tuple[int, int, int], list[bytes]] | None = None  # which slice of the log, and its frames

    def push(self, frame: bytes) -> bool:
        """The turn's newest event: the live readers are handed it at the end of this pass of the loop. Whether that is
        too late, because so much has gathered."""
        if self.behind:
            self.frames.append(frame)
        pending = self.pending
        if pending:
            self.pending = pending = pending + frame
            return len(pending) >= PASS_BYTES
        self.pending = frame
        outbox = self._outbox
        if not outbox.lanes:
            outbox.begin()
        outbox.lanes.append(self)
        return False

    def flush(self) -> None:
        """Hand the live readers what is pending; also one whose transport is full, and who is about to leave."""
        data = self.pending
        if data:
            self.pending = b""
            self.recent = None  # nobody asks for it again: the log has grown
            self.counter.bytes += len(data) * len(self.live)
            self.to_all(data)

    def to_all(self, data: bytes) -> None:
        for writer in tuple(self.live.values()):  # a write may pause its reader, which leaves
            try:
                writer.write(data)
            except Exception:
                log.exception("a reader failed")

    def join(self, follower: Follower) -> None:
        self.live[follower] = follower.reader.writer
        self._change()

    def leave(self, follower: Follower) -> None:
        del self.live[follower]
        self._change()

    def _change(self) -> None:
        self.sender = next(iter(self.live.values())).sender if len(self.live) == 1 else None

    def write(self, reader: Reader, frames: list[bytes]) -> None:
        """To one reader, what it has missed."""
        data = b"".join(frames)
        self.counter.bytes += len(data)
        reader.writer.write(data)

    def keep(self) -> None:
        if not self.behind:
            self.first, self.frames = self.turn.last_seq + 1, []
        self.behind += 1

    def let_go(self) -> None:
        self.behind -= 1
        if not self.behind:
            self.frames = _NONE

    def frames_after(self, cursor: int) -> list[bytes]:
        """The next frames after the cursor, at least one, at most a slice."""
        start = cursor + 1 - self.first
        if self.behind and 0 <= start < len(self.frames):
            return _slice(self.frames[start : start + SLICE_EVENTS])
        most = SLICE_EVENTS
        if self.behind and cursor < self.first - 1:
            most = min(most, self.first - 1 - cursor)
        asked = cursor, most, self.turn.last_seq
        if self.recent is None or self.recent[0] != asked:  # a whole room of members comes to a turn at once
            if asked == _OPENING:
                self.recent = asked, [*self.framing.opening(self.turn)]
            else:
                events = self.turn.events(cursor, most)
                self.recent = asked, _slice(map(self.framing.encode, repeat(self.turn), events))
        return self.recent[1]


def hand_over(lanes: Iterable[Lane]) -> None:
    """Hand the live readers what is pending. The hot path, therefore without a call for a lane that has one reader: who
    is live has a transport that is not full, so it is sent the shortest way."""
    for lane in lanes:
        data = lane.pending
        sender = lane.sender
        if not data:
            continue
        if sender is None:
            lane.flush()
            continue
        lane.pending = b""
        lane.recent = None
        size = len(data)
        lane.counter.bytes += size
        try:
            sent = sender.send(data)
        except OSError:  # it takes nothing now, or never again
            sent = 0
        except Exception:  # a bug of one reader is no matter for the others
            log.exception("a reader failed")
            continue
        if sent != size:
            lane.to_all(data[sent:])


def _slice(frames: Iterable[bytes]) -> list[bytes]:
    """The first of them, up to `SLICE_BYTES`."""
    first, size = [], 0
    for frame in frames:
        first.append(frame)
        size += len(frame)
        if size >= SLICE_BYTES:
            break
    return first
