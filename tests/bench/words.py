"""What every peer says: the same answer in the same pieces, asked for by the same model id, at the same pace."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime

TICK_SECONDS = 0.004
PIECES = (
    "You ", "asked ", "about ", "the ", "weather ", "in ", "Lisbon. ", "Here ", "is ", "what ", "I ", "can ", "say: ",
    "the ", "conversation ", "so ", "far ", "holds ", "one ", "message ", "of ", "yours, ", "and ", "this ", "answer ",
    "streams ", "piece ", "by ", "piece, ", "as ", "a ", "language ", "model ", "would ", "do ", "it.\n",
)  # fmt: skip
_MODEL = re.compile(r"demo\?chunks=(\d+)&rate=([\d.]+)")


def asked(model_id: str) -> tuple[int, float]:
    """How many pieces, and how many a second (0: as fast as possible), a model id asks for."""
    match = _MODEL.search(model_id)
    return (int(match[1]), float(match[2])) if match else (50, 40.0)


def pieces(count: int) -> list[str]:
    return (list(PIECES) * (count // len(PIECES) + 1))[:count]


async def answer(model_id: str) -> AsyncIterator[str]:
    """The model of the peers: one sleep for each piece, up to the tick in which it is due, so that pieces come together
    as often as those of our demo model do."""
    count, rate = asked(model_id)
    now = asyncio.get_running_loop().time
    start = now()
    for number, piece in enumerate(pieces(count), 1):
        if rate:
            tick = int((start + number / rate) / TICK_SECONDS) + 1
            await asyncio.sleep(tick * TICK_SECONDS - now())
        yield piece


def timestamp() -> str:
    return datetime.now(UTC).isoformat()
