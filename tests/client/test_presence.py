"""Who types is told to whoever could have missed it, and to nobody twice."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from client.presence import Presence
from client.transports import ConnectionLost, Update
from client.transports.websocket import WebSocket
from proto.events import Event
from tests.client.terminal import Terminal, get


class Room:
    """A conversation, and the transport under it, as far as typing goes."""

    session_id: str | None = "room"
    live = True

    def __init__(self) -> None:
        self.transport = self
        self.told: list[bool] = []

    async def typing(self, session_id: str, active: bool) -> None:
        assert session_id == "room"
        self.told.append(active)

    async def news(self) -> list[bool]:
        await asyncio.sleep(0)
        told, self.told = self.told, []
        return told


def at_the_keyboard() -> tuple[Any, Presence]:
    room: Any = Room()
    return room, Presence(room)


def test_typing_is_told_once(run: Callable[..., Any]) -> None:
    async def story() -> None:
        room, we = at_the_keyboard()
        steps = [("h", [True]), ("hi", []), ("", [False]), ("/", []), ("/h", []), ("h", [True]), ("/", [False])]
        for text, told in steps:
            we.typed(text)
            assert await room.news() == told, text

    run(story())


def test_who_joins_is_told_again(run: Callable[..., Any]) -> None:
    async def story() -> None:
        room, we = at_the_keyboard()
        we.typed("h")
        we.joined()
        assert await room.news() == [True, True]
        we.typed("")
        we.joined()
        assert await room.news() == [False]

    run(story())


@pytest.mark.parametrize(("hindrance", "then"), [("live", True), ("session_id", "room")])
def test_what_could_not_be_told_is_told_on_joining(hindrance: str, then: Any, run: Callable[..., Any]) -> None:
    async def story() -> None:
        room, we = at_the_keyboard()
        setattr(room, hindrance, None)
        we.typed("h")
        assert await room.news() == []
        setattr(room, hindrance, then)
        we.joined()
        assert await room.news() == [True]

    run(story())


def test_who_goes_on_typing_says_so_again(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        room, we = at_the_keyboard()
        monkeypatch.setattr("client.presence.AGAIN_SECONDS", 0)
        for text in ("h", "hi", "hi!"):
            we.typed(text)
            assert await room.news() == [True]

    run(story())


def test_a_pause_ends_it(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        room, we = at_the_keyboard()
        monkeypatch.setattr("client.presence.PAUSE_SECONDS", 0)
        we.typed("h")
        while not room.told[1:]:
            await asyncio.sleep(0)
        assert await room.news() == [True, False]

    run(story())


class Member:
    """Somebody in a session, who hears who types there."""

    def __init__(self, url: str) -> None:
        self.transport = WebSocket(url, self)
        self.heard: asyncio.Queue[bool] = asyncio.Queue()

    def updated(self, update: Update) -> None:
        if update.type == "user_typing":
            self.heard.put_nowait(update.fields["typing"])

    def overheard(self, event: Event) -> None: ...

    def lost(self, error: ConnectionLost) -> None: ...


def test_the_prompt_tells_who_joins(
    shared_server: Any, terminal: Callable[..., Terminal], run: Callable[..., Any]
) -> None:
    get(shared_server.url, "/chat", {"message": "hi", "session_id": "told", "model_id": "demo?chunks=2&rate=0"})
    screen = terminal("--server", shared_server.url, "--session", "told", "--protocol", "websocket")
    screen.settle()

    async def story() -> None:
        first, second = Member(shared_server.url), Member(shared_server.url)
        await first.transport.join("told")
        again = False
        while not again:  # on a slow machine the pause may end it before somebody has joined
            screen.keys("h")
            assert await first.heard.get()
            await second.transport.join("told")
            again = await first.heard.get()
            await second.transport.leave("told")
        await first.transport.close()
        await second.transport.close()

    run(story())
