"""What Tab offers: commands, and for their arguments sessions, models, protocols and files."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

from client.actions import PAGE, TABLE
from client.commands import Unclear
from client.conversation import Conversation
from client.settings import PROTOCOLS
from client.text import clean_line
from client.transports import ConnectionLost
from client.wording import counted
from proto.errors import ChatError

FRESH_SECONDS = 5.0  # what the server told is asked again after that


class Completions(Completer):
    def __init__(self, talk: Conversation) -> None:
        self._talk = talk
        self._told: dict[str, list[tuple[str, str]]] = {}
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
        if choices == "commands":
            return [(command.name, command.help) for command in TABLE.commands.values()]
        if choices == "protocols":
            return [(name, "now" if name == self._talk.protocol else "") for name in PROTOCOLS]
        if choices == "pages":
            return [("more", "the next page")]
        try:
            await self._ask(choices)
        except (ChatError, ConnectionLost):
            pass  # what was known is offered
        return self._told.get(choices, [])

    async def _ask(self, choices: str) -> None:
        if time.monotonic() - self._asked.get(choices, -FRESH_SECONDS) < FRESH_SECONDS or not self._talk.connected:
            return
        self._asked[choices] = time.monotonic()
        try:
            await self._fetch(choices)
        except asyncio.CancelledError:
            del self._asked[choices]  # nobody was told
            raise

    async def _fetch(self, choices: str) -> None:
        if choices == "sessions":
            found = (await self._talk.transport.sessions(PAGE)).sessions
            self._told[choices] = [
                (clean_line(one.session_id), clean_line(f"{counted(one.message_count, 'message')}, {one.model}"))
                for one in found
            ]
        elif choices == "models":
            self._told[choices] = [(clean_line(one.id), "") for one in (await self._talk.transport.models()).models]
