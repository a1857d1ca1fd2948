"""gRPC with the official client: every call, on both ports, with and without gzip and TLS; and what goes wrong."""

import asyncio
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import grpc
import grpc.aio
import pytest

from client.channel import Channel
from proto import chat_pb2, pb
from proto.chat_grpc import ChatServiceStub
from proto.chat_pb2 import ChatRequest, ChatResponse
from proto.events import Complete
from server.rpc import METHODS

HERE = Path(__file__).parent
FAST = "demo?chunks=5&rate=0"
SLOW = "demo?chunks=1000&rate=20"


class Stub:
    """The calls of the service on an official channel."""

    def __init__(self, channel):
        for method in METHODS.values():
            sides = ["stream" if streams else "unary" for streams in (method.takes_stream, method.gives_stream)]
            call = getattr(channel, "_".join(sides))(
                f"/chat.ChatService/{method.name}",
                request_serializer=lambda request: (
                    request if isinstance(request, bytes) else request.SerializeToString()
                ),
                response_deserializer=method.gives.FromString,
            )
            setattr(self, method.name, call)


def connect(app, port="http", gzip=False, certificate=None):
    address = app.http_url.partition("//")[2] if port == "http" else app.grpc_addresses[0]
    compression = grpc.Compression.Gzip if gzip else grpc.Compression.NoCompression
    if certificate is None:
        return grpc.aio.insecure_channel(address, compression=compression)
    credentials = grpc.ssl_channel_credentials(Path(certificate[0]).read_bytes())
    return grpc.aio.secure_channel(address, credentials, compression=compression)


