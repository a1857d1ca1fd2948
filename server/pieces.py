"""What is done to a conversation before the model is asked, and to its pieces and its usage afterwards."""

import asyncio
import re
from collections.abc import Sequence

from proto.answers import HistoryMessage
from proto.events import Usage
from server.models import End, Message, Pieces
from server.settings import Settings
from server.stores import SavedTurn

CHARS_PER_TOKEN = 4
TOKENS_PER_PRICE = 1_000_000
# A run of this many characters without a blank counts as a word: a language that writes none must flow too.
MAX_WORD_CHARS = 32


def bounded(
    messages: Sequence[Message], max_messages: int | None, max_chars: int | None
) -> tuple[Sequence[Message], int]:
    """The newest messages within both bounds (None: no bound), and how many older ones are left out. The last message
    is always kept, and the kept ones begin with the user: models refuse a conversation that begins with an answer."""
    earliest = 0 if max_messages is None else max(0, len(messages) - max(1, max_messages))
    first = earliest if max_chars is None else len(messages) - 1
    chars = len(messages[first].text)
    while first > earliest:
        chars += len(messages[first - 1].text)
        if max_chars is not None and chars > max_chars:
            break
        first -= 1
    while messages[first].role != "user" and first < len(messages) - 1:
        first += 1
    return (messages[first:] if first else messages), first


def estimated_tokens(text: str) -> int:
    return -(-len(text) // CHARS_PER_TOKEN)


def estimated_usage(messages: Sequence[Message], system: str | None, answer: str) -> Usage:
    """What a turn has used, where the model does not tell."""
    asked = estimated_tokens(system) if system else 0
    for message in messages:  # the whole conversation, at every turn: no call of a function for each
        asked -= -len(message.text) // CHARS_PER_TOKEN
    return Usage(asked, estimated_tokens(answer), True)


def priced(usage: Usage, price_in: float | None, price_out: float | None) -> Usage:
    """The usage with its cost, at so much per million tokens; as it was where no price is set."""
    if price_in is None and price_out is None:
        return usage
    cost = usage.input_tokens * (price_in or 0.0) + usage.output_tokens * (price_out or 0.0)
    return usage._replace(cost=cost / TOKENS_PER_PRICE)


def usage_of_interrupted(settings: Settings, turn: SavedTurn, history: Sequence[HistoryMessage]) -> Usage:
    """What a turn has used that a crash has cut, as far as is known; the history ends with its question."""
    shown = [Message(message.role, message.text) for message in history][-max(1, turn.context_messages) :]
    usage = estimated_usage(shown, settings.system, "".join(turn.chunks[::2]))
    return priced(usage, settings.price_in, settings.price_out)


async def regrouped(pieces: Pieces, words: int, interval_seconds: float) -> Pieces:
    """The same text, `words` words a piece and one piece every `interval_seconds`, for reading pleasure.

    A task of its own reads ahead, so that the pace of the model and that of the reader do not add up. A failure comes
    after the text before it, as it would without regrouping.
    """
    group = re.compile(rf"(?:\s*+(?:\S{{{MAX_WORD_CHARS}}}|\S{{1,{MAX_WORD_CHARS - 1}}}+\s++)){{{words}}}")
    text, end = "", End()
    arrived = asyncio.Event()

    async def read() -> None:
        nonlocal text, end
        async for piece in pieces:
            if isinstance(piece, End):
                end = piece
            text += piece.text if isinstance(piece, End) else piece
            arrived.set()

    clock = asyncio.get_running_loop().time
    due = clock()
    reader = asyncio.create_task(read())
    reader.add_done_callback(lambda _: arrived.set())
    try:
        while True:
            while not (found := group.match(text)) and not reader.done():
                arrived.clear()
                await arrived.wait()
            if found or text:
                await asyncio.sleep(due - clock())
                due = max(due, clock()) + interval_seconds
            if reader.done() and (not found or found.end() == len(text)):
                break
            if found:
                yield found.group()
                text = text[found.end() :]
        if text and not reader.cancelled() and reader.exception():
            yield text
        reader.result()
        yield end._replace(text=text)
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        await pieces.aclose()
