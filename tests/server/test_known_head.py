"""A head that is sent again is what the parser would make of it, and is told from everything that is not quite it."""

import asyncio

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_parser import HttpRequestParser

from server.http_protocol import HttpProtocol
from server.known_head import known_head
from server.models import End

TEXT = b'{"message":"Hi"}'
FIELDS = b"Host: here\r\nContent-Type: application/json\r\nContent-Length: 16\r\nX-More: 1\r\nX-More: 2\r\n\r\n"
ASKED = b"POST /chat HTTP/1.1\r\n" + FIELDS + TEXT
HEALTH = b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n"


def parsed(data):
    """The one request in these bytes, with its body."""
    loop = asyncio.get_running_loop()
    parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16)
    ((message, body),), _, _ = parser.feed_data(data)
    return message, body


def known(data):
    return known_head(data, *parsed(data))


def asked(text, length=None):
    return ASKED.removesuffix(TEXT).replace(b"16", length or b"%d" % len(text)) + text


def as_told(message):
    """What a head says, but for the length of a body that is there."""
    names = "method path version should_close compression upgrade chunked url"
    fields = [field for field in message.headers.items() if field[0].lower() != "content-length"]
    raw = [field for field in message.raw_headers if field[0].lower() != b"content-length"]
    return {name: getattr(message, name) for name in names.split()}, fields, raw


@pytest.mark.parametrize(
    ("before", "data"),
    [
        (ASKED, ASKED),
        (ASKED, asked(b"")),
        (ASKED, asked(b"x" * 12345)),
        (asked(b""), ASKED),
        (ASKED, asked(b"Hi", b"002")),
        (ASKED, asked(b"\r\n\r\nGET / HTTP/1.1\r\n\r\n")),
        (
            ASKED.replace(b"Content-Length: ", b"content-length:"),
            ASKED.replace(b"Content-Length: ", b"content-length:"),
        ),
        (HEALTH, HEALTH),
    ],
)
def test_the_same_head_is_what_the_parser_makes_of_it(run, before, data):
    async def scene():
        head = known(before)
        for sent in (before, data, data, before):
            message, read = parsed(sent)
            body = head.again(sent)
            assert as_told(head.message) == as_told(message) and "Content-Length" not in head.message.headers
            assert body.is_eof() and body.exception() is None
            assert body.read_nowait() == (await read.read()) and body.read_nowait() == b""

    run(scene())


@pytest.mark.parametrize(
    ("before", "data"),
    [
        (ASKED, ASKED[:-1]),
        (ASKED, ASKED + b"G"),
        (ASKED, ASKED + HEALTH),
        (ASKED, HEALTH),
        (ASKED, b""),
        (ASKED, ASKED.replace(b"X-More: 1", b"X-More: 3")),
        (ASKED, ASKED.replace(b"POST", b"PUT")),
        (ASKED, ASKED.replace(b"Host: here", b"Host:  here")),
        (ASKED, ASKED.replace(b": 16", b": +16")),
        (ASKED, ASKED.replace(b": 16", b": 1_6")),
        (ASKED, ASKED.replace(b": 16", b":  16")),
        (ASKED, ASKED.replace(b": 16", b": 16 ")),
        (ASKED, ASKED.replace(b": 16", b": ")),
        (ASKED, ASKED.replace(b": 16", b": " + b"0" * 5000 + b"16")),
        (ASKED, ASKED.replace(b": 16\r\n", b": 16\r\nContent-Length: 16\r\n")),
        (ASKED, ASKED.replace(b": 16\r\n", b": 16\r\nTransfer-Encoding: chunked\r\n")),
        (ASKED, asked(b"", b"\xd9\xa1")),
        (HEALTH, HEALTH + b"\r\n"),
        (HEALTH, HEALTH + HEALTH),
        (HEALTH, HEALTH[:-1]),
    ],
)
def test_everything_else_goes_to_the_parser(run, before, data):
    async def scene():
        head = known(before)
        assert head.again(before) and head.again(data) is None

    run(scene())


