"""What Tab offers: commands, and for their arguments sessions, models, protocols and files."""

import time
from collections.abc import AsyncGenerator, Iterable

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

from client.actions import PAGE, TABLE, Seat
from client.commands import Unclear
from client.settings import PROTOCOLS
from client.text import clean_line
from client.transports import ConnectionLost
from proto.errors import ChatError

FRESH_SECONDS = 5.0  # what the server told is asked again after that


class Completions(Completer):
    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self._asked: dict[str, float] = {}

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """The asynchronous way below is the one that the prompt takes."""
        return ()

    async def get_completions_async(
        self, document: Document, complete_event: CompleteEvent
    ) -> AsyncGenerator[Completion, None]:
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        name, blank, argument = text.partition(" ")
        if not blank:
            for command in TABLE.beginning(name.removeprefix("/").lower()):
                yield Completion(f"/{command.name}", -len(name), display=command.usage, display_meta=command.help)
            return
        try:
            choices = TABLE.find(name).choices
        except Unclear:
            return
        if choices == "files":
            for path in PathCompleter(expanduser=True).get_completions(Document(argument), complete_event):
                yield path
            return
        for word, meta in await self._choices(choices):
            if word.startswith(argument):
                yield Completion(word, -len(argument), display_meta=meta)

    async def _choices(self, choices: str) -> list[tuple[str, str]]:
        seat = self._seat
        if choices == "commands":
            return [(command.name, command.help) for command in TABLE.commands.values()]
        if choices == "protocols":
            return [(name, "now" if name == seat.talk.protocol else "") for name in PROTOCOLS]
        try:
            await self._ask(choices)
        except (ChatError, ConnectionLost):
            pass  # what was known is offered
        if choices == "models":
            return [(clean_line(name), "") for name in seat.models]
        if choices == "sessions":
            return [(one.session_id, clean_line(f"{one.message_count} messages, {one.model}")) for one in seat.sessions]
        return []

    async def _ask(self, choices: str) -> None:
        if time.monotonic() - self._asked.get(choices, -FRESH_SECONDS) < FRESH_SECONDS or not self._seat.talk.connected:
            return
        self._asked[choices] = time.monotonic()
        if choices == "sessions":
            self._seat.sessions = (await self._seat.talk.transport.sessions(PAGE)).sessions
        elif choices == "models":
            self._seat.models = [one.id for one in (await self._seat.talk.transport.models()).models]
