"""A turn: one user message and the answer being produced for it, as an append-only log that readers follow.

1. The log is the only buffer (`server.lane` says how it is read).
2. `chunk` is the hot path: it runs once per piece of every answer. What can be done per turn is not done there, and
   what every piece passes stands there in full: to call a function costs as much as several lines.
3. `seal` appends the terminal event. It is called once, after the store has the whole turn.
4. While nobody attends a running turn, a grace timer runs; then the turn is cancelled.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable
from typing import cast

from proto.answers import TurnSnapshot
from proto.events import GENERATING, HEAD_EVENTS, Chunk, Complete, Error, Event, SessionInfo, Status
from proto.requests import invalid
from server.clock import seconds_of
from server.lane import Counter, Follower, Lane, Observer, Outbox, Reader
from server.stores import SavedTurn

log = logging.getLogger(__name__)


class _Hot:
    """What every chunk touches, side by side in memory, where the slots of one class lie in the order of their names.
    With 500 turns half of the interpreter's time goes into waiting for such things to come into the processor's cache,
    so that fewer of them make a chunk faster, more than fewer steps do."""

    __slots__ = ("_lane", "_outbox", "_said", "last_seq")


class Turn(_Hot):
    """The log and its readers. The chat drives it; transports follow it."""

    __slots__ = (
        "_attended",
        "_beat_timer",
        "_grace",
        "_grace_timer",
        "_heartbeat",
        "_observer",
        "_waiters",
        "chars",
        "client",
        "final",
        "first_chunk_at",
        "id",
        "message",
        "model",
        "opening",
        "retry_after",
        "session_id",
        "started_at",
        "stop",
        "stored",
        "terminal",
        "transport",
    )

    def __init__(
        self,
        opening: SavedTurn,
        *,
        transport: str = "",
        client: str = "",
        observer: Observer | None = None,
        grace: float = 0.0,
        heartbeat: float = 0.0,
        outbox: Outbox | None = None,  # a turn that comes from the store has nothing to push
    ) -> None:
        self.id = opening.id
        self.session_id = opening.session_id
        self.model = opening.model
        self.message = opening.message
        self.opening = opening  # as the store has it
        self.transport = transport
        self.client = client
        self.last_seq = 0
        self.terminal: Complete | Error | None = None
        self.final = False
        self._said: list[str] = []  # text, timestamp, text, timestamp: no object per chunk that would stay
        self.chars = 0  # of the answer, once all is said
        self.retry_after: float | None = None  # seconds that a failed model asks for
        self.stored = 0  # chunks that the store was given
        self.started_at = time.monotonic()
        self.first_chunk_at: float | None = None
        self.stop: Callable[[], object] = _nothing  # stops the model
        self._observer = observer
        self._grace = grace
        self._heartbeat = heartbeat
        self._outbox = outbox or Outbox()
        self._lane: Lane | None = None  # the first; each knows the next
        self._attended = 0
        self._grace_timer: asyncio.TimerHandle | None = None
        self._beat_timer: asyncio.TimerHandle | None = None
        self._waiters: tuple[asyncio.Future[None], ...] = ()

    # What the log says

    @property
    def info(self) -> SessionInfo:
        """The first event."""
        said = self.opening
        return SessionInfo(said.session_id, said.model, said.timestamp, said.id, 1, said.is_new_session, said.message)

    @property
    def status(self) -> Status:
        """The second one."""
        said = self.opening
        return Status(GENERATING, said.context_messages, said.omitted_messages, said.id, HEAD_EVENTS)

    @property
    def running(self) -> bool:
        return self.terminal is None

    @property
    def chunk_count(self) -> int:
        return len(self._said) // 2

    def chunks_up_to(self, seq: int) -> int:
        """How many of the events up to this seq are chunks."""
        return max(0, min(seq - HEAD_EVENTS, self.chunk_count))

    def chunks_after(self, number: int) -> tuple[str, ...]:
        """Text, timestamp, text, timestamp of the chunks after this one, as the stores keep them."""
        return tuple(self._said[2 * number :])  # the whole of an ended turn is not copied

    def events(self, after: int, most: int) -> list[Event]:
        """The events after a seq, so many at the most."""
        stop = min(after + most, self.last_seq)
        return [self.event(seq) for seq in range(after + 1, stop + 1)]

    @property
    def _lanes(self) -> list[Lane]:
        lanes, lane = [], self._lane
        while lane is not None:
            lanes.append(lane)
            lane = lane.next
        return lanes

    @property
    def log(self) -> list[Event]:
        """All events so far."""
        return self.events(0, self.last_seq)

    def event(self, seq: int) -> Event:
        said, number = self._said, seq - HEAD_EVENTS
        place, count = 2 * number, len(said)
        if 0 < place <= count:
            return Chunk(said[place - 2], number, self.final and place == count, said[place - 1], self.id, seq)
        if place > 0:
            assert self.terminal is not None
            return self.terminal
        return self.status if seq == HEAD_EVENTS else self.info

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self._said[::2])

    @property
    def time_to_first_chunk(self) -> float | None:
        return None if self.first_chunk_at is None else self.first_chunk_at - self.started_at

    @property
    def state(self) -> str:
        if self.terminal is None:
            return "running"
        if isinstance(self.terminal, Error):
            return "interrupted" if self.terminal.code == "interrupted" else "failed"
        return "cancelled" if self.terminal.finish_reason == "cancelled" else "complete"

    def snapshot(self) -> TurnSnapshot:
        text, end = self.text, self.terminal
        done = end if isinstance(end, Complete) else None
        failed = end if isinstance(end, Error) else None
        return TurnSnapshot(
            turn_id=self.id,
            session_id=self.session_id,
            model=self.model,
            status=self.state,
            message=self.message,
            text=text,
            last_seq=self.last_seq,
            started_at=self.opening.timestamp,
            ended_at=end.timestamp if end else None,
            processing_time=done.processing_time if done else None,
            time_to_first_chunk=done.time_to_first_chunk if done else self.time_to_first_chunk,
            finish_reason=done.finish_reason if done else None,
            usage=done.usage if done else None,
            text_sha256=done.text_sha256 if done else sha256(text) if end else None,
            code=failed.code if failed else None,
            error=failed.message if failed else None,
        )

    # Writing the log

    def begin(self) -> None:
        self.last_seq = HEAD_EVENTS

    def chunk(self, text: str) -> None:
        """The hot path: once per piece of every answer."""
        outbox = self._outbox
        now = outbox.now or outbox.time()
        said = self._said
        if not said:
            self.first_chunk_at = time.monotonic()
        said.append(text)
        said.append(now)
        self.last_seq = seq = self.last_seq + 1
        much = False
        lane = self._lane
        while lane is not None:
            framer = lane.framer  # called as `lane.framer(...)`, it would be looked for among the methods first
            frame = framer(lane.of_turn, text, seq, now)
            if lane.pending or lane.behind:
                much = lane.push(frame) or much
            else:  # what `push` does then; the pass has an end, for it has a time
                lane.pending = frame
                outbox.lanes.append(lane)
            lane = lane.next
        if much:  # only when all lanes have it: to hand something on may make readers come and go
            for lane in self._lanes:
                lane.flush()

    def now(self) -> str:
        """The time of this pass of the loop, which all that is said in it shares."""
        return self._outbox.now or self._outbox.time()

    def last_chunk(self, text: str) -> None:
        """The one that says that it is the last. Its text may be empty."""
        self._said += (text, self.now())
        self.last_seq += 1
        self.final = True
        if self.first_chunk_at is None and text:  # there is none where nothing came
            self.first_chunk_at = time.monotonic()
        if self._lane is not None:
            for lane in self._lanes:
                lane.push(lane.framing.encode(self, self.event(self.last_seq)))

    def said_all(self) -> str:
        """No chunk will come any more: the answer. The garbage collector does not walk through a tuple of strings,
        however many turns are kept; through a list it does."""
        text = self.text
        self._said = cast("list[str]", tuple(self._said))
        self.chars = len(text)
        return text

    def seal(self, terminal: Complete | Error) -> None:
        """The end: the last event, and everybody is told."""
        self.last_seq += 1
        self.terminal = terminal
        lanes = self._lanes if self._lane is not None else ()
        for lane in lanes:
            try:
                lane.push(lane.framing.encode(self, terminal))
            except Exception:  # a bug; the readers are let go all the same
                log.exception("the end of a turn could not be encoded")
        self.stop = _nothing
        for timer in (self._grace_timer, self._beat_timer):
            if timer is not None:
                timer.cancel()
        self._grace_timer = self._beat_timer = None
        for lane in lanes:
            for follower in tuple(lane.live):
                follower.end()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters = ()

    def restore(self, chunks: tuple[str, ...], final: bool, terminal: Complete | Error | None) -> None:
        """Fill the log with what a store kept."""
        self._said = cast("list[str]", chunks)
        self.chars = sum(map(len, chunks[::2]))
        self.final = final
        self.terminal = terminal
        self.last_seq = HEAD_EVENTS + self.chunk_count + (terminal is not None)

    # Reading it

    def check_cursor(self, after: int) -> int:
        """The cursor to go on from. One beyond the end is refused; but a crash may have taken events that were not yet
        on disk, so in an interrupted turn it means the tail, and is answered by the terminal event."""
        if after > self.last_seq:
            if self.state != "interrupted":
                raise invalid(f"The cursor is beyond the end: the last seq of this turn is {self.last_seq}.")
            return self.last_seq - 1
        return after

    def nothing_left(self, after: int) -> bool:
        """Whether a reader with this (checked) cursor has had everything that will ever be."""
        return self.terminal is not None and after == self.last_seq

    def follow(self, reader: Reader, after: int = 0, paused: bool = False) -> Follower:
        """Write what there is after the cursor to the reader, then push what comes; `paused` if its transport is full,
        and will say so when it is not."""
        after = self.check_cursor(after)
        framing = reader.framing
        lane = self._lane
        while lane is not None and lane.framing is not framing:
            lane = lane.next
        if lane is None:
            counter = Counter() if self._observer is None else self._observer.counter(framing)
            lane = self._lane = Lane(self, framing, self._outbox, counter, self._lane)
        follower = reader.follower = Follower(self, reader, after, lane)
        self.attend()
        if self._observer is not None:
            self._observer.joined(follower)
        if paused:
            follower.pause()
        else:
            follower.catch_up()
        if framing.beats and self._beat_timer is None and self.terminal is None and self._heartbeat:
            self._beat_timer = asyncio.get_running_loop().call_later(self._heartbeat, self._beat)
        return follower

    def attend(self) -> None:
        """Somebody is interested: no grace timer while that is so. Undone by `neglect`."""
        self._attended += 1
        if self._grace_timer is not None:
            self._grace_timer.cancel()
            self._grace_timer = None

    def neglect(self) -> None:
        self._attended -= 1
        self.check_attendance()

    def check_attendance(self) -> None:
        """With nobody following, the turn goes on for the grace time, then it is cancelled."""
        if not self._attended and self.terminal is None and self._grace_timer is None:
            self._grace_timer = asyncio.get_running_loop().call_later(self._grace, self._abandoned)

    async def ended(self) -> None:
        """Wait for the end, as one who attends."""
        if self.terminal is not None:
            return
        self.attend()
        try:
            await self.over()
        finally:
            self.neglect()

    async def over(self) -> None:
        """Wait for the end, and keep nothing from coming to it."""
        if self.terminal is None:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters += (waiter,)
            await waiter

    def left(self, follower: Follower) -> None:
        lane = follower.lane
        if not lane.live and not lane.behind:
            if self._lane is lane:
                self._lane = lane.next
            for other in self._lanes:
                if other.next is lane:
                    other.next = lane.next
        if self._observer is not None:
            self._observer.left(follower)
        self.neglect()

    def _abandoned(self) -> None:
        self._grace_timer = None
        self.stop()

    def _beat(self) -> None:
        """After so much silence, a sign of life to every reader that needs one; one timer per turn, none per chunk."""
        silence = time.time() - seconds_of(self._said[-1] if self._said else self.opening.timestamp)
        wait = min(self._heartbeat, self._heartbeat - silence)  # the clock may have been set back
        if wait <= 0.001:
            wait = self._heartbeat
            for lane in self._lanes:
                if lane.framing.beats:
                    lane.flush()
                    lane.to_all(lane.framing.heartbeat())
        self._beat_timer = asyncio.get_running_loop().call_later(wait, self._beat) if self._lanes else None


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _nothing() -> None:
    """The turn has ended, or does not run here: there is nothing to stop."""
