"""A turn that has ended leaves nothing of the server's to the garbage collector: its log goes when the last one who
knows it lets go, not when the collector finds time for the oldest generation."""

import gc

import pytest

from client.settings import PROTOCOLS
from proto.events import Complete
from proto.requests import ChatRequest
from tests.conftest import connect_client

TURNS = 3


BROKEN = "demo?chunks=9&rate=200&fail_after=3"


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("demo?chunks=5&rate=200", {}),
        ("demo?chunks=40&rate=0", {}),
        (BROKEN, {}),
        ("demo?chunks=40&rate=0", {"chunk_words": 2, "chunk_interval": 0.001}),  # by way of a task that asks the model
        (BROKEN, {"chunk_words": 2, "chunk_interval": 0.001}),
    ],
)
@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_turn_is_no_cycle(serving, run, name, model, options):
    async def scenario():
        async with serving(**options) as app, connect_client(name, app.http_url) as client:
            session_id = (await client.new_session(None)).session_id

            async def turns():
                for _ in range(TURNS):
                    events = [event async for event in client.send(ChatRequest("hi", session_id, model))]
                    assert isinstance(events[-1], Complete) is (model != BROKEN)

            await turns()  # what is made once
            gc.collect()
            gc.disable()
            gc.set_debug(gc.DEBUG_SAVEALL)
            try:
                await turns()
                gc.collect()
                kinds = {type(thing) for thing in gc.garbage}
            finally:
                gc.set_debug(0)
                gc.garbage.clear()
                gc.enable()
            assert [kind for kind in kinds if kind.__module__.startswith(("server.", "proto."))] == []

    run(scenario())