async def status_of(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    return caught.value.code().name, dict(caught.value.trailing_metadata()).get("fivewire-code")


async def until(call, kind):
    """The responses up to and including the first of this type."""
    responses = []
    while not responses or responses[-1].type != kind:
        response = await call.read()
        assert response is not grpc.aio.EOF, responses
        responses.append(response)
    return responses


@pytest.mark.parametrize("port", ["http", "grpc"])
@pytest.mark.parametrize("gzip", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
def test_every_call(serving, run, certificate, port, gzip, tls):
    async def scenario():
        files = {"tls_cert": certificate[0], "tls_key": certificate[1]} if tls else {}
        async with (
            serving(grpc_port=0, **files) as app,
            connect(app, port, gzip, certificate if tls else None) as channel,
        ):
            await every_call(Stub(channel))

    run(scenario())


async def every_call(stub):
    created = await stub.CreateSession(chat_pb2.CreateSessionRequest(model_id=FAST))
    assert created.success and created.model == FAST and created.timestamp
    session = created.session_id
    text = "Grüße 🌊 " * 500  # large enough to be gzipped

    stream = stub.StreamChat(ChatRequest(session_id=session, message=text, idempotency_key="once"))
    responses = [response async for response in stream]
    assert [response.seq for response in responses] == list(range(1, 9))
    start, status, *chunks, end = responses
    turn = start.turn_id
    assert dict(await stream.initial_metadata())["fivewire-turn-id"] == turn
    assert (start.type, start.message, start.model) == (ChatResponse.RESPONSE_START, text, FAST)
    assert status.status_message == "Generating response..."
    assert [chunk.chunk_number for chunk in chunks] == [1, 2, 3, 4, 5]
    assert [chunk.is_final for chunk in chunks] == [False] * 4 + [True]
    answer = "".join(chunk.chunk_text for chunk in chunks)
    assert end.type == ChatResponse.RESPONSE_COMPLETE and end.total_chunks == 5
    assert end.text_sha256 == hashlib.sha256(answer.encode()).hexdigest()

    again = stub.StreamChat(ChatRequest(session_id=session, message=text, idempotency_key="once"))
    assert [response async for response in again] == responses
    for after in range(9):
        followed = stub.FollowTurn(chat_pb2.FollowTurnRequest(turn_id=turn, after=after))
        assert [response async for response in followed] == responses[after:]
        assert await followed.code() is grpc.StatusCode.OK

    history = await stub.GetHistory(chat_pb2.HistoryRequest(session_id=session))
    assert [(message.role, message.text) for message in history.messages] == [("user", text), ("model", answer)]
    assert [message.finish_reason for message in history.messages] == ["", "stop"]
    snapshot = await stub.CancelTurn(chat_pb2.CancelTurnRequest(turn_id=turn))
    assert (snapshot.status, snapshot.text, snapshot.last_seq) == ("complete", answer, 8)
    info = await stub.GetSessionInfo(chat_pb2.SessionInfoRequest(session_id=session))
    assert (info.message_count, info.HasField("active_turn")) == (2, False)
    await stub.CreateSession(chat_pb2.CreateSessionRequest())
    page = await stub.ListSessions(chat_pb2.ListSessionsRequest(limit=1))
    assert page.active_sessions == 2
    rest = await stub.ListSessions(chat_pb2.ListSessionsRequest(limit=1, before=page.next))
    assert len({page.sessions[0].session_id, rest.sessions[0].session_id}) == 2 and not rest.HasField("next")
    stats = await stub.GetServerStats(chat_pb2.ServerStatsRequest())
    assert stats.transports["grpc"].requests == 2 and stats.transports["grpc"].chunks > 5
    models = await stub.ListModels(chat_pb2.ListModelsRequest())
    assert models.default == "demo" and models.models
    assert (await stub.ClearSession(chat_pb2.ClearSessionRequest(session_id=session))).success
    assert not (await stub.GetHistory(chat_pb2.HistoryRequest(session_id=session))).messages

    chat = stub.Chat()
    await chat.write(ChatRequest(type=ChatRequest.PING))
    assert (await chat.read()).type == ChatResponse.PONG
    await chat.write(ChatRequest(message="Hello", model_id=FAST))
    update, *turn = await until(chat, ChatResponse.RESPONSE_COMPLETE)
    assert update.update_type == "session_created" and update.session_id == turn[0].session_id != session
    turn = [response for response in turn if response.seq]
    assert [response.seq for response in turn] == list(range(1, 9))
    assert turn[0].is_new_session
    await chat.done_writing()
    while await chat.read() is not grpc.aio.EOF:
        pass
    assert await chat.code() is grpc.StatusCode.OK
    assert (await stub.DeleteSession(chat_pb2.DeleteSessionRequest(session_id=session))).success
    assert await status_of(stub.GetSessionInfo(chat_pb2.SessionInfoRequest(session_id=session))) == (
        "NOT_FOUND",
        "not_found",
    )


def test_a_wrong_request_has_its_status_and_the_connection_lives_on(serving, run):
    async def scenario():
        async with serving(max_message_chars=1000) as app, connect(app) as channel:
            stub = Stub(channel)
            call = {
                name: getattr(stub, name)
                for name in ("GetSessionInfo", "DeleteSession", "ClearSession", "GetHistory", "ListSessions")
            }
            unknown = b"\x0a\x07unknown"
            for name in ("GetSessionInfo", "DeleteSession", "ClearSession", "GetHistory", "CancelTurn", "FollowTurn"):
                assert await status_of(getattr(stub, name)(unknown)) == ("NOT_FOUND", "not_found"), name
            invalid = ("INVALID_ARGUMENT", "invalid_request")
            for name, request in (
                ("GetSessionInfo", chat_pb2.SessionInfoRequest(session_id="no/slash")),
                ("ListSessions", chat_pb2.ListSessionsRequest(limit=-1)),
                ("ListSessions", chat_pb2.ListSessionsRequest(limit=100_000)),
                ("ListSessions", chat_pb2.ListSessionsRequest(before="now")),
                ("CreateSession", chat_pb2.CreateSessionRequest(model_id="no such model")),
                ("FollowTurn", chat_pb2.FollowTurnRequest(turn_id="../..")),
                ("FollowTurn", chat_pb2.FollowTurnRequest(turn_id="unknown", after=-1)),
                ("StreamChat", ChatRequest(message=" ")),
                ("StreamChat", ChatRequest(message="hi", model_id="nothing")),
                ("StreamChat", ChatRequest(message="hi", idempotency_key="ü")),
                ("StreamChat", ChatRequest(message="hi", type="PING")),
            ):
                assert await status_of(getattr(stub, name)(request)) == invalid, (name, request)
            too_large = ("RESOURCE_EXHAUSTED", "too_large")
            assert await status_of(stub.StreamChat(ChatRequest(message="x" * 1001))) == too_large
            for data in (b"\xff\xff", b"\x0a\x05ab", b"\x0a\x02\xff\xfe"):  # no tag, cut, not UTF-8
                assert await status_of(stub.GetSessionInfo(data)) == invalid, data
            assert await status_of(stub.GetSessionInfo(b"\0" * (2**22 + 1))) == too_large
            squeezed = stub.GetSessionInfo(b"\0" * (2**26), compression=grpc.Compression.Gzip)
            assert await status_of(squeezed) == too_large
            deflated = stub.CreateSession(b"\0" * 1000, compression=grpc.Compression.Deflate)
            assert await status_of(deflated) == ("UNIMPLEMENTED", "invalid_request")
            none = channel.unary_unary("/chat.ChatService/Nothing")
            assert await status_of(none(b"")) == ("UNIMPLEMENTED", "not_found")
            assert (await call["ListSessions"](b"")).active_sessions == 0
            assert len(app._grpc._server.connections) == 1

    run(scenario())


def test_a_turn_that_breaks_ends_its_stream_with_an_error_and_an_ok(serving, run):
    async def scenario():
        async with serving() as app, connect(app) as channel:
            call = Stub(channel).StreamChat(ChatRequest(message="hi", model_id="demo?chunks=9&rate=0&fail_after=2"))
            *_, end = [response async for response in call]
            assert (end.type, end.code, end.seq) == (ChatResponse.ERROR, "model_error", 5)
            assert end.error_message
            assert await call.code() is grpc.StatusCode.OK

    run(scenario())


def test_cursors(serving, run):
    async def scenario():
        async with serving() as app, connect(app) as channel:
            stub = Stub(channel)
            *_, end = [response async for response in stub.StreamChat(ChatRequest(message="hi", model_id=FAST))]
            follow = chat_pb2.FollowTurnRequest(turn_id=end.turn_id, after=end.seq + 1)
            assert await status_of(stub.FollowTurn(follow)) == ("INVALID_ARGUMENT", "invalid_request")
            follow.after = end.seq
            call = stub.FollowTurn(follow)
            assert [response async for response in call] == []
            assert await call.code() is grpc.StatusCode.OK

    run(scenario())


def test_errors_on_a_conversation_are_answers_and_it_lives_on(serving, run):
    async def scenario():
        async with serving() as app, connect(app) as channel:
            chat = Stub(channel).Chat()
            for request, code in (
                (ChatRequest(message="hi", session_id="unknown"), "not_found"),
                (ChatRequest(message="hi", session_id="no/slash"), "invalid_request"),
                (ChatRequest(message=""), "invalid_request"),
                (ChatRequest(type="JOIN", session_id="unknown"), "not_found"),
                (ChatRequest(type="JOIN"), "invalid_request"),
                (ChatRequest(type="TYPING_START", session_id="unknown"), "not_found"),
                (ChatRequest(type="CANCEL", turn_id="unknown"), "not_found"),
                (ChatRequest(type="RESUME", turn_id="unknown"), "not_found"),
                (ChatRequest(type="RESUME", turn_id="unknown", after=-1), "invalid_request"),
                (ChatRequest(type=77), "invalid_request"),
            ):
                await chat.write(request)
                response = await chat.read()
                assert (response.type, response.code, response.seq) == (ChatResponse.ERROR, code, 0), request
            await chat.write(ChatRequest(message="hi", model_id=SLOW))
            responses = await until(chat, ChatResponse.CHUNK)
            turn = responses[-1]
            await chat.write(ChatRequest(message="hi", session_id=turn.session_id))
            busy = (await until(chat, ChatResponse.ERROR))[-1]
            assert (busy.code, busy.turn_id, busy.retryable, busy.seq) == ("session_busy", turn.turn_id, True, 0)
            await chat.write(ChatRequest(type="CANCEL", turn_id=turn.turn_id))
            end = (await until(chat, ChatResponse.RESPONSE_COMPLETE))[-1]
            assert end.finish_reason == "cancelled"
            # Resumed where nothing is left, a turn says its end again; so does one that is cancelled again.
            await chat.write(ChatRequest(type="RESUME", turn_id=turn.turn_id, after=end.seq))
            assert (await until(chat, ChatResponse.RESPONSE_COMPLETE))[-1] == end
            await chat.write(ChatRequest(type="CANCEL", turn_id=turn.turn_id))
            assert (await until(chat, ChatResponse.RESPONSE_COMPLETE))[-1] == end
            await chat.write(ChatRequest(type="RESUME", turn_id=turn.turn_id, after=1))
            seqs = [response.seq for response in await until(chat, ChatResponse.RESPONSE_COMPLETE)]
            assert seqs == list(range(2, end.seq + 1))
            chat.cancel()

    run(scenario())


def test_a_conversation_joins_only_so_many_sessions(serving, run, monkeypatch):
    monkeypatch.setattr("server.sessions.MAX_JOINED", 2)

    async def scenario():
        async with serving() as app, connect(app) as channel:
            sessions = [(await app.chat.new_session()).id for _ in range(3)]
            chat = Stub(channel).Chat()
            for session in (sessions[0], sessions[1], sessions[0]):
                await chat.write(ChatRequest(type="JOIN", session_id=session))
                assert (await chat.read()).update_type == "session_joined"
            for request in (
                ChatRequest(type="JOIN", session_id=sessions[2]),
                ChatRequest(type="TYPING_START", session_id=sessions[2]),
                ChatRequest(message="hi", session_id=sessions[2]),
                ChatRequest(message="hi"),
            ):
                await chat.write(request)
                assert (await chat.read()).code == "rate_limited", request
            await chat.write(ChatRequest(message="hi", session_id=sessions[0], model_id=FAST))
            assert (await until(chat, ChatResponse.RESPONSE_COMPLETE))[-1].session_id == sessions[0]
            assert app.chat.tell().active_sessions == 3
            chat.cancel()

    run(scenario())


def test_members_see_turns_and_updates(serving, run):
    async def scenario():
        async with serving() as app, connect(app) as channel:
            stub = Stub(channel)
            session = (await stub.CreateSession(chat_pb2.CreateSessionRequest(model_id=FAST))).session_id
            anna, bert = stub.Chat(), stub.Chat()
            for chat in (anna, bert):
                await chat.write(ChatRequest(type="JOIN", session_id=session))
                joined = await chat.read()
                assert joined.update_type == "session_joined"
                assert json.loads(joined.update_data)["message_count"] == 0
            assert (await anna.read()).update_type == "user_joined"
            await anna.write(ChatRequest(type="TYPING_START", session_id=session))
            typing = await bert.read()
            assert typing.update_type == "user_typing" and json.loads(typing.update_data)["typing"] is True
            # A turn that somebody else asks for, by another call:
            asked = [response async for response in stub.StreamChat(ChatRequest(session_id=session, message="hi"))]
            for chat in (anna, bert):
                seen = await until(chat, ChatResponse.RESPONSE_COMPLETE)
                assert [response for response in seen if response.seq] == asked
            bert.cancel()
            while (left := await anna.read()).update_type != "user_disconnected":
                assert left.update_type
            await stub.DeleteSession(chat_pb2.DeleteSessionRequest(session_id=session))
            while (left := await anna.read()).update_type != "session_deleted":
                assert left.update_type
            anna.cancel()

    run(scenario())


@pytest.mark.parametrize("leave", ["cancel", "deadline", "disconnect"])
def test_a_call_that_is_left_leaves_the_turn(serving, run, leave):
    async def scenario():
        async with serving(resume_grace=20) as app, connect(app) as channel:
            async with connect(app) as other:
                timeout = 0.5 if leave == "deadline" else None
                call = Stub(other).StreamChat(ChatRequest(message="hi", model_id=SLOW), timeout=timeout)
                async for response in call:
                    if response.chunk_number == 1 and leave == "cancel":
                        call.cancel()
                        break
                    if response.chunk_number == 1 and leave == "disconnect":
                        break
                    if leave == "deadline" and response.chunk_number == 3:
                        assert await status_of(call) == ("DEADLINE_EXCEEDED", None)
                        break
            turn = await app.chat.turn(response.turn_id)
            while app.chat.tell().streaming_connections:  # noqa: ASYNC110 - the server has no event for it
                await asyncio.sleep(0.01)
            assert turn.running
            stub = Stub(channel)
            follow = stub.FollowTurn(chat_pb2.FollowTurnRequest(turn_id=turn.id, after=response.seq))
            async for next_one in follow:
                assert next_one.seq == response.seq + 1
                break
            await stub.CancelTurn(chat_pb2.CancelTurnRequest(turn_id=turn.id))

    run(scenario())


def test_going_down_lets_calls_end_and_refuses_new_ones(serving, run):
    async def scenario():
        async with serving() as app, connect(app) as channel, connect(app) as other:
            stub = Stub(channel)
            idle = Stub(other).Chat()
            await idle.write(ChatRequest(type="PING"))
            await idle.read()
            call = stub.StreamChat(ChatRequest(message="hi", model_id="demo?chunks=10&rate=20"))
            responses = [await call.read()]
            stopping = asyncio.ensure_future(app.stop(drain_seconds=20))
            assert await status_of(idle.read()) == ("UNAVAILABLE", "unavailable")
            refused = Stub(other).StreamChat(ChatRequest(message="hi"))
            assert await status_of(refused) == ("UNAVAILABLE", "unavailable")
            while (response := await call.read()) is not grpc.aio.EOF:
                responses.append(response)
            assert [response.seq for response in responses] == list(range(1, 14))
            assert await call.code() is grpc.StatusCode.OK
            await stopping
            assert not app._grpc._server.connections

    run(scenario())


def test_our_own_channel(serving, run):
    async def scenario():
        async with serving() as app:
            host, port = app.http_url.partition("//")[2].split(":")
            channel = Channel(host, int(port))
            try:
                stub = ChatServiceStub(channel)
                text = "long " * 5000
                responses = await stub.StreamChat(ChatRequest(message=text, model_id="demo?chunks=5&rate=50"))
                assert responses[0].message == text and isinstance(pb.from_response(responses[-1]), Complete)
                async with stub.StreamChat.open() as call:
                    await call.send_message(ChatRequest(message=text, model_id="demo?chunks=5&rate=20"), end=True)
                    first = await call.recv_message()
                    stopping = asyncio.ensure_future(app.stop(drain_seconds=20))
                    rest = [response async for response in call]
                    assert [response.seq for response in (first, *rest)] == list(range(1, 9))
                await stopping
                with pytest.raises(OSError):
                    await stub.ListSessions(chat_pb2.ListSessionsRequest())
            finally:
                channel.close()

    run(scenario())


async def in_process(*arguments):
    return await asyncio.create_subprocess_exec(
        sys.executable, *map(str, arguments), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )


def test_a_client_of_an_older_server(serving, run, tmp_path):
    out = [f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}"]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{HERE}", *out, "older.proto"]
    subprocess.run(command, check=True, timeout=60)

    async def scenario():
        async with serving() as app:
            client = await in_process(HERE / "older_client.py", tmp_path, app.http_url.partition("//")[2])
            _, errors = await client.communicate()
            assert client.returncode == 0, errors.decode()

    run(scenario())


def test_official_health_and_reflection(serving, run):
    async def scenario():
        async with serving() as app:
            client = await in_process(HERE / "health_client.py", app.http_url.partition("//")[2])
            assert await client.stdout.readline() == b"watching\n", (await client.communicate())[1].decode()
            await app.stop(drain_seconds=5)
            _, errors = await client.communicate()
            assert client.returncode == 0, errors.decode()

    run(scenario())
