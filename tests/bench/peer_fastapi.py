"""The usual choice: FastAPI on uvicorn[standard], StreamingResponse, sse-starlette, WebSocket, a queue per reader."""

import argparse
import asyncio
import hashlib
import json
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Header, HTTPException, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from sse_starlette.sse import EventSourceResponse
from starlette.responses import Response

from tests.bench.words import answer, timestamp

app = FastAPI()
sessions: dict[str, "Session"] = {}
turns: dict[str, "Turn"] = {}
HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}


class ChatBody(BaseModel):
    message: str = Field(min_length=1, max_length=32000)
    session_id: str | None = None
    model_id: str | None = None


class UsageBody(BaseModel):
    input_tokens: int
    output_tokens: int
    estimated: bool


class ChatAnswer(BaseModel):
    response: str
    session_id: str
    processing_time: float
    model: str
    timestamp: str
    message_count: int
    is_new_session: bool
    turn_id: str
    finish_reason: str
    usage: UsageBody


@dataclass
class Session:
    id: str
    model: str
    messages: list[dict[str, str]] = field(default_factory=list)


@dataclass
class Turn:
    """A turn and the queues of those who follow it; the first reader of a stream is the one who asked."""

    id: str
    session: Session
    history: list[dict[str, Any]] = field(default_factory=list)
    queues: set[asyncio.Queue[dict[str, Any]]] = field(default_factory=set)

    def tell(self, event: dict[str, Any]) -> dict[str, Any]:
        self.history.append(event)
        for queue in self.queues:
            queue.put_nowait(event)
        return event


def open_session(body: ChatBody) -> tuple[Session, bool]:
    new = body.session_id is None or body.session_id not in sessions
    if new:
        session = Session(body.session_id or str(uuid.uuid4()), body.model_id or "demo")
        sessions[session.id] = session
    else:
        session = sessions[body.session_id or ""]
    return session, new


async def events(turn: Turn, message: str, new: bool) -> AsyncIterator[dict[str, Any]]:
    """One turn for the one who asked, with a copy for the queue of everyone who follows."""
    session, start, first = turn.session, time.monotonic(), None
    turns[turn.id] = turn
    session.messages.append({"role": "user", "text": message})
    yield turn.tell(
        {
            "type": "session_info",
            "session_id": session.id,
            "model": session.model,
            "timestamp": timestamp(),
            "turn_id": turn.id,
            "seq": 1,
            "is_new_session": new,
            "message": message,
        }
    )
    yield turn.tell(
        {
            "type": "status",
            "message": "Generating response...",
            "context_messages": len(session.messages),
            "omitted_messages": 0,
            "turn_id": turn.id,
            "seq": 2,
        }
    )
    texts: list[str] = []
    async for text in answer(session.model):
        first = first or time.monotonic() - start
        texts.append(text)
        yield turn.tell(
            {
                "type": "chunk",
                "text": text,
                "chunk_number": len(texts),
                "is_final": False,
                "timestamp": timestamp(),
                "turn_id": turn.id,
                "seq": len(texts) + 2,
            }
        )
    whole = "".join(texts)
    session.messages.append({"role": "model", "text": whole})
    yield turn.tell(
        {
            "type": "complete",
            "total_chunks": len(texts),
            "processing_time": time.monotonic() - start,
            "message_count": len(session.messages),
            "session_id": session.id,
            "timestamp": timestamp(),
            "turn_id": turn.id,
            "seq": len(texts) + 3,
            "finish_reason": "stop",
            "usage": {"input_tokens": len(message) // 4, "output_tokens": len(whole) // 4, "estimated": True},
            "time_to_first_chunk": first,
            "text_sha256": hashlib.sha256(whole.encode()).hexdigest(),
        }
    )
    del turns[turn.id]


async def following(turn: Turn) -> AsyncIterator[dict[str, Any]]:
    queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    for event in turn.history:
        queue.put_nowait(event)
    turn.queues.add(queue)
    try:
        while True:
            event = await queue.get()
            yield event
            if event["type"] == "complete":
                return
    finally:
        turn.queues.discard(queue)


async def ndjson(source: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
    async for event in source:
        yield json.dumps(event) + "\n"


async def sse(source: AsyncIterator[dict[str, Any]]) -> AsyncIterator[dict[str, str]]:
    async for event in source:
        yield {"id": f"{event['turn_id']}:{event['seq']}", "data": json.dumps(event)}


def streamed(turn: Turn, source: AsyncIterator[dict[str, Any]], accept: str) -> Response:
    headers = {**HEADERS, "X-Turn-Id": turn.id}
    if "text/event-stream" in accept:
        return EventSourceResponse(sse(source), headers=headers)
    return StreamingResponse(ndjson(source), media_type="application/x-ndjson", headers=headers)


@app.post("/chat")
async def chat(body: ChatBody) -> ChatAnswer:
    """The turn is the same as a stream's, so that others can follow it; the one who asked gets it when it is over."""
    session, new = open_session(body)
    turn = Turn(str(uuid.uuid4()), session)
    told = [event async for event in events(turn, body.message, new)]
    end = told[-1]
    return ChatAnswer(
        response="".join([event["text"] for event in told if event["type"] == "chunk"]),
        session_id=session.id,
        processing_time=end["processing_time"],
        model=session.model,
        timestamp=end["timestamp"],
        message_count=end["message_count"],
        is_new_session=new,
        turn_id=turn.id,
        finish_reason=end["finish_reason"],
        usage=UsageBody(**end["usage"]),
    )


@app.post("/chat/stream")
async def chat_stream(body: ChatBody, accept: str = Header("")) -> Response:
    session, new = open_session(body)
    turn = Turn(str(uuid.uuid4()), session)
    return streamed(turn, events(turn, body.message, new), accept)


@app.get("/turns/{turn_id}")
async def follow(turn_id: str, accept: str = Header("")) -> Response:
    if turn_id not in turns:
        raise HTTPException(404, "No such turn")
    turn = turns[turn_id]
    return streamed(turn, following(turn), accept)


@app.websocket("/ws")
async def websocket(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_json({"type": "connected", "connection_id": str(uuid.uuid4()), "timestamp": timestamp()})
    try:
        while True:
            asked = await socket.receive_json()
            if asked["type"] == "resume":
                turn = turns[asked["turn_id"]]
                source = following(turn)
            else:
                body = ChatBody.model_validate(asked)
                session, new = open_session(body)
                turn = Turn(str(uuid.uuid4()), session)
                source = events(turn, body.message, new)
            async for event in source:
                if event["type"] == "session_info":
                    event = {**event, "type": "response_start"}
                elif event["type"] == "complete":
                    full = "".join(e["text"] for e in turn.history if e["type"] == "chunk")
                    event = {**event, "type": "response_complete", "full_response": full}
                await socket.send_text(json.dumps(event))
    except WebSocketDisconnect:
        pass


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    uvicorn.run(app, port=parser.parse_args().port, log_level="warning", access_log=False)
