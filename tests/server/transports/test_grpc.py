"""gRPC with the official client: every call, on both ports, with and without gzip and TLS; and what goes wrong."""

import asyncio
import hashlib

import grpc
import grpc.aio
import pytest

from proto import chat_pb2
from proto.chat_pb2 import ChatRequest, ChatResponse
from tests.server.transports.official import FAST, SLOW, Stub, connect, status_of, until


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
