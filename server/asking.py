"""A turn being asked: from its row in the store, through the model's pieces, to its terminal event.

1. The turn begins when the store has it: then its first events exist, members are told, and the model is asked.
2. Where a task asks the model, the terminal event belongs to the task's done callback: a task that is cancelled before
   its first step runs no line of its own, and every reader would wait for ever.
3. The terminal event is shown when the store has it, so that a crash cannot take back an end that somebody has seen.
   Where the store cannot write, it keeps the end and tries again, and the reader is not made to wait for the disk.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from proto.errors import ChatError
from proto.events import Complete, Error, Usage
from server import logs, pieces
from server.clock import whole_microseconds
from server.models import End, Message, Model, Pushing
from server.sessions import Member, Session, Sessions
from server.settings import Settings
from server.stats import Stats
from server.stores import Key, Part, Store
from server.turn import Turn, sha256

log = logging.getLogger(__name__)


class Desk(NamedTuple):
    """What every turn needs of the chat."""

    store: Store
    sessions: Sessions
    stats: Stats
    settings: Settings
    ended: Callable[["Asking"], None]
    running: Mapping[str, "Asking"]


class Asking:
    """One turn, from its beginning to its end."""

    __slots__ = (
        "_cancel",
        "_desk",
        "_failure",
        "_messages",
        "_model",
        "_over",
        "_stopped",
        "_waiters",
        "has_begun",
        "key",
        "session",
        "turn",
    )

    def __init__(self, desk: Desk, turn: Turn, session: Session, model: Model, messages: Sequence[Message]) -> None:
        self.turn = turn
        self.session = session
        self._desk = desk
        self._model = model
        self._messages = messages
        self._cancel: Callable[[], object] = _nothing  # stops the model
        self.has_begun = self._stopped = self._over = False
        self._failure: ChatError | None = None
        self._waiters: tuple[asyncio.Future[None], ...] = ()
        self.key: Key | None = None
        turn.stop = self.stop

    def begin(self, key: Key | None, asker: Member | None, whole: bool) -> None:
        """Take the session and ask the store to keep the turn; `begun` tells how it went. For `asker` and `whole` see
        `Chat.send`."""
        self.key = key
        turn, session = self.turn, self.session
        self._desk.sessions.hold(session)
        session.turn = turn
        session.active_at = turn.opening.started_at
        session.user_messages += 1
        previous, session.model = session.model, turn.model

        def done(failure: ChatError | None) -> None:
            if failure is None:
                self._start(asker, whole)
            else:
                session.model = previous
                self._refuse(failure)

        self._desk.store.begin(session.saved(), turn.opening, key, done)

    async def begun(self) -> None:
        """Wait until the turn `has_begun`; ChatError if the store could not take it."""
        if not self.has_begun and self._failure is None:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters += (waiter,)
            self.turn.attend()
            try:
                await waiter
            finally:
                self.turn.neglect()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Cancel the answer; once, for a second time would cut short what a provider has to clean up."""
        self._stopped = True
        cancel, self._cancel = self._cancel, _nothing
        cancel()

    def part(self) -> Part | None:
        """What the store does not have yet of the answer."""
        turn = self.turn
        fresh = turn.chunks_after(turn.stored)
        if not fresh:
            return None
        part = Part(turn.id, turn.stored + 1, fresh)
        turn.stored += len(fresh) // 2
        return part

    def _start(self, asker: Member | None, whole: bool) -> None:
        turn, session = self.turn, self.session
        self.has_begun = True
        turn.begin()
        if session.members:
            said = {"message_count": session.message_count, "last_message_preview": logs.preview(turn.message)}
            session.tell("message_added", {**said, "turn_id": turn.id})
        session.show(turn, asker)
        # The first events are on their way; the rest can wait for them.
        self._desk.stats.begun()
        session.say(self._messages[-1])
        if not session.stored:
            self._desk.sessions.was_stored(session)
            self._desk.stats.sessions_created += 1
        if logs.heard():
            logs.tell(
                "stream_started",
                transport=turn.transport,
                client=turn.client,
                session=session.id,
                turn=turn.id,
                message=logs.preview(turn.message),
                active_streams=len(self._desk.running),
            )
        self._wake()
        settings, model = self._desk.settings, self._model
        # Where somebody waits for the first events, the model is asked in the next pass of the loop, behind them.
        if isinstance(model, Pushing) and not settings.chunk_words and not settings.verbose:
            if whole:
                self._push(model)
            else:
                asyncio.get_running_loop().call_soon(self._push, model)
        else:
            task = asyncio.get_running_loop().create_task(self._ask())
            task.add_done_callback(self._asked)
            self._cancel = task.cancel
            if self._stopped:
                self.stop()

    def _refuse(self, failure: ChatError) -> None:
        self._failure = failure
        self.session.user_messages -= 1
        self.turn.stop = _nothing
        self._free()
        self._wake()

    def _push(self, model: Pushing) -> None:
        if self._stopped:
            self._done(End("", "cancelled"))
            return
        try:
            stop = model.push(self._messages, self.turn, self._done)
        except Exception as failure:
            self._done(_told(failure))
            return

        def cancel() -> None:
            stop()
            self._done(End("", "cancelled"))

        if not self._over:
            self._cancel = cancel

    async def _ask(self) -> End:
        settings, turn = self._desk.settings, self.turn
        answer = self._model.answer(self._messages)
        if settings.chunk_words:
            answer = pieces.regrouped(answer, settings.chunk_words, settings.chunk_interval)
        chunk, verbose = turn.chunk, settings.verbose
        try:
            async for piece in answer:
                if type(piece) is End:
                    return piece
                if piece:
                    chunk(piece if piece.isascii() else well_formed(piece))
                    if verbose:
                        self._tell_chunk(len(piece))
            return End()
        finally:
            await answer.aclose()

    def _tell_chunk(self, chars: int) -> None:
        logs.tell("chunk", turn=self.turn.id, number=self.turn.chunk_count, chars=chars)

    def _asked(self, task: asyncio.Task[End]) -> None:
        self._done(_outcome(task))

    def _done(self, outcome: End | ChatError) -> None:
        """The model is done, one way or another: the last chunk, then the end."""
        if self._over:
            return
        self._over = True
        self._cancel = _nothing  # what stops the model holds us: no cycle
        turn, session, stats = self.turn, self.session, self._desk.stats
        end = outcome if isinstance(outcome, End) else None
        error = outcome if isinstance(outcome, ChatError) else None
        if end is not None:
            turn.last_chunk(end.text if end.text.isascii() else well_formed(end.text))
            if self._desk.settings.verbose:
                self._tell_chunk(len(end.text))
        text = turn.said_all()
        if end is not None and end.usage is not None:
            usage = end.usage
        elif end is not None or text:
            usage = pieces.estimated_usage(self._messages, self._desk.settings.system, text)
        else:  # the model has refused
            usage = Usage(0, 0, True)
        usage = pieces.priced(usage, self._desk.settings.price_in, self._desk.settings.price_out)
        if text:
            session.say(Message("model", text))
            session.model_messages += 1
        session.active_at = time.time()
        session.input_tokens += usage.input_tokens
        session.output_tokens += usage.output_tokens
        session.cost += usage.cost or 0.0
        seconds = time.monotonic() - turn.started_at
        now, seq = turn.now(), turn.last_seq + 1
        terminal: Complete | Error
        if end is not None:
            first = turn.time_to_first_chunk
            terminal = Complete(
                turn.chunk_count, whole_microseconds(seconds), session.message_count, session.id, now, turn.id, seq,
                end.finish_reason, usage, None if first is None else whole_microseconds(first), sha256(text),
            )  # fmt: skip
            stats.answered(turn.transport, seconds, first, usage)
        else:
            assert error is not None
            turn.retry_after = error.retry_after
            # A provider quotes what a stranger's server has said.
            terminal = Error(well_formed(error.message), session.id, turn.id, seq, error.code, error.retryable, now)
            stats.failed(turn.transport, turn.time_to_first_chunk, usage)

        def done(failure: ChatError | None) -> None:
            if failure is not None:
                log.error("turn %s could not be stored yet: %s", turn.id, failure.message)
            self._seal(terminal, seconds)

        part = Part(turn.id, turn.stored + 1, turn.chunks_after(turn.stored))
        self._desk.store.end(session.saved(), part, turn.final, terminal, done)

    def _seal(self, terminal: Complete | Error, seconds: float) -> None:
        turn = self.turn
        self._free()
        turn.seal(terminal)
        if logs.heard():
            logs.tell(
                "stream_completed",
                transport=turn.transport,
                session=turn.session_id,
                turn=turn.id,
                chunks=turn.chunk_count,
                seconds=round(seconds, 3),
                status=terminal.finish_reason if isinstance(terminal, Complete) else terminal.code,
            )

    def _free(self) -> None:
        """The session may take another turn; whoever sees the end may send at once."""
        self.session.turn = None
        self._desk.sessions.let_go(self.session)
        self._desk.ended(self)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters = ()


def well_formed(text: str) -> str:
    """The text as every wire can carry it: half a character, which a model may send, is replaced."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _outcome(task: "asyncio.Task[End]") -> End | ChatError:
    if task.cancelled():
        return End("", "cancelled")
    failure = task.exception()
    return task.result() if failure is None else _told(failure)


def _told(failure: BaseException) -> ChatError:
    """What readers are told of a failure of the model."""
    if isinstance(failure, ChatError):
        failure.__cause__ = failure.__context__ = None  # their frames hold what was asked, and one another
        return failure.with_traceback(None)
    log.error("the model's provider failed unexpectedly", exc_info=failure)
    return ChatError("internal", "The server failed while answering; its log says more.")


def _nothing() -> None:
    """There is nothing left to stop."""