@pytest.mark.parametrize(
    "data",
    [
        ASKED.removesuffix(TEXT).replace(b"Content-Length: 16", b"Transfer-Encoding: chunked")
        + b"2\r\nHi\r\n0\r\n\r\n",
        HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
        ASKED + b"GET /hea",
        b"\r\n" + ASKED + b"\r\n",
    ],
)
def test_what_is_more_than_a_request_or_of_another_kind_is_not_known(run, data):
    async def scene():
        assert known(data) is None

    run(scene())


def watched(monkeypatch, name):
    """What a method of the protocol is given."""
    given, method = [], getattr(HttpProtocol, name)

    def watching(self, data):
        if data:
            given.append(data)
        method(self, data)

    monkeypatch.setattr(HttpProtocol, name, watching)
    return given


def test_on_a_connection_that_is_kept_a_head_is_parsed_once(run, serving, dial, monkeypatch):
    texts = ["Hi", "How are you?", "Hi", "x" * 300]
    read = watched(monkeypatch, "_parse")

    async def scene():
        async with serving(model="demo?chunks=3&rate=0") as app, dial(app) as wire:
            for text in texts:
                answer = await wire.ask("POST", "/chat", {"message": text, "session_id": "s"})
                assert answer.status == 200 and answer.json["session_id"] == "s"
            assert len(read) == 1
            for _ in range(3):
                assert (await wire.ask("GET", "/health")).json["total_requests"] == len(texts)
            assert len(read) == 2
            assert (await wire.ask("POST", "/chat", {"message": ""})).status == 400
            assert len(read) == 3
            detail = (await wire.ask("GET", "/sessions/s")).json
            assert [message["text"] for message in detail["messages"] if message["role"] == "user"] == texts

    run(scene())


def test_an_answer_that_waits_has_its_body(run, serving, dial, script, monkeypatch):
    """Here the request goes on in aiohttp's task, which looks at what is left of the body. What comes meanwhile is not
    taken past the parser, which stops reading when too much waits."""
    read, come = watched(monkeypatch, "_parse"), watched(monkeypatch, "data_received")

    async def scene():
        model = script()
        async with serving(providers=[model], model="scripted") as app, dial(app) as wire:
            for number in range(3):
                wire.request("POST", "/chat", {"message": f"{number}"})
                ask = await model.asked()
                assert ask.messages[-1].text == f"{number}" and len(read) == 1
                if number == 2:
                    wire.request("POST", "/chat", {"message": "behind"})
                    while len(come) < 4:
                        await asyncio.sleep(0)
                    assert len(read) == 2
                ask.say("Well.", End())
                assert (await wire.answer()).json["response"] == "Well."
            ask = await model.asked()
            ask.say("Well.", End())
            assert (await wire.answer()).json["response"] == "Well."

    run(scene())


BEGUN = b"POST /chat HTTP/1.1\r\nIdempotency-Key: "


@pytest.mark.parametrize(
    ("begun", "statuses"),
    [(ASKED + BEGUN, (200, 200)), (BEGUN, (200,)), (asked(b"", b"%d" % len(ASKED)), (400,))],
)
def test_the_rest_of_something_else_is_not_taken_for_a_request(run, serving, dial, monkeypatch, begun, statuses):
    """Bytes that look like the known request go on with a head, or with a body, that has begun; nor do they become the
    known request of something else."""
    come = watched(monkeypatch, "data_received")

    async def scene():
        async with serving(model="demo?chunks=3&rate=0") as app, dial(app) as wire:
            for _ in range(2):
                wire.send(ASKED)
                assert (await wire.answer()).status == 200
            wire.send(begun)
            while len(come) < 3:
                await asyncio.sleep(0)
            wire.send(ASKED)
            for status in statuses:
                answer = await wire.answer()
                assert answer.status == status
            wire.send(ASKED)  # which has no key
            assert (await wire.answer()).json["turn_id"] != answer.json.get("turn_id")
            health = await wire.ask("GET", "/health")
            assert health.status == 200 and health.json["successful_requests"] == 3 + statuses.count(200)

    run(scene())
