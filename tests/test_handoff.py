"""One cursor, every transport: a turn begun on one, cut at any point, ends on any other with exactly what was missing.

Everything goes through real sockets, read by the client's own transports; a cut is the cable pulled (a relay in between
aborts both sides) or a reader that stops and hangs up.
"""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Any

import aiohttp
import pytest

from client.transports import Transport
from proto import chat_pb2, grpc_web, pb
from proto.errors import ChatError
from proto.events import Chunk, Complete, Error, Event, SessionInfo, Status
from proto.requests import ChatRequest
from server.models import End
from server.turn import sha256

PIECES = [f"piece {n}, " for n in range(1, 9)] + ["and that is all: grüße 🌊"]
EVENTS = len(PIECES) + 3  # session_info, status, the chunks, complete
STREAMING = ("ndjson", "sse", "websocket", "grpc")
PAIRS = list(itertools.product(STREAMING, STREAMING))


async def read(source: Any, count: int | None = None) -> list[Event]:
    """So many events, or all that there are; then the reader stops."""
    events: list[Event] = []
    if count == 0:
        return events
    async with aclosing(source):
        async for event in source:
            events.append(event)
            if len(events) == count:
                break
    return events


def check_whole(events: Sequence[Event]) -> None:
    """A turn from its beginning to its end, and nothing twice."""
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert isinstance(events[0], SessionInfo) and isinstance(events[1], Status)
    chunks = [event for event in events if isinstance(event, Chunk)]
    assert [chunk.chunk_number for chunk in chunks] == list(range(1, len(chunks) + 1))
    end = events[-1]
    assert isinstance(end, Complete | Error) and len(events) == len(chunks) + 3
    if isinstance(end, Complete):
        assert [chunk.is_final for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
        assert (end.total_chunks, end.text_sha256) == (len(chunks), sha256("".join(chunk.text for chunk in chunks)))


async def handed_over(
    app: Any, connected: Any, cable: Any, asks: dict[str, Any], pair: tuple[str, str], cut: int, pulled: bool
) -> None:
    """The turn is cut while it runs, grows by a piece that nobody reads, and is followed to its end elsewhere."""
    name = f"{'-'.join(pair)}-{cut}"
    request = ChatRequest(name, (await app.chat.new_session("script")).id, idempotency_key=name)
    asked = asks[name] = asyncio.get_running_loop().create_future()
    said = max(0, min(cut - 2, len(PIECES) - 1))
    async with AsyncExitStack() as stack:
        line = await stack.enter_async_context(cable(int(app.http_url.rpartition(":")[2])))
        there = await stack.enter_async_context(connected(pair[0], line.url))
        reading = asyncio.create_task(read(there.send(request), cut or EVENTS))
        ask = await asked
        ask.say(*PIECES[:said])
        ends_before = cut > said + 2  # the last piece and the end come together
        if ends_before:
            ask.say(End(PIECES[-1]))
        if cut:
            events = await reading
        if pulled or not cut:
            line.pull()
        if not cut:  # before the first event there is no cursor: the message is sent again, and asked once
            await asyncio.wait([reading])
            events = []
        await there.close()
        ask.say(*PIECES[said:-1][:1])
        if said == len(PIECES) - 1 and not ends_before:
            ask.say(End(PIECES[-1]))
        here = await stack.enter_async_context(connected(pair[1], app.http_url))
        rest: Any = here.follow(events[0].turn_id, cut) if cut else here.send(request)
        async with aclosing(rest):
            events.append(await anext(rest))
            ask.say(*PIECES[said + 1 : -1], End(PIECES[-1]))
            events += [event async for event in rest]
    if (pair[1], cut) == ("websocket", 1):  # where `status` takes `response_start` along
        assert events.pop(2) == events[0]
    check_whole(events)
    assert "".join(event.text for event in events if isinstance(event, Chunk)) == "".join(PIECES)
    assert events == (await app.chat.turn(events[0].turn_id)).log


@pytest.mark.parametrize("pulled", [True, False], ids=["cable", "reader"])
def test_every_pair_at_every_cut(run: Any, serving: Any, script: Any, connected: Any, cable: Any, pulled: bool) -> None:
    async def test() -> None:
        models, asks = script(), {}

        async def dispatch() -> None:
            while True:
                ask = await models.asked()
                asks.pop(ask.messages[-1].text).set_result(ask)

        async with serving(model="script", providers=[models]) as app:
            dispatching = asyncio.create_task(dispatch())
            async with asyncio.TaskGroup() as scenarios:
                for pair, cut in itertools.product(PAIRS, range(EVENTS)):
                    scenarios.create_task(handed_over(app, connected, cable, asks, pair, cut, pulled))
            assert not dispatching.done() and not asks, "a message was asked twice"
            dispatching.cancel()
            stats = app.chat.tell()
            assert (stats.running_turns, stats.successful_requests) == (0, len(PAIRS) * EVENTS)
            await until(lambda: app.chat.stats.open_streams == 0)

    run(test())


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what a stranger would see: the other end has noticed."""
    while not condition():
        await asyncio.sleep(0.005)


async def follow(transport: Transport, turn_id: str, after: int) -> list[Event]:
    """What comes behind the cursor. WebSocket says `status` and `response_start` together and in this order, and the
    end to those at the tail, as the contract has it: what is known already is left out."""
    events = await read(transport.follow(turn_id, after))
    if transport.name == "websocket":
        events = sorted((event for event in events if event.seq > after), key=lambda event: event.seq)
    return events


async def check_ended(connected: Any, url: str, whole: list[Event], state: str) -> None:
    """An ended turn is the same from every cursor on every transport, and REST has it in one piece."""
    turn_id, last = whole[0].turn_id, len(whole)
    check_whole(whole)
    lost = state == "interrupted"
    async with AsyncExitStack() as stack:
        for name in STREAMING:
            transport = await stack.enter_async_context(connected(name, url))
            for after in range(last + 1):
                assert await follow(transport, turn_id, after) == whole[after:], (name, after)
            told_at_the_tail = await read(transport.follow(turn_id, last))
            assert told_at_the_tail == (whole[-1:] if name == "websocket" else [])
            for beyond in (last + 1, last + 1000, 2**53 - 1):
                if lost:  # these events were sent, and are gone: whoever has them is told how it ended
                    assert await read(transport.follow(turn_id, beyond)) == whole[-1:]
                else:
                    with pytest.raises(ChatError) as refusal:
                        await read(transport.follow(turn_id, beyond))
                    assert refusal.value.code == "invalid_request", name
        http = await stack.enter_async_context(aiohttp.ClientSession(url))
        path = f"/turns/{turn_id}"
        for media in ("application/x-ndjson", "text/event-stream"):
            async with http.get(path, headers={"Accept": media, "Last-Event-ID": f"{turn_id}:{last}"}) as answer:
                assert answer.status == 204
            async with http.get(path, headers={"Accept": media}, params={"after": last + 1}) as answer:
                assert answer.status == (200 if lost else 400)
        async with http.get(path) as answer:
            snapshot = await answer.json()
        text = "".join(event.text for event in whole if isinstance(event, Chunk))
        assert (snapshot["status"], snapshot["last_seq"], snapshot["text"]) == (state, last, text)
        assert snapshot["text_sha256"] == sha256(text)
        for after in (0, 3, last, last + 1):
            request = grpc_web.frame(chat_pb2.FollowTurnRequest(turn_id=turn_id, after=after).SerializeToString())
            headers = {"Content-Type": grpc_web.BINARY.content_type}
            async with http.post("/chat.ChatService/FollowTurn", data=request, headers=headers) as answer:
                *frames, end = grpc_web.Decoder(grpc_web.BINARY).feed(await answer.read())
            responses = [pb.parse(chat_pb2.ChatResponse, frame.payload) for frame in frames]
            expected = whole[-1:] if lost and after > last else whole[after:]
            assert [pb.from_response(response) for response in responses] == expected
            status = grpc_web.parse_trailers(end.payload)["grpc-status"]
            assert status == ("3" if after > last and not lost else "0")  # INVALID_ARGUMENT


@pytest.mark.parametrize("state", ["complete", "cancelled", "failed"])
def test_an_ended_turn_from_every_cursor(
    run: Any, serving: Any, script: Any, connected: Any, state: str, tmp_path: Any
) -> None:
    store = f"sqlite:{tmp_path / 'chat.db'}"

    async def test() -> None:
        models = script()
        async with serving(model="script", providers=[models], store=store) as app:
            async with connected("ndjson", app.http_url) as transport:
                source = transport.send(ChatRequest("Hello"))
                whole = [await anext(source), await anext(source)]
                ask = await models.asked()
                ask.say(*PIECES[:-1])
                whole += [await anext(source) for _ in PIECES[:-1]]
                if state == "cancelled":
                    async with connected("grpc", app.http_url) as other:
                        await other.cancel(whole[0].turn_id)
                else:
                    ask.say(End(PIECES[-1]) if state == "complete" else ChatError("model_error", "It broke."))
                whole += [event async for event in source]
            await check_ended(connected, app.http_url, whole, state)
        async with serving(model="script", providers=[script()], store=store) as app:  # and after a restart
            await check_ended(connected, app.http_url, whole, state)

    run(test())
