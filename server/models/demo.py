"""The built-in model: no network, no key, always the same answer to the same conversation, and aware of all of it.

`demo?chunks=200&rate=40` streams 200 pieces at 40 a second (`rate=0`: as fast as it can), `&fail_after=5` breaks after
5 pieces: for trying out proxies, clients and load.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from typing import NamedTuple
from urllib.parse import parse_qsl

from proto.answers import ModelInfo
from proto.errors import ChatError
from proto.requests import invalid
from server.models import Done, End, Listener, Message, Pushing, Stop

log = logging.getLogger(__name__)

DEFAULT_RATE = 25.0
MAX_CHUNKS = 100_000
MAX_RATE = 10_000.0
SHORTEST_BEAT_SECONDS = 0.002
CATCH_UP_SECONDS = 1.0  # a server that was busy for longer starts its beat anew
MAX_PACES = 64
BREATH_PIECES = 16  # with rate=0, after how many pieces the others get a turn
QUOTED_CHARS = 80

_WHOLE = re.compile(r"\d{1,9}", re.ASCII)
_VALUES = {"chunks": _WHOLE, "rate": re.compile(r"\d{1,9}(\.\d{1,3})?", re.ASCII), "fail_after": _WHOLE}
_PIECE = re.compile(r"\s*\S+\s*")
_FILLER = (
    "A stream is a promise kept in small steps. Each piece arrives when it is ready, carries its number, and can be "
    "asked for again. Pull the cable in the middle of this sentence, plug it in elsewhere, and the next word is still "
    "the next word. "
)
_WORDS = _PIECE.findall(_FILLER)


class Settings(NamedTuple):
    """What stands behind the `?` of a demo model's id."""

    chunks: int | None = None
    rate: float = DEFAULT_RATE
    fail_after: int | None = None


class Demo:
    """The provider of `demo` and `demo?...`."""

    name = "demo"

    def __init__(self) -> None:
        self._paces: dict[float, Pace] = {}

    def model(self, model_id: str) -> "DemoModel":
        return DemoModel(model_id, settings(model_id), self._pace)

    def _pace(self, rate: float) -> "Pace":
        pace = self._paces.get(rate)
        if pace is None:
            if len(self._paces) >= MAX_PACES:  # rates come from strangers; those in use go on without the table
                self._paces.clear()
            pace = self._paces[rate] = Pace(rate)
        return pace

    async def models(self) -> list[ModelInfo]:
        return [ModelInfo("demo", self.name)]

    async def close(self) -> None:
        """Nothing is open."""


class DemoModel(Pushing):
    """One demo model with its settings."""

    def __init__(self, model_id: str, chosen: Settings, pace: Callable[[float], "Pace"]) -> None:
        self.id = model_id
        self._settings = chosen
        self._pace = pace
        # What it always says, where it is told how many words.
        self._script = None if chosen.chunks is None or chosen.fail_after is not None else _ended(_WORDS, chosen.chunks)

    def push(self, messages: Sequence[Message], listener: Listener, done: Done) -> Stop:
        speech = Speech(*(self._script or self._composed(messages)), listener, done)
        if self._settings.rate:
            self._pace(self._settings.rate).add(speech)
        else:
            speech.hurry()
        return speech.stop

    def _composed(self, messages: Sequence[Message]) -> tuple[list[str], int, End | ChatError]:
        chunks, _, fail_after = self._settings
        pieces = _WORDS if chunks is not None else _pieces(compose(messages))
        count = len(pieces) if chunks is None else chunks
        if fail_after is None:
            return _ended(pieces, count)
        count = min(count, fail_after)
        broken = f"The demo model broke after {count} pieces, as asked."
        return pieces, count, ChatError("model_error", broken, retryable=True)


def _ended(pieces: list[str], count: int) -> tuple[list[str], int, End]:
    """So many of the pieces, the last of which is the end."""
    return pieces, count - 1, End(pieces[(count - 1) % len(pieces)])


class Speech:
    """One answer on its way: so many of the pieces, over and over again if need be, then the end."""

    __slots__ = ("_done", "_end", "count", "listener", "over", "pieces", "said")

    def __init__(self, pieces: list[str], count: int, end: End | ChatError, listener: Listener, done: Done) -> None:
        self.pieces = pieces
        self.count = count
        self.said = 0
        self.listener = listener
        self.over = False
        self._end = end
        self._done = done

    def stop(self) -> None:
        """It is found out at the next beat, which may be far away: until then it holds nobody."""
        if not self.over:
            self.over = True
            self.count = 0
            del self.listener, self._done, self.pieces, self._end

    def finish(self) -> None:
        """There are no more pieces: the end, if it was not stopped."""
        if not self.over:
            self.over = True
            self._done(self._end)

    def fail(self) -> None:
        """A bug of the listener is no matter for the others of this beat."""
        log.exception("the listener failed")
        if not self.over:
            self.over = True
            self.count = 0
            self._done(ChatError("internal", "The server failed while answering; its log says more."))

    def hurry(self) -> None:
        """As fast as it can, with a breath for the others now and then."""
        left = self.count - self.said + 1  # the pieces, and the end
        over = self.over or advance(repeat(self, min(left, BREATH_PIECES)))  # it may have been stopped in the meantime
        if not over:
            asyncio.get_running_loop().call_soon(self.hurry)


