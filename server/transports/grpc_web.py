"""gRPC-Web on the HTTP port: a page uses the gRPC service without a proxy.

Every call but `Chat`, which needs a stream in both directions: unary ones, and those that follow a turn, which are
pushed as on the other streams. What a call answers is in `server.rpc`, shared with gRPC.
"""

import asyncio
import base64

from aiohttp import web

from proto import grpc_web, pb, pb_json
from proto.errors import CODES, ChatError, ProtocolError
from proto.events import Event
from proto.grpc_web import BINARY, FORMS, JSON, TEXT, Form
from proto.requests import invalid
from server.body import BodyFraming, Chunked, stream_turn
from server.chat import Chat
from server.edge import client_name, max_body_bytes, read_body
from server.reply import Reply
from server.rpc import METHODS, SERVICE, Rpc, framed_event
from server.transports import Parameter, Route
from server.turn import Turn


class GrpcWeb(BodyFraming):
    """Events as frames, in binary."""

    name = "grpc_web"
    form = BINARY
    content_type = BINARY.content_type

    def encode(self, turn: Turn, event: Event) -> bytes:
        return framed_event(turn, event)

    def tail(self, late: bool) -> bytes:
        end = grpc_web.trailers("DEADLINE_EXCEEDED", "The time of the call is up.") if late else grpc_web.trailers("OK")
        return coded(end, self.form)


class GrpcWebText(GrpcWeb):
    form = TEXT
    content_type = TEXT.content_type

    def encode(self, turn: Turn, event: Event) -> bytes:
        return base64.b64encode(framed_event(turn, event))


class GrpcWebJson(GrpcWeb):
    form = JSON
    content_type = JSON.content_type

    def encode(self, turn: Turn, event: Event) -> bytes:
        return grpc_web.frame(pb_json.event_json(event, turn.session_id).encode())


FRAMINGS = {framing.form: Chunked(framing) for framing in (GrpcWeb(), GrpcWebText(), GrpcWebJson())}


def coded(data: bytes, form: Form) -> bytes:
    return base64.b64encode(data) if form.text else data


def routes(chat: Chat) -> list[Route]:
    rpc = Rpc(chat, GrpcWeb.name)
    limit = 2 * max_body_bytes(chat.settings.max_message_chars)  # base64 takes a third more

    async def call(request: web.Request) -> web.StreamResponse:
        form = FORMS.get(request.content_type)
        if form is None:
            raise ChatError("invalid_request", f"Send gRPC-Web as one of {', '.join(FORMS)}.", http=415)
        try:
            return await answer(request, form)
        except ChatError as error:
            end = failure(error)
        except ProtocolError as error:
            end = failure(invalid(f"The request is not valid: {error}."))
        except TimeoutError:
            end = grpc_web.trailers("DEADLINE_EXCEEDED", "The time of the call is up.")
        return reply(end, form)

    async def answer(request: web.Request, form: Form) -> web.StreamResponse:
        method = METHODS.get(request.match_info["method"])
        if method is None or method.takes_stream:
            name = request.match_info["method"]
            what = f"{name} needs gRPC over HTTP/2" if method else f"There is no call {name[:64]}"
            return reply(failure(ChatError("not_found", f"{what}."), "UNIMPLEMENTED"), form)
        data = grpc_web.message(await read_body(request, limit), form)
        asked = (pb_json.parse_json if form.json else pb.parse)(method.takes, data)
        timeout = request.headers.get("grpc-timeout")
        loop = asyncio.get_running_loop()
        until = None if timeout is None else loop.time() + grpc_web.seconds(timeout)
        if method.gives_stream:
            async with asyncio.timeout_at(until):
                followed = await rpc.follow(asked, client_name(request))
            if followed is None:
                return reply(grpc_web.trailers("OK"), form)
            left = None if until is None else until - loop.time()
            return await stream_turn(request, followed.turn, followed.after, FRAMINGS[form], left)
        async with asyncio.timeout_at(until):
            told = await rpc.answer(method.name, asked)
        payload = pb_json.message_json(told).encode() if form.json else told.SerializeToString()
        return reply(grpc_web.frame(payload) + grpc_web.trailers("OK"), form)

    def failure(error: ChatError, status: str | None = None) -> bytes:
        return grpc_web.trailers(status or CODES[error.code].grpc, error.message, pb.error_metadata(error))

    def reply(body: bytes, form: Form) -> Reply:
        return Reply(coded(body, form), {"Content-Type": form.content_type, "Cache-Control": "no-store"})

    return [
        Route(
            "POST", f"/{SERVICE}/{{method}}", call, "gRPC-Web: a call of the gRPC service, for pages",
            "The calls and messages are those of `proto/chat.proto`, all but `Chat`; binary, base64 text or JSON by "
            "`Content-Type`. The status is in the trailers that end the body.",
            media=tuple(form.content_type for form in FRAMINGS),
            parameters=(Parameter("method", "path", "A call of the service, like `StreamChat`."),),
            errors=("invalid_request",), refused=(415,),
        )
    ]  # fmt: skip
