"""One message, or one a line of standard input: the answers on standard output, and an exit code that tells."""

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import aclosing
from typing import TextIO

from client.commands import split
from client.console import Console
from client.conversation import Conversation
from client.markdown import Markdown
from client.text import clean, clean_json
from client.transports import ConnectionLost, Update
from client.wording import no_session_over_grpc
from client.wrap import Wrap
from proto.errors import ChatError
from proto.events import Chunk, Complete, Error, Event, SessionInfo, as_json

OK, REFUSED, WRONG_USAGE, NO_CONNECTION, INTERRUPTED = 0, 1, 2, 3, 130
LEFT = 141  # whoever reads has enough; what a shell says of a program that a closed pipe ends


class Unreadable(Exception):
    """Standard input cannot be read; the message says why."""


class Reader:
    """The audience of a pipe: it is told on standard error why it waits, and of nobody else."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told = False

    def updated(self, update: Update) -> None:
        pass

    def overheard(self, event: Event) -> None:
        pass

    def cut(self, error: Exception, seconds: float) -> None:
        if not self._told:
            self._told = True
            self._console.fail(f"{error} Trying again.")

    def mended(self) -> None:
        self._told = False

    def moved(self) -> None:
        pass

    def joined(self) -> None:
        pass


class Page:
    """A terminal that is written on once: text comes out as soon as its place on the line is certain."""

    def __init__(self, console: Console, raw: bool) -> None:
        self._console = console
        self._wrap = Wrap(lambda: console.columns, console.paint)
        self._markdown = Markdown(self._wrap, raw)
        self._written = 0  # characters of the current line

    def add(self, text: str) -> None:
        self._show(self._markdown.feed(text))

    def end(self) -> None:
        self._show(self._markdown.close())

    def _show(self, lines: list[str]) -> None:
        for line in lines:
            self._console.write(line[self._written :] + "\n")
            self._written = 0
        settled = self._wrap.settled
        self._console.write(settled[self._written :])
        self._written = len(settled)


async def lines_of(stream: TextIO) -> AsyncIterator[str]:
    """The lines of a pipe, each read when it is wanted: the pipe may be endless. It is waited for in a thread that
    nobody waits for: Ctrl-C ends us, not a last line."""

    def read(line: "Future[str]") -> None:
        line.set_running_or_notify_cancel()  # from now on it takes a result, also where nobody wants that any more
        try:
            line.set_result(stream.readline())
        except OSError as error:
            line.set_exception(Unreadable(f"Standard input cannot be read: {error.strerror}."))

    while True:
        line: Future[str] = Future()
        threading.Thread(target=read, args=(line,), daemon=True).start()
        if not (text := await asyncio.wrap_future(line)):
            return
        yield text


async def typed(lines: AsyncIterator[str], console: Console) -> AsyncIterator[str]:
    """Lines of a terminal that cannot show the prompt. Who types there may think of its commands."""
    from client.actions import TABLE  # which takes prompt_toolkit along

    console.fail("without a terminal for the prompt, messages are read one a line; Ctrl-D ends")
    async for line in lines:
        name, _ = split(line.strip())
        if name.startswith("/") and TABLE.beginning(name.removeprefix("/").lower()):
            console.fail(f"not sent: {name} is a command of the prompt, and there is none here")
        else:
            yield line


async def one(message: str) -> AsyncIterator[str]:
    yield message


async def run(
    conversation: Conversation, messages: AsyncIterator[str], console: Console, *, json: bool, plain: bool
) -> int:
    """Ask them all, one after the other, in one session; the first failure ends it."""
    try:
        async for message in messages:
            if message.strip():
                code = await _answer(conversation, message.rstrip("\r\n"), console, json, plain)
                if code != OK:
                    return code
    except ChatError as error:
        missing = error.code == "not_found" and conversation.protocol == "grpc"
        console.fail(f"{no_session_over_grpc(conversation.session_id)}." if missing else error.message)
        return REFUSED
    except ConnectionLost as error:
        console.fail(str(error))
        return NO_CONNECTION
    except Unreadable as error:
        console.fail(str(error))
        return WRONG_USAGE
    return OK


def _end(page: Page | None, console: Console) -> None:
    """The answer has come so far, and no farther."""
    if page is not None:
        page.end()
    console.end_line()


async def _answer(conversation: Conversation, message: str, console: Console, json: bool, plain: bool) -> int:
    page = Page(console, plain) if console.terminal and not json else None
    named = conversation.session_id
    try:
        async with aclosing(conversation.ask(message)) as events:
            async for event in events:
                if json:
                    console.write(clean_json(as_json(event)) + "\n")
                elif isinstance(event, SessionInfo) and event.is_new_session and named is not None:
                    console.fail(f"the session '{named}' is new")
                elif isinstance(event, Chunk):
                    if page is not None:
                        page.add(event.text)
                    else:
                        console.write(clean(event.text))
    except (ChatError, ConnectionLost, asyncio.CancelledError):  # not where it is the writing that fails
        _end(page, console)
        raise
    _end(page, console)
    end = conversation.progress.end if conversation.progress else None
    if isinstance(end, Error):
        console.fail(end.message)
        return REFUSED
    if isinstance(end, Complete) and end.finish_reason != "stop" and not json:
        console.fail(f"the answer is not whole: {end.finish_reason}")
    return OK