def advance(speeches: Iterable[Speech]) -> bool:
    """The next piece of each, or its end; whether any is over. The hot path of the demo: once per piece of every
    answer."""
    over = False
    for speech in speeches:
        said = speech.said
        if said < speech.count:
            speech.said = said + 1
            pieces = speech.pieces
            try:
                speech.listener.chunk(pieces[said % len(pieces)])
            except Exception:
                speech.fail()
                over = True
        else:
            speech.finish()
            over = True
    return over


class Pace:
    """The beat of all answers of one rate: one timer for all of them, because with thousands of streams a timer and a
    task each would cost more than the rest of the server."""

    def __init__(self, rate: float) -> None:
        self._interval = max(1 / rate, SHORTEST_BEAT_SECONDS)
        self._pieces = rate * self._interval  # how many a beat is worth: 1, but for very high rates
        self._credit = 0.0
        self._speeches: list[Speech] = []
        self._due = 0.0

    def add(self, speech: Speech) -> None:
        if not self._speeches:
            self._due = asyncio.get_running_loop().time()
            self._next()
        self._speeches.append(speech)

    def _next(self) -> None:
        """The next beat is due at its time, also when this one was late: a busy server catches up."""
        loop = asyncio.get_running_loop()
        self._due += self._interval
        if self._due < loop.time() - CATCH_UP_SECONDS:
            self._due = loop.time() + self._interval
        loop.call_at(self._due, self._beat)

    def _beat(self) -> None:
        self._credit += self._pieces
        while self._credit >= 1:
            self._credit -= 1
            if advance(self._speeches):
                self._speeches = [speech for speech in self._speeches if not speech.over]
        if self._speeches:
            self._next()


def settings(model_id: str) -> Settings:
    """The settings in a demo model's id, or `invalid_request`."""
    _, _, query = model_id.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    found = dict(pairs)
    if not all(name in _VALUES and _VALUES[name].fullmatch(value) for name, value in pairs):
        raise invalid(
            "A demo model takes numbers, only the rate with a fraction: demo?chunks=200&rate=40&fail_after=5."
        )
    chosen = Settings(
        int(found["chunks"]) if "chunks" in found else None,
        float(found.get("rate", DEFAULT_RATE)),
        int(found["fail_after"]) if "fail_after" in found else None,
    )
    if (chosen.chunks is not None and not 1 <= chosen.chunks <= MAX_CHUNKS) or chosen.rate > MAX_RATE:
        raise invalid(f"A demo model makes 1 to {MAX_CHUNKS} chunks, at most {MAX_RATE:.0f} a second.")
    return chosen


def _pieces(text: str) -> list[str]:
    return _PIECE.findall(text)


def compose(messages: Sequence[Message]) -> str:
    """The answer: what was asked, where the conversation stands, what was said before."""
    return "".join(_paragraphs(messages)).strip() + "\n"


def _paragraphs(messages: Sequence[Message]) -> Iterator[str]:
    asked = [message.text for message in messages if message.role == "user"]
    question, earlier = asked[-1], asked[:-1]
    words = len(question.split())
    yield f"You said **{_quoted(question)}**"
    yield f" ({words} word{'s' if words != 1 else ''}). "
    if not earlier:
        yield "This is the first message of our conversation, so there is nothing else I could know about you yet. "
        yield "Say one more thing, and you will see that I remember this one.\n\n"
    else:
        yield f"It is message {len(asked)} of our conversation. Before it, you told me:\n\n"
        shown = earlier[-4:]
        for number, text in enumerate(shown, len(earlier) - len(shown) + 1):
            yield f"{number}. {_quoted(text)}\n"
        yield "\n"
        if question in earlier:
            yield f"You asked the very same as message {earlier.index(question) + 1}; I keep my word and say so. "
        longest = max(earlier, key=len)
        if len(earlier) > 1:
            yield f"The longest of these was {_quoted(longest)}. "
    yield "I am the `demo` model: I need no key and no network, I answer the same conversation with the same words, "
    yield "and I speak one word at a time, so that you can watch a stream work:\n\n"
    yield "- every word you see is an event with a number of its own,\n"
    yield "- a lost connection goes on behind the last number you have,\n"
    yield "- and it may go on over **another transport** than the one it began on.\n"


def _quoted(text: str) -> str:
    """A message on one line, shortened, with what markdown would take for its own left out."""
    line = re.sub(r"[*_`#<>\[\]\\]", "", " ".join(text.split()))
    return f"“{line if len(line) <= QUOTED_CHARS else line[: QUOTED_CHARS - 1].rstrip() + '…'}”"
