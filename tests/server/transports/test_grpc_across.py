"""A turn belongs to no transport: begun on gRPC it is seen and resumed elsewhere, and the other way round."""

import json

import aiohttp
import grpc.aio
import pytest

from proto import chat_pb2, pb
from proto.chat_pb2 import ChatRequest, ChatResponse
from proto.events import as_json

FAST = "demo?chunks=5&rate=0"


def stub(channel, name, kind, takes, gives):
    call = getattr(channel, kind)
    return call(
        f"/chat.ChatService/{name}",
        request_serializer=takes.SerializeToString,
        response_deserializer=gives.FromString,
    )


class Calls:
    def __init__(self, address):
        self.channel = channel = grpc.aio.insecure_channel(address.partition("//")[2])
        self.send = stub(channel, "StreamChat", "unary_stream", ChatRequest, ChatResponse)
        self.follow = stub(channel, "FollowTurn", "unary_stream", chat_pb2.FollowTurnRequest, ChatResponse)
        self.chat = stub(channel, "Chat", "stream_stream", ChatRequest, ChatResponse)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.channel.close()


async def events(call):
    return [json.loads(as_json(pb.from_response(response))) async for response in call]


def followed(turn_id, after):
    return chat_pb2.FollowTurnRequest(turn_id=turn_id, after=after)


@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson"])
def test_from_any_cursor(serving, run, accept):
    async def scenario():
        async with serving() as app, Calls(app.http_url) as calls, aiohttp.ClientSession(app.http_url) as http:
            headers = {"Accept": accept}

            async def read(response):
                lines = [line.removeprefix(b"data: ") async for line in response.content]
                return [json.loads(line) for line in lines if line.startswith(b"{")]

            whole = await events(calls.send(ChatRequest(message="hi", model_id=FAST)))
            for after in range(len(whole)):
                async with http.get(f"/turns/{whole[0]['turn_id']}?after={after}", headers=headers) as response:
                    assert whole[after:] == await read(response)
            async with http.post("/chat/stream", json={"message": "hi", "model_id": FAST}, headers=headers) as response:
                whole = await read(response)
            for after in range(len(whole) + 1):
                assert whole[after:] == await events(calls.follow(followed(whole[0]["turn_id"], after)))

    run(scenario())


def test_members_on_websocket_and_grpc_see_each_others_turns(serving, run):
    async def scenario():
        async with (
            serving() as app,
            Calls(app.http_url) as calls,
            aiohttp.ClientSession(app.http_url) as http,
            http.ws_connect("/ws") as socket,
        ):
            assert (await socket.receive_json())["type"] == "connected"
            await socket.send_json({"type": "create_session", "model_id": FAST})
            session = (await socket.receive_json())["session_id"]
            chat = calls.chat()
            await chat.write(ChatRequest(type="JOIN", session_id=session))
            assert (await chat.read()).update_type == "session_joined"

            async def on_websocket():
                seen = []
                while not seen or "full_response" not in seen[-1]:
                    seen.append(await socket.receive_json())
                return [event for event in seen if "seq" in event]

            async def on_grpc():
                seen = []
                while not seen or seen[-1].type != ChatResponse.RESPONSE_COMPLETE:
                    seen.append(await chat.read())
                return [response for response in seen if response.seq]

            for ask in ("grpc", "websocket"):
                if ask == "grpc":
                    await chat.write(ChatRequest(session_id=session, message="hi"))
                else:
                    await socket.send_json({"type": "chat", "session_id": session, "message": "hi"})
                there, here = await on_websocket(), await on_grpc()
                assert sorted(event["seq"] for event in there) == [response.seq for response in here] == [*range(1, 9)]
                assert {event["turn_id"] for event in there} == {response.turn_id for response in here}
                texts = [event["text"] for event in there if event["type"] == "chunk"]
                assert texts == [response.chunk_text for response in here if response.type == ChatResponse.CHUNK]
            await socket.send_json({"type": "typing_start"})
            while (update := await chat.read()).update_type != "user_typing":
                assert update.type == ChatResponse.SESSION_UPDATE
            await chat.write(ChatRequest(type="TYPING_START", session_id=session))
            while (update := await socket.receive_json()).get("update_type") != "user_typing":
                assert update["type"] == "session_update"
            chat.cancel()

    run(scenario())


def test_a_turn_that_a_crash_interrupted(start_server, run, tmp_path):
    async def scenario():
        store = f"sqlite:{tmp_path}/chat.db"
        first = start_server("--store", store)
        async with Calls(first.url) as calls:
            call = calls.send(ChatRequest(message="hi", model_id="demo?chunks=1000&rate=50"))
            responses = [await call.read() for _ in range(5)]
            first.kill()
            with pytest.raises(grpc.aio.AioRpcError):
                while await call.read() is not grpc.aio.EOF:
                    pass
        second = start_server("--store", store)
        async with Calls(second.url) as calls:
            turn_id = responses[0].turn_id
            whole = await events(calls.follow(followed(turn_id, 0)))
            assert (whole[-1]["type"], whole[-1]["code"]) == ("error", "interrupted")
            # Events that the crash took before they were on disk: whoever has them is at the tail.
            for after in (len(whole) - 1, len(whole) + 1, 2**31 - 1):
                assert await events(calls.follow(followed(turn_id, after))) == whole[-1:]
            assert await events(calls.follow(followed(turn_id, len(whole)))) == []

    run(scenario())
