"""The official gRPC library's asyncio server, with the same messages, written as its tutorial writes it."""

import argparse
import asyncio
import hashlib
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc

from proto.chat_pb2 import (
    ChatRequest,
    ChatResponse,
    FollowTurnRequest,
    SessionInfoRequest,
    SessionInfoResponse,
    Usage,
)
from tests.bench.words import answer, timestamp


@dataclass
class Session:
    id: str
    model: str
    created_at: str = field(default_factory=timestamp)
    messages: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Turn:
    id: str
    history: list[ChatResponse] = field(default_factory=list)
    queues: set[asyncio.Queue[ChatResponse]] = field(default_factory=set)

    def tell(self, response: ChatResponse) -> ChatResponse:
        self.history.append(response)
        for queue in self.queues:
            queue.put_nowait(response)
        return response


# Without these it refuses calls at random when more than 1,000 wait to be taken.
OPTIONS = (("grpc.server.max_pending_requests", 100_000), ("grpc.server.max_pending_requests_hard_limit", 100_000))


class ChatService:
    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}
        self.turns: dict[str, Turn] = {}

    def session(self, request: ChatRequest) -> tuple[Session, bool]:
        new = request.session_id not in self.sessions
        if new:
            session = Session(request.session_id or str(uuid.uuid4()), request.model_id or "demo")
            self.sessions[session.id] = session
        return self.sessions[request.session_id or session.id], new

    async def GetSessionInfo(self, request: SessionInfoRequest, context: Any) -> SessionInfoResponse:
        session = self.sessions.get(request.session_id)
        if session is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "No such session")
        return SessionInfoResponse(
            success=True,
            session_id=session.id,
            model=session.model,
            message_count=len(session.messages),
            user_messages=sum(role == "user" for role, _ in session.messages),
            model_messages=sum(role == "model" for role, _ in session.messages),
            created_at=session.created_at,
        )

    async def StreamChat(self, request: ChatRequest, context: Any) -> AsyncIterator[ChatResponse]:
        session, new = self.session(request)
        turn = Turn(str(uuid.uuid4()))
        self.turns[turn.id] = turn
        start, first, texts, message = time.monotonic(), None, [], request.message
        session.messages.append(("user", message))
        yield turn.tell(
            ChatResponse(
                type=ChatResponse.RESPONSE_START,
                session_id=session.id,
                turn_id=turn.id,
                seq=1,
                model=session.model,
                is_new_session=new,
                message=message,
                timestamp=timestamp(),
            )
        )
        yield turn.tell(
            ChatResponse(
                type=ChatResponse.STATUS,
                session_id=session.id,
                turn_id=turn.id,
                seq=2,
                status_message="Generating response...",
                context_messages=len(session.messages),
            )
        )
        async for text in answer(session.model):
            first = first or time.monotonic() - start
            texts.append(text)
            yield turn.tell(
                ChatResponse(
                    type=ChatResponse.CHUNK,
                    session_id=session.id,
                    turn_id=turn.id,
                    seq=len(texts) + 2,
                    chunk_text=text,
                    chunk_number=len(texts),
                    timestamp=timestamp(),
                )
            )
        whole = "".join(texts)
        session.messages.append(("model", whole))
        yield turn.tell(
            ChatResponse(
                type=ChatResponse.RESPONSE_COMPLETE,
                session_id=session.id,
                turn_id=turn.id,
                seq=len(texts) + 3,
                total_chunks=len(texts),
                processing_time=time.monotonic() - start,
                message_count=len(session.messages),
                finish_reason="stop",
                usage=Usage(input_tokens=len(message) // 4, output_tokens=len(whole) // 4, estimated=True),
                time_to_first_chunk=first,
                text_sha256=hashlib.sha256(whole.encode()).hexdigest(),
                timestamp=timestamp(),
            )
        )
        del self.turns[turn.id]

    async def FollowTurn(self, request: FollowTurnRequest, context: Any) -> AsyncIterator[ChatResponse]:
        turn = self.turns.get(request.turn_id)
        if turn is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "No such turn")
        queue: asyncio.Queue[ChatResponse] = asyncio.Queue()
        for response in turn.history:
            queue.put_nowait(response)
        turn.queues.add(queue)
        try:
            while True:
                response = await queue.get()
                yield response
                if response.type == ChatResponse.RESPONSE_COMPLETE:
                    return
        finally:
            turn.queues.discard(queue)


def methods(service: ChatService) -> grpc.GenericRpcHandler:
    """What the generated add_ChatServiceServicer_to_server would register."""

    def unary(method: Any, request: Any, response: Any) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(method, request.FromString, response.SerializeToString)

    def streamed(method: Any, request: Any) -> grpc.RpcMethodHandler:
        return grpc.unary_stream_rpc_method_handler(method, request.FromString, ChatResponse.SerializeToString)

    return grpc.method_handlers_generic_handler(
        "chat.ChatService",
        {
            "GetSessionInfo": unary(service.GetSessionInfo, SessionInfoRequest, SessionInfoResponse),
            "StreamChat": streamed(service.StreamChat, ChatRequest),
            "FollowTurn": streamed(service.FollowTurn, FollowTurnRequest),
        },
    )


async def main(port: int) -> None:
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((methods(ChatService()),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    asyncio.run(main(parser.parse_args().port))
