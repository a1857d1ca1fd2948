"""The prompt: what is typed, what is shown around it, and who does what with it.

1. The prompt never goes away: a message is answered, and a command performed, by a worker each, in the order they were
   typed. Messages wait for answers, also for somebody else's in the session; commands do not. But both wait for the
   commands typed before them, which may lead to another session, and are dropped where one of those fails.
2. Ctrl-C is for the answer: the server stops the model, and the answer ends as `cancelled`. Where nobody answers that,
   a second one lets go of it. What waits is not sent then. The client is left by Ctrl-D or /quit only.
"""

import asyncio
import signal
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing, suppress
from typing import TypeVar

from prompt_toolkit import PromptSession
from prompt_toolkit.formatted_text import AnyFormattedText
from prompt_toolkit.patch_stdout import patch_stdout

from client.actions import perform
from client.conversation import Conversation
from client.input import prompt_session, typed_ahead
from client.others import Others
from client.paint import Style
from client.presence import Presence
from client.prompt import prompt_line, toolbar
from client.question import Question
from client.render import Growing, summary
from client.screen import Screen
from client.seat import Seat
from client.text import clean_line, shortened
from client.transports import ConnectionLost, Update
from client.waiting import Waiting
from client.wording import counted, dropped, no_session_over_grpc
from proto.errors import ChatError
from proto.events import Error, Event, SessionInfo
from proto.requests import Cursor

REFRESH_SECONDS = 0.1  # of the toolbar while an answer grows
PATIENCE_SECONDS = 1.5  # for the server to end an answer that was cancelled
HEARD_SECONDS = 1.0  # behind a refusal, until the answer is heard of for whose sake it was

NO_ANSWER = "Your message has no answer; the Up key recalls it."

Result = TypeVar("Result")


