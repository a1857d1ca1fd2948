"""What a provider of models is to the chat: something that turns a conversation into pieces of text.

1. `Model.answer` is an async generator. It yields text pieces as they come and, at the end, at most one `End`, which
   may carry the last text. A generator that ends without `End` ended well (`stop`).
   A `Pushing` model hands its pieces over by calls instead: it needs no task, nor a wake-up per piece.
2. It is stopped by cancelling the task that reads it, or by `aclose()`; either must end the request upstream at once.
3. Its failures are `ChatError`s: `model_error`, `model_timeout`, `rate_limited`, `invalid_request` (no such model). The
   provider's own exceptions are translated in the provider's file, and no message of theirs carries a key.
4. What every provider over a network needs is here as well: patience (time limits, and retries only before the first
   piece: what the user has read cannot be taken back), and the conversation in the form that models take.
"""

import asyncio
import random
from abc import abstractmethod
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar, cast, final

from proto.answers import ModelInfo
from proto.errors import ChatError
from proto.events import Usage

MAX_QUOTED_CHARS = 300


class Message(NamedTuple):
    """One message of the conversation; `role` is user or model."""

    role: str
    text: str


@final
class End(NamedTuple):
    """A model's last word: the last text (may be empty), why it ended, what it used."""

    text: str = ""
    finish_reason: str = "stop"
    usage: Usage | None = None


Pieces = AsyncGenerator[str | End, None]


class Model(Protocol):
    """One model that can be asked."""

    @property
    def id(self) -> str: ...

    def answer(self, messages: Sequence[Message]) -> Pieces:
        """Answer the last message (the user's) in the light of those before it."""


class Listener(Protocol):
    """Who hears the answer of a model that pushes."""

    def chunk(self, text: str) -> object:
        """The next piece."""


Done = Callable[[End | ChatError], object]
Stop = Callable[[], object]


class _Queue(asyncio.Queue[str | End | ChatError]):
    chunk = asyncio.Queue.put_nowait


class Pushing:
    """A model that pushes. Nothing is called after the answer was stopped."""

    id: str

    @abstractmethod
    def push(self, messages: Sequence[Message], listener: Listener, done: Done) -> Stop:
        """Begin to answer, or answer: a `chunk` for each piece, then `done` once. What is returned stops it."""

    async def answer(self, messages: Sequence[Message]) -> Pieces:
        """The same as a generator, for whoever has something to do with the pieces on the way."""
        said = _Queue()
        stop = self.push(messages, said, said.put_nowait)
        try:
            while True:
                piece = await said.get()
                if isinstance(piece, ChatError):
                    raise piece
                yield piece
                if isinstance(piece, End):
                    return
        finally:
            stop()


class Provider(Protocol):
    """A family of models behind one SDK, server or algorithm."""

    @property
    def name(self) -> str: ...

    def model(self, model_id: str) -> Model:
        """The model with this id; ChatError `invalid_request` if the id cannot be one of this provider's."""

    async def models(self) -> list[ModelInfo]:
        """What can be asked here, as far as the provider tells."""

    async def close(self) -> None: ...


MAX_TOKENS = 2**31 - 1  # that every wire and the store can carry


def told_usage(asked: object, answered: object) -> Usage | None:
    """What a turn has used, if these are numbers of tokens: some other program says so."""
    for told in (asked, answered):
        if not isinstance(told, int) or not 0 <= told <= MAX_TOKENS:
            return None
    return Usage(cast(int, asked), cast(int, answered), False)


class Patience(NamedTuple):
    """How long a model may take, in seconds. One that asks for more than `longest_wait` before the next attempt gets
    none: the user is told how long it will take instead."""

    first_piece: float = 60.0
    next_piece: float = 30.0
    retries: int = 2
    first_wait: float = 0.5
    longest_wait: float = 5.0


PATIENCE = Patience()
Piece = TypeVar("Piece")


async def patient(
    attempt: Callable[[], AsyncGenerator[Piece, None]], patience: Patience
) -> AsyncGenerator[Piece, None]:
    """What an attempt yields, within the time limits; before its first piece, as many attempts as patience allows."""
    pieces = attempt()
    retries, wait = patience.retries, patience.first_wait
    failure: ChatError | None = None
    try:
        try:
            async with asyncio.timeout(patience.first_piece):
                while True:
                    try:
                        piece = await anext(pieces)
                        break
                    except ChatError as error:
                        failure = error
                        # Not all at once: those who failed together would come back together.
                        pause = max(wait * random.uniform(1, 1.5), error.retry_after or 0)
                        if not (error.retryable and retries) or pause > patience.longest_wait:
                            raise
                    retries, wait = retries - 1, wait * 2
                    await asyncio.sleep(pause)
                    pieces = attempt()
        except TimeoutError:
            raise failure or _silent(patience.first_piece) from None
        while True:
            yield piece
            try:
                async with asyncio.timeout(patience.next_piece):
                    piece = await anext(pieces)
            except TimeoutError:
                raise _silent(patience.next_piece) from None
    except StopAsyncIteration:
        return
    finally:
        await pieces.aclose()


def _silent(seconds: float) -> ChatError:
    return ChatError("model_timeout", f"The model has sent nothing for {seconds:g} seconds.")


def broken() -> ChatError:
    """For an answer that stops in the middle."""
    return ChatError("model_error", "The connection to the model broke before its answer was complete.", retryable=True)


def alternating(messages: Sequence[Message]) -> list[Message]:
    """The conversation with one message a role at a time: a turn without an answer leaves two questions in a row, and
    many models refuse that."""
    merged: list[Message] = []
    for message in messages:
        if merged and merged[-1].role == message.role:
            merged[-1] = message._replace(text=f"{merged[-1].text}\n\n{message.text}")
        else:
            merged.append(message)
    return merged


def quoted(message: object, key: str | None) -> str:
    """What a provider says about a failure, fit to be shown: one line, bounded, and without the key."""
    text = " ".join(str(message or "").split())
    if key:
        text = text.replace(key, "***")
    return text if len(text) <= MAX_QUOTED_CHARS else text[:MAX_QUOTED_CHARS] + "..."
