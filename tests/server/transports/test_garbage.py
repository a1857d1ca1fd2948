"""A turn that has ended, or a connection that has, leaves nothing of the server's to the garbage collector: a log goes
when the last one who knows it lets go, not when the collector finds time for the oldest generation."""

import asyncio
import contextlib
import gc

import pytest

from client.settings import PROTOCOLS
from proto.events import Complete
from proto.requests import ChatRequest
from server import kept
from server.asking import Asking
from server.models import End
from tests.conftest import connect_client

TURNS = 3


BROKEN = "demo?chunks=9&rate=200&fail_after=3"


@contextlib.contextmanager
def garbage():
    """The types of what the collector finds afterwards."""
    kinds = set()
    gc.freeze()  # or the collector would walk through all that the tests have loaded
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield kinds
        gc.collect()
        kinds |= {type(thing) for thing in gc.garbage}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
        gc.unfreeze()


def ours(kinds):
    return [kind for kind in kinds if kind.__module__.startswith(("server.", "proto."))]


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("demo?chunks=5&rate=200", {}),
        ("demo?chunks=40&rate=0", {}),
        ("demo?chunks=3&rate=0", {}),  # which is over before `push` has returned
        (BROKEN, {}),
        ("demo?chunks=40&rate=0", {"chunk_words": 2, "chunk_interval": 0.001}),  # by way of a task that asks the model
        (BROKEN, {"chunk_words": 2, "chunk_interval": 0.001}),
    ],
)
@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_turn_is_no_cycle(serving, run, name, model, options, monkeypatch):
    monkeypatch.setattr(kept, "MAX_EVENTS", 0)  # only the last turn is kept

    async def scenario():
        async with serving(**options) as app, connect_client(name, app.http_url) as client:
            session_id = (await client.new_session(None)).session_id

            async def turns():
                for _ in range(TURNS):
                    events = [event async for event in client.send(ChatRequest("hi", session_id, model))]
                    assert isinstance(events[-1], Complete) is (model != BROKEN)

            await turns()  # what is made once
            with garbage() as kinds:
                await turns()
            assert not ours(kinds)

    run(scenario())


async def said(app, peer):
    """Goodbye."""
    await peer.socket.close()


async def left(app, peer):
    """Without a word."""
    peer.socket.transport.abort()


async def dropped(app, peer):
    for connection in tuple(app._websockets.connections):
        connection.drop()
    await peer.socket.wait_closed()


@pytest.mark.parametrize("end", [said, left, dropped])
def test_a_websocket_is_no_cycle(serving, run, meet, end):
    async def scenario():
        async with serving(model="demo?chunks=2&rate=200") as app:

            async def connections():
                async with meet(app, 2) as peers:
                    await peers[0].say("chat", message="Hi")
                    await peers[0].until("response_complete")
                    await peers[0].say("chat", message="Hi", model_id="demo?chunks=900&rate=20")
                    await peers[0].until("chunk")
                    for peer in peers:
                        await end(app, peer)
                while app._http_connections():
                    await asyncio.sleep(0.001)

            await connections()
            with garbage() as kinds:
                await connections()
            assert not ours(kinds)

    run(scenario())


@pytest.mark.parametrize("checkpoints", [0, 2])
def test_what_was_said_is_nothing_that_the_collector_walks_through(serving, run, script, checkpoints):
    async def scenario():
        model = script()
        async with serving(model="script", providers=[model]) as app:
            turn = await app.chat.send(ChatRequest("hi", "s"), "rest", "")
            asked = await model.asked()
            for number in range(checkpoints):
                asked.say(f"piece {number}")
                while turn.chunk_count == number:
                    await asyncio.sleep(0)
                app.chat._checkpoints._save()
            asked.say("last", End())
            await turn.ended()
            gc.collect()
            assert not gc.is_tracked(turn._said)
            assert not gc.is_tracked(app.store._turns[turn.id].chunks)
            assert app.store._turns[turn.id].chunks == turn._said
            del asked
            assert not [one for one in gc.get_objects() if type(one) is Asking and one.turn is turn], (
                "who asked is gone"
            )

    run(scenario())