class Repl:
    def __init__(self, screen: Screen, raw: bool) -> None:
        self.screen = screen
        self.raw = raw
        self._talk: Conversation | None = None
        self._presence: Presence | None = None
        self._others: Others | None = None
        self._waiting = Waiting()
        self._wake = asyncio.Event()  # the next of them may be due
        self._question = Question(screen)
        self._growing: Growing | None = None
        self._reading: asyncio.Task[None] | None = None
        self._cancelled = False
        self._left = False
        self._told_cut = False

    @property
    def talk(self) -> Conversation:
        assert self._talk is not None
        return self._talk

    @property
    def presence(self) -> Presence:
        assert self._presence is not None
        return self._presence

    @property
    def others(self) -> Others:
        assert self._others is not None
        return self._others

    # The loop

    async def run(self, talk: Conversation, session_id: str | None) -> int:
        self._talk, self._presence, self._others = talk, Presence(talk), Others(talk, self.screen, self.raw)
        seat = Seat(talk, self.screen, self.raw, lambda: self._waiting.due, self._first, self.leave, self._question.ask)
        prompt = prompt_session(talk, self.interrupt, self._prompt, self._toolbar, self._presence.typed)
        self.screen.prompt = prompt
        loop = asyncio.get_running_loop()
        for number, action in ((signal.SIGINT, self.interrupt), (signal.SIGTERM, self.leave)):
            with suppress(NotImplementedError):  # Windows
                loop.add_signal_handler(number, action)
        self._greet()
        await self.screen.flush()  # before the prompt: some terminals keep what is erased from their first line on
        tasks = [
            loop.create_task(self._answer_all()),
            loop.create_task(self._obey(seat, session_id)),
            loop.create_task(self._refresh()),
        ]
        try:
            with patch_stdout(raw=True), typed_ahead(prompt):
                await self._prompts(prompt)
        finally:
            talk.go()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._drop_waiting()
            if talk.session_id is not None and talk.has_messages:
                self.screen.lines([clean_line(f"To go on with this session: --session {talk.session_id}")])
            await self.screen.flush()
        return 0

    async def _prompts(self, prompt: PromptSession[str]) -> None:
        while not self._left:
            try:
                text = await prompt.prompt_async(handle_sigint=False)
            except EOFError:
                return
            self.presence.tell(False)
            text = text.strip("\n").rstrip()
            if self._question.answered_by(text) or not text.strip():
                continue
            if text.startswith("/"):
                self.screen.said("You", text, Style.YOU)
                self._waiting.command_given(text)
                continue
            if self._reading is not None or self.others.growing is not None or self._waiting.would:
                self.screen.said("Waiting", text, Style.DIM)
            self._waiting.add(text)
            self._wake.set()

    async def _obey(self, seat: Seat, session_id: str | None) -> None:
        """Commands, one after the other."""
        await self._safely(self._arrive(session_id))
        while True:
            self._waiting.command_done()
            self._wake.set()
            line = await self._waiting.next_command()
            if not await self._safely(perform(seat, line)):
                self._drop_waiting(due=False)  # what was typed behind it is not meant for where we still are

    async def _answer_all(self) -> None:
        """Messages, one after the other; none while somebody else is answered, for the server would refuse it."""
        while True:
            self._wake.clear()
            if self._waiting.due and self.others.growing is None:
                await self._safely(self._answer(self._waiting.next()))
            else:
                await self._wake.wait()

    async def _safely(self, work: Awaitable[Result]) -> Result | None:
        try:
            return await work
        except Exception as error:  # a bug of ours is no reason for the prompt to fall silent
            self.screen.fail(f"This is a bug of the client: {clean_line(repr(error))}")
            return None
        finally:
            self.screen.refresh()

    def _greet(self) -> None:
        talk, paint = self.talk, self.screen.paint
        self.screen.lines([f"{paint('fivewire', Style.HEADING)} · {talk.protocol} · {talk.url}"])
        self.screen.note("/help lists the commands, Alt-Enter begins a new line, Ctrl-D leaves.")

    async def _arrive(self, session_id: str | None) -> None:
        """The first thing to know: whether anybody is there."""
        self.talk.session_id = session_id  # also where nobody answers yet
        try:
            await self.talk.connect()
            if session_id is None:
                return
            detail = await self.talk.transport.session(session_id)
            self.screen.note(f"Going on with {counted(detail.message_count, 'message')}; /history shows them.")
            await self.talk.enter(session_id, detail.model, detail.message_count > 0)
            if detail.active_turn and not self.talk.transport.live:  # else it is heard
                self._first(Cursor(detail.active_turn, 0))
        except ChatError as error:
            if error.code == "not_found" and self.talk.protocol != "grpc":
                self.screen.note("The session is new; your first message makes it.")
            else:
                self.screen.fail(clean_line(self._kindly(error)))
        except ConnectionLost as error:
            self.talk.lost(error)

    def leave(self) -> None:
        self._left = True
        prompt = self.screen.prompt
        if prompt is not None and prompt.app.is_running:
            prompt.app.exit(exception=EOFError)

    # Answers

    def _first(self, what: str | Cursor) -> None:
        """Before everything else that waits."""
        self._waiting.add_first(what)
        self._wake.set()

    def _drop_waiting(self, *, due: bool = True) -> bool:
        """What waits is not wanted any more, or only what waits for a command; whether there was anything."""
        messages, commands = self._waiting.drop(due=due)
        if messages:
            self.screen.note(dropped(len(messages), "message", "sent"))
        for message in messages:
            self.screen.say(shortened(f"  › {clean_line(message)}", self.screen.columns), Style.DIM)
        if commands:
            self.screen.note(f"{dropped(len(commands), 'command', 'done')} {', '.join(commands)}")
        return bool(messages or commands)

    async def _answer(self, what: str | Cursor) -> None:
        if isinstance(what, str):
            self.screen.said("You", what, Style.YOU)
        events = self.talk.ask(what) if isinstance(what, str) else self.talk.resume(what)
        heard = self.talk.connected and self.talk.transport.live  # what others do
        had_messages = isinstance(what, str) and self.talk.has_messages
        self._cancelled = False
        self._growing = growing = Growing(self.screen, self.raw)
        self.screen.grow(growing.tail)
        self._reading = asyncio.create_task(self._read(events, growing, had_messages))
        try:
            await asyncio.wait([self._reading])
            if not self._reading.cancelled():
                self._reading.result()
            elif isinstance(what, str) and growing.progress.info is None:
                self.screen.fail(NO_ANSWER)
            else:
                self.screen.fail("The answer was let go of; /resume goes on reading it.")
        except ChatError as error:
            if not isinstance(what, str):
                self.screen.fail(clean_line(error.message))
            elif heard and error.code == "session_busy" and await self._hears(error.turn_id) and not self._cancelled:
                self.screen.said("Waiting", what, Style.DIM)  # somebody else was quicker
                self._first(what)
            else:
                self.screen.fail(clean_line(self._kindly(error)))
        except ConnectionLost as error:
            if not self.talk.failed(error):
                self.screen.fail(clean_line(str(error)))
            if isinstance(what, str) and growing.progress.info is None:
                self.screen.fail(NO_ANSWER)
            elif not self.talk.finished:
                self.screen.fail("/resume goes on reading the answer.")
        finally:
            if not self._reading.done():
                self._reading.cancel()
                await asyncio.wait([self._reading])
            self._growing = self._reading = None
            self.screen.refresh()

    async def _hears(self, turn_id: str | None) -> bool:
        """Whether this turn of somebody else's is heard, be it a moment behind the refusal for its sake."""
        with suppress(TimeoutError):
            async with asyncio.timeout(HEARD_SECONDS):
                while self.others.last != turn_id:
                    self._wake.clear()
                    await self._wake.wait()
        return self.others.last == turn_id

    async def _read(self, events: AsyncGenerator[Event, None], growing: Growing, had_messages: bool) -> None:
        try:
            async with aclosing(events):
                async for event in events:
                    if self.talk.progress is not None:
                        growing.progress = self.talk.progress
                    if had_messages and isinstance(event, SessionInfo) and event.is_new_session:
                        self.screen.fail("The server no longer had this session: it begins anew, without its history.")
                    growing.add(event)
        finally:
            growing.close()
        progress = growing.progress
        if progress.end is None:
            self.screen.note("There is nothing left of this answer.")
            return
        if isinstance(progress.end, Error):
            self.screen.fail(clean_line(progress.end.message))
        elif progress.end.finish_reason == "cancelled" and not self._cancelled:
            self.screen.note("It was stopped by somebody else, or by the server.")
        self.screen.lines([*summary(self.talk, progress, self.screen), ""])

    def _kindly(self, error: ChatError) -> str:
        if error.code == "session_busy" and error.turn_id:
            self.talk.cursor, self.talk.finished = Cursor(error.turn_id, 0), False
            return f"{error.message} /resume reads along, /new begins another session."
        if error.code == "not_found" and self.talk.protocol == "grpc":
            return f"{no_session_over_grpc(self.talk.session_id)}: try /protocol sse, or /new for another session."
        return error.message

    def interrupt(self) -> None:
        """Ctrl-C."""
        buffer = self.screen.prompt.default_buffer if self.screen.prompt is not None else None
        if self._question.answered_by(""):
            return
        anything = self._drop_waiting()
        if self._reading is not None:
            if self._cancelled:
                self._reading.cancel()
            else:
                self._cancelled = True
                self._cancel_task = asyncio.create_task(self._cancel(self._reading))
        elif buffer is not None and buffer.text:
            buffer.reset()
        elif not anything:
            self.screen.note("Ctrl-D or /quit leaves.")

    async def _cancel(self, reading: "asyncio.Task[None]") -> None:
        try:
            await self.talk.cancel()
            await asyncio.wait([reading], timeout=PATIENCE_SECONDS)
        except (ChatError, ConnectionLost, TimeoutError):
            pass
        reading.cancel()

    # What the conversation tells

    def cut(self, error: Exception, seconds: float) -> None:
        self.others.cut()
        if not self._told_cut:
            self._told_cut = True
            self.screen.fail(clean_line(f"{error} Trying again{'; Ctrl-C stops that.' if self._growing else '.'}"))
        self._wake.set()
        if self._growing is not None:
            self._growing.waiting = f"reconnecting, next try in {seconds:g} s"
        self.screen.refresh()

    def mended(self) -> None:
        self._told_cut = False
        self.screen.note("Connected.")

    def moved(self) -> None:
        self.others.cut()
        self.presence.forget()
        self._wake.set()

    def joined(self) -> None:
        self.presence.joined()
        self.others.joined(self._wake.set)

    def overheard(self, event: Event) -> None:
        if self.others.hear(event):
            self.presence.forget()
        self._wake.set()

    def updated(self, update: Update) -> None:
        if self.talk.is_our_doing(update) or update.session_id != self.talk.session_id:
            return
        who = str(update.fields.get("connection_id", ""))
        if update.type == "user_typing":
            self.presence.heard(who, bool(update.fields.get("typing")))
        elif update.type == "user_joined":
            self.presence.joined()
            self.screen.note("Somebody has joined the session.")
        elif update.type == "user_disconnected":
            self.presence.heard(who, False)
            self.screen.note("Somebody has left the session.")
        elif update.type == "session_cleared":
            self.screen.note("Somebody has cleared the session's history.")
        elif update.type == "session_deleted":
            self.screen.note("Somebody has deleted the session.")
            self.talk.leave()
        self.screen.refresh()

    # What is shown around it

    def _prompt(self) -> AnyFormattedText:
        return prompt_line(self.talk, self.screen.shown_tail, self._question.text, self.screen.width)

    def _toolbar(self) -> AnyFormattedText:
        growing = self._growing or self.others.growing
        progress, state = (growing.progress, growing.waiting) if growing is not None else (None, "")
        types = self.presence.somebody_types
        return toolbar(self.talk, progress, state, len(self._waiting), types, self.screen.width)

    async def _refresh(self) -> None:
        """Figures move while an answer grows, and typing ends without a word."""
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            if self._growing is not None or self.others.growing is not None or self.presence.worth_a_look:
                self.screen.refresh()
