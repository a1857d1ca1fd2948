"""Replies: their fields to the letter, when the connection ends with them, and what of a stream leaves together."""

import re
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from proto import VERSION
from server.direct import DirectWriter
from server.reply import Reply
from server.turn import Turn

QUICK = "demo?chunks=6&rate=0"


def test_the_fields_of_an_answer_to_the_letter(run: Any, serving: Any, dial: Any) -> None:
    async def test() -> None:
        async with serving(model=QUICK) as app, dial(app) as wire:
            answer = await wire.ask("GET", "/models", X_Request_Id="mine")
            date = answer.headers.pop("date")
            assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", date)
            assert answer.headers == {
                "content-type": "application/json; charset=utf-8", "cache-control": "no-store", "x-request-id": "mine",
                "server": f"fivewire/{VERSION}", "content-length": str(len(answer.body)),
            }  # fmt: skip
            moved = await wire.ask("GET", "/demo/")
            assert (moved.status, moved.headers["content-length"], moved.headers["location"]) == (308, "0", "../demo")
            known = await wire.ask("GET", "/demo", If_None_Match="*")
            assert known.status == 304 and "content-length" not in known.headers

    run(test())


def test_the_connection_ends_where_one_side_says_so(run: Any, serving: Any, dial: Any) -> None:
    async def test() -> None:
        async with serving(model=QUICK) as app:
            async with dial(app) as wire:
                assert (await wire.ask("GET", "/models", Connection="close")).headers["connection"] == "close"
                assert await wire.reader.read() == b""
            async with dial(app) as wire:  # an old peer must ask for what is usual now
                for _ in range(2):
                    wire.send(b"GET /models HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
                    assert (await wire.answer()).headers["connection"] == "keep-alive"
                wire.send(b"GET /models HTTP/1.0\r\n\r\n")
                assert (await wire.answer()).headers["connection"] == "close"
                assert await wire.reader.read() == b""

    run(test())


def test_who_takes_no_answers_is_made_no_more_of_them(run: Any, serving: Any, dial: Any) -> None:
    async def test() -> None:
        async with serving(model=QUICK) as app, dial(app) as other, dial(app, limit=1024) as wire:
            size = len((await other.ask("GET", "/openapi.json")).body)
            for _ in range(400):  # more than both sockets hold
                wire.request("GET", "/openapi.json")
            while not (waiting := [one for one in app._http_connections() if one.writing_paused]):
                await other.ask("GET", "/health")
            for _ in range(100):
                await other.ask("GET", "/health")
                assert waiting[0].transport.get_write_buffer_size() < 2 * size
            for _ in range(400):
                assert len((await wire.answer()).body) == size

    run(test())


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b=c", "a\n", "a\r"])
def test_no_value_makes_a_field_of_its_own(value: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        Reply(b"", {"Location": value}, 303).head(make_mocked_request("GET", "/"))


def test_an_origin_comes_back_to_the_byte(run: Any, serving: Any, dial: Any) -> None:
    async def test() -> None:
        async with serving(model=QUICK, allow_origin=("*",)) as app, dial(app) as wire:
            answer = await wire.ask("GET", "/models", Origin="http://caf\xe9.example")
            assert answer.headers["access-control-allow-origin"] == "http://caf\xe9.example"

    run(test())


def test_the_first_events_take_the_head_along(run: Any, serving: Any, dial: Any, script: Any, monkeypatch: Any) -> None:
    written: list[bytes] = []

    def write(self: DirectWriter, data: bytes) -> None:
        written.append(data)
        real(self, data)

    real = DirectWriter.write
    monkeypatch.setattr(DirectWriter, "write", write)

    async def test() -> None:
        models = script()
        async with serving(model="script", providers=[models]) as app, dial(app) as wire, dial(app) as other:
            wire.request("POST", "/chat/stream", {"message": "Hello"})
            turn_id = (await wire.head()).headers["x-turn-id"]
            assert written[0].startswith(b"HTTP/1.1 200 OK\r\n") and b'"seq":2}' in written[0]
            other.request("GET", f"/turns/{turn_id}?after=2", Accept="text/event-stream")
            assert (await other.head()).status == 200, "the head waits for nothing"
            assert await other.chunk() == b"retry: 1000\n\n"
            (await models.asked()).say("one")
            for reader, seqs in ((wire, b"123"), (other, b"3")):
                for seq in seqs:
                    assert b'"seq":%c' % seq in await reader.chunk()

    run(test())


def test_a_bug_in_the_midst_of_a_stream_cuts_it(
    run: Any, serving: Any, dial: Any, monkeypatch: Any, caplog: Any
) -> None:
    real = Turn.follow

    def follow(*args: Any) -> None:
        real(*args)
        raise RuntimeError("a bug")

    monkeypatch.setattr(Turn, "follow", follow)

    async def test() -> None:
        async with serving(model=QUICK) as app, dial(app) as wire:
            wire.request("POST", "/chat/stream", {"message": "Hello"})
            assert (await wire.head()).status == 200
            rest = await wire.reader.read()
            assert b'"seq":2}' in rest and b"HTTP/1.1" not in rest and not rest.endswith(b"\r\n0\r\n\r\n")
            assert "a bug: POST /chat/stream failed" in caplog.text

    run(test())
