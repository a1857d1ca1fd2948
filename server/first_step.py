"""A coroutine's first step, without a task.

What has nothing to wait for is over with its first step. A task for it is two passes of the loop more: of the time to a
WebSocket's first event that is a tenth. Until it waits there is no current task, so what `asyncio.timeout` guards is
begun in a task.
"""

from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class RestOf(Coroutine[Any, Any, T]):
    """What is left of a coroutine whose first `send` has given what it waits for: for a task, or to be awaited in one.
    No generator, into which nothing can be thrown before it begins: a task that is cancelled before its first step
    would leave the coroutine where it is."""

    __slots__ = ("_begun", "_fresh", "_waits_for")

    def __init__(self, begun: Coroutine[Any, Any, T], waits_for: Any) -> None:
        self._begun = begun
        self._waits_for = waits_for
        self._fresh = True
        if waits_for is not None:  # it is not being yielded now: others may wait for the same
            waits_for._asyncio_future_blocking = False

    def send(self, value: Any) -> Any:
        if not self._fresh:
            return self._begun.send(value)
        self._fresh = False
        waits_for, self._waits_for = self._waits_for, None
        if waits_for is not None:
            waits_for._asyncio_future_blocking = True
        return waits_for

    def throw(self, *failure: Any) -> Any:
        self._fresh, self._waits_for = False, None
        return self._begun.throw(*failure)

    def close(self) -> None:
        self._begun.close()

    def __await__(self) -> "RestOf[T]":
        return self

    def __iter__(self) -> "RestOf[T]":
        return self

    def __next__(self) -> Any:
        return self.send(None)
