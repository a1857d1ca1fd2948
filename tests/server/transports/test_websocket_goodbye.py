"""The end of a WebSocket's conversation: the server's close frame is the last that it sends."""

import asyncio
import contextlib
import json

import pytest

from server.transports.websocket import Socket
from tests.server.transports.test_websocket_wire import CLOSE, FIN, HANDSHAKE, TEXT, frame, read_frame


@pytest.mark.parametrize(
    ("end", "code"),
    [(frame(b"\x03\xe8", CLOSE), 1000), (frame(b"\xff"), 1007), (frame(b"{}", mask=False), 1002)],
)
def test_nothing_comes_behind_the_close_frame(run, serving, dial, script, monkeypatch, end, code):
    """Also what a turn says in the very moment in which the peer's goodbye, or what it may not send, is read."""
    close = Socket.close

    async def scene():
        model = script()
        async with serving(providers=[model], model="scripted") as app, dial(app) as wire:
            wire.send(HANDSHAKE + frame(b'{"type": "chat", "message": "Hi"}'))
            assert (await wire.head()).status == 101
            await model.asked()
            (asking,) = app.chat._running.values()

            async def saying(self, **how):
                asking.turn.chunk("last words")
                return await close(self, **how)

            monkeypatch.setattr(Socket, "close", saying)
            wire.send(end)
            heard = []
            with contextlib.suppress(asyncio.IncompleteReadError):
                while True:
                    heard.append(await read_frame(wire))
            assert heard[-1] == (FIN | CLOSE, code.to_bytes(2, "big"))
            first, payload = heard[-2]
            assert first == FIN | TEXT and json.loads(payload)["text"] == "last words"

    run(scene())
