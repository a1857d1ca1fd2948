"""What waits: commands, one behind the other, and to be sent, messages, each behind the commands that were typed before
it, and answers to go on with."""

import asyncio
from collections import deque

from proto.requests import Cursor


class Waiting:
    def __init__(self) -> None:
        self._what: deque[tuple[int, str | Cursor]] = deque()  # each with how many commands were given before it
        self._given = 1  # commands; to arrive is the first
        self._done = 0  # of them
        self._commands: asyncio.Queue[str] = asyncio.Queue()

    def __len__(self) -> int:
        return len(self._what)

    @property
    def due(self) -> bool:
        """Whether something waits, but for no command."""
        return bool(self._what) and self._what[0][0] <= self._done

    @property
    def would(self) -> bool:
        """Whether a message that is typed now has to wait for others, or for a command."""
        return bool(self._what) or self._done < self._given

    def command_given(self, line: str) -> None:
        self._given += 1
        self._commands.put_nowait(line)

    async def next_command(self) -> str:
        return await self._commands.get()

    def command_done(self) -> None:
        self._done += 1

    def add(self, message: str) -> None:
        self._what.append((self._given, message))

    def add_first(self, what: str | Cursor) -> None:
        self._what.appendleft((0, what))

    def next(self) -> str | Cursor:
        return self._what.popleft()[1]

    def drop(self, *, due: bool) -> tuple[list[str], list[str]]:
        """What waits for a command is not wanted any more, be it a command itself, nor, so said, what is due; the
        messages and the commands among that."""
        kept = [] if due else [waiting for waiting in self._what if waiting[0] <= self._done]
        dropped = [what for _, what in self._what][len(kept) :]
        self._what = deque(kept)
        commands = []
        while not self._commands.empty():
            commands.append(self._commands.get_nowait())
            self.command_done()
        return [what for what in dropped if isinstance(what, str)], commands
