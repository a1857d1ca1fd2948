"""A coroutine's first step, without a task.

What has nothing to wait for is over with its first step. A task for it is two passes of the loop more: of the time to a
WebSocket's first event that is a tenth. Until it waits there is no current task, so what `asyncio.timeout` guards is
begun in a task.
"""

from collections.abc import Coroutine, Generator
from types import coroutine
from typing import Any, TypeVar

T = TypeVar("T")


@coroutine
def rest_of(begun: Coroutine[Any, Any, T], waits_for: Any) -> Generator[Any, Any, T]:
    """What is left of a coroutine whose first `send` has given what it waits for: to be awaited in a task."""
    while True:
        try:
            try:
                told = yield waits_for
            except BaseException as failure:
                waits_for = begun.throw(failure)
            else:
                waits_for = begun.send(told)
        except StopIteration as end:
            value: T = end.value
            return value
