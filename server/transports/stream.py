"""The two streams over HTTP/1.1: NDJSON and Server-Sent Events, started by POST, followed and resumed by GET."""

from aiohttp import web

from proto import ndjson, sse
from proto.answers import TurnSnapshot
from proto.events import Event, Heartbeat
from proto.requests import ChatRequest, after_seq, cursor, invalid
from server.body import ChunkedText, TextFraming, stream_turn
from server.chat import Chat
from server.clock import timestamp
from server.edge import client_name, preferred, read_chat_request
from server.reply import Reply, json_reply
from server.transports import IDEMPOTENCY_KEY, Parameter, Route
from server.turn import Turn


class Ndjson(TextFraming):
    """NDJSON."""

    name = "ndjson"
    content_type = ndjson.CONTENT_TYPE
    end = ndjson.END
    beats = True

    def encode(self, turn: Turn, event: Event) -> bytes:
        return ndjson.encode(event)

    def heartbeat(self) -> bytes:
        return ndjson.encode(Heartbeat(timestamp()))


class Sse(TextFraming):
    """Server-Sent Events."""

    name = "sse"
    content_type = sse.CONTENT_TYPE
    start = sse.START
    end = sse.END
    head = sse.RETRY
    beats = True

    def encode(self, turn: Turn, event: Event) -> bytes:
        return sse.encode(event)

    def heartbeat(self) -> bytes:
        return sse.KEEP_ALIVE


NDJSON, SSE = ChunkedText(Ndjson()), ChunkedText(Sse())


STREAMS = {NDJSON.content_type: NDJSON, SSE.content_type: SSE}
FORMS_OF_AN_ANSWER = tuple(STREAMS)
FORMS_OF_A_TURN = ("application/json", *STREAMS)


def after_cursor(request: web.Request, turn_id: str) -> int:
    """The cursor of a request to follow: Last-Event-ID wins over ?after=, because a reconnecting EventSource repeats
    its URL."""
    last = request.headers.get("Last-Event-ID")
    if last:
        place = cursor(last)
        if place.turn_id != turn_id:
            raise invalid("Last-Event-ID names another turn than the path.")
        return place.seq
    return after_seq(request.query.get("after", "0"))


def routes(chat: Chat) -> list[Route]:
    async def start(request: web.Request) -> web.StreamResponse:
        framing = STREAMS[preferred(request, FORMS_OF_AN_ANSWER)]
        asked = await read_chat_request(request, chat.settings.max_message_chars)
        turn = await chat.send(asked, framing.name, client_name(request))
        return await stream_turn(request, turn, 0, framing)

    async def follow(request: web.Request) -> web.StreamResponse:
        turn_id = request.match_info["turn_id"]
        framing = STREAMS.get(preferred(request, FORMS_OF_A_TURN))
        if framing is None:
            return json_reply((await chat.turn(turn_id)).snapshot())
        after = after_cursor(request, turn_id)
        turn = await chat.turn(turn_id)
        after = turn.check_cursor(after)
        if turn.nothing_left(after):
            return Reply(None, {"Cache-Control": "no-store", "X-Turn-Id": turn.id}, 204)
        if turn.running:
            chat.admit_reader()
        return await stream_turn(request, turn, after, framing)

    async def cancel(request: web.Request) -> web.StreamResponse:
        turn = await chat.cancel(request.match_info["turn_id"])
        return json_reply(turn.snapshot())

    media = (ndjson.CONTENT_TYPE, sse.CONTENT_TYPE)
    turn_id = Parameter("turn_id", "path", "The turn, as `session_info` or the header `X-Turn-Id` named it.")
    return [
        Route(
            "POST", "/chat/stream", start, "Ask, and get the answer as it grows",
            "`Accept: text/event-stream` gives Server-Sent Events, anything else NDJSON; where both are named, the one "
            "of the greater weight (`q`), and of equals Server-Sent Events. The stream starts at once, "
            "before the model answers, and ends with a `complete` or an `error` event; one that ends without was cut: "
            "resume it with `GET /turns/{turn_id}`.",
            body=ChatRequest, media=media,
            parameters=(IDEMPOTENCY_KEY,),
            errors=("invalid_request", "session_busy", "conflict", "unavailable"),
            example={"message": "Hello, who are you?"}, at_once=True,
        ),
        Route(
            "GET", "/turns/{turn_id}", follow, "A turn as it stands, or follow it from a cursor",
            "By `Accept` and its weights (`q`): a JSON snapshot, or the events after the cursor as NDJSON or "
            "Server-Sent Events. HEAD tells how any of them would begin, and follows nothing.",
            answer=TurnSnapshot, media=media,
            also=((204, "The turn has ended, and nothing is left after the cursor; this ends an EventSource. "
                "After a crash of the server, who has seen no end asks from one event before."),),
            parameters=(
                turn_id,
                Parameter("after", "query", "The seq of the last event that you have.", "integer"),
                Parameter("Last-Event-ID", "header", "The cursor `turn_id:seq`; wins over `after`."),
            ),
            errors=("invalid_request", "not_found", "unavailable"),
        ),
        Route(
            "POST", "/turns/{turn_id}/cancel", cancel, "Stop the answer at once",
            "Idempotent; the partial answer stays in the history.",
            answer=TurnSnapshot, parameters=(turn_id,), errors=("invalid_request", "not_found", "unavailable"),
        ),
    ]  # fmt: skip
