"""A conversation over gRPC with the official client: its errors are answers, it joins sessions, members see all."""

import json

from proto import chat_pb2
from proto.chat_pb2 import ChatRequest, ChatResponse
from tests.server.transports.official import FAST, SLOW, Stub, connect, until


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
