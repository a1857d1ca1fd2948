"""A clock of a loop that a test can put on: what takes long is waited for at once, and on a busy machine nobody is late
by accident where only half a minute is too late."""

import asyncio
from collections.abc import Callable
from typing import Any


class LoopClock:
    """Made in the loop that it is for."""

    def __init__(self) -> None:
        loop: Any = asyncio.get_running_loop()
        real, self._ahead = loop.time, 0.0
        loop.time = lambda: real() + self._ahead

    async def passes(self, seconds: float) -> None:
        self._ahead += seconds
        await asyncio.sleep(0.002)  # so that everybody does what there is to do by then

    async def passes_until(self, condition: Callable[[], object]) -> None:
        while not condition():
            await self.passes(0.5)
