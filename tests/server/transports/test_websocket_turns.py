"""Turns as a WebSocket shows them: those of others, several at once, cancelled, failed, resumed."""

import pytest
from grpclib.client import Channel

from proto.chat_grpc import ChatServiceStub
from proto.chat_pb2 import ChatRequest
from server.models import End
from tests.server.transports.messages import types

DEMO = "demo?chunks=5&rate=0"


def test_who_leaves_in_the_midst_of_an_answer_sees_no_more_of_it(run, serving, meet, script):
    async def scene():
        model = script()
        async with serving(providers=[model], model="scripted") as app, meet(app, 2) as (one, two):
            session_id = await one.create()
            await two.join(session_id)
            await one.say("chat", message="Hi")
            ask = await model.asked()
            await two.until("response_start")
            await two.say("leave_session")
            await two.next("session_left")
            ask.say("Hello", End())
            await one.until("response_complete")
            await two.quiet()

    run(scene())


@pytest.mark.parametrize("transport", ["rest", "ndjson", "sse", "websocket", "grpc"])
def test_members_see_turns_of_every_transport(run, serving, meet, dial, script, transport):
    async def scene():
        model = script("Hel", "lo", End())
        async with serving(providers=[model], model="scripted") as app, meet(app, 2) as (one, two), dial(app) as wire:
            session_id = await one.create()
            await two.join(session_id)
            await one.next("session_update", update_type="user_joined")
            body = {"message": "Hi", "session_id": session_id}
            if transport == "rest":
                assert (await wire.ask("POST", "/chat", body)).status == 200
            elif transport in ("ndjson", "sse"):
                accept = {"Accept": "text/event-stream"} if transport == "sse" else {}
                assert (await wire.ask("POST", "/chat/stream", body, **accept)).status == 200
            elif transport == "websocket":
                async with meet(app) as three:
                    await three.say("chat", **body)
                    await three.until("response_complete")
            else:
                channel = Channel("127.0.0.1", int(app.http_url.rpartition(":")[2]))
                try:
                    async with ChatServiceStub(channel).Chat.open() as stream:
                        await stream.send_message(ChatRequest(message="Hi", session_id=session_id), end=True)
                        assert [response async for response in stream]
                finally:
                    channel.close()
            for peer in (one, two):
                heard = await peer.until("response_complete")
                turn = [message for message in heard if "seq" in message]
                assert types(turn) == ["status", "response_start", "chunk", "chunk", "chunk", "response_complete"]
                assert turn[-1]["full_response"] == "Hello"

    run(scene())


def test_who_joins_late_sees_the_running_turn_from_its_beginning(run, serving, meet, script):
    async def scene():
        model = script()
        async with serving(providers=[model], model="scripted") as app, meet(app, 2) as (one, two):
            session_id = await one.create()
            await one.say("chat", message="Hi")
            ask = await model.asked()
            ask.say("Hel", "lo")
            await one.until("chunk", text="lo")
            await two.join(session_id)
            assert types([await two.hear() for _ in range(4)]) == ["status", "response_start", "chunk", "chunk"]
            ask.say(End())
            assert types(await two.until("response_complete")) == ["chunk", "response_complete"]

    run(scene())


def test_several_turns_of_several_sessions_at_once(run, serving, meet, script):
    async def scene():
        model = script()
        async with serving(providers=[model], model="scripted") as app, meet(app) as peer:
            asks = {}
            for name in ("a", "b", "c"):
                await peer.say("chat", message=f"I am {name}", session_id=name)
                asks[name] = await model.asked()
            for piece in ("1", "2", "3"):
                for name, ask in asks.items():
                    ask.say(name + piece)
            for name in ("c", "a", "b"):
                asks[name].say(End())
            heard = []
            while sum(message["type"] == "response_complete" for message in heard) < 3:
                heard.append(await peer.hear())
            for name in asks:
                (start,) = [m for m in heard if m["type"] == "response_start" and m["session_id"] == name]
                turn = [message for message in heard if message.get("turn_id") == start["turn_id"]]
                assert [message["seq"] for message in turn] == [2, 1, 3, 4, 5, 6, 7]
                assert turn[-1]["full_response"] == f"{name}1{name}2{name}3"

    run(scene())


def test_a_busy_session_names_its_turn(run, serving, meet, script):
    async def scene():
        model = script()
        async with serving(providers=[model], model="scripted") as app, meet(app, 2) as (one, two):
            await one.say("chat", message="Hi", session_id="s")
            start = (await one.until("response_start"))[-1]
            for peer in (one, two):
                await peer.say("chat", message="Me too", session_id="s")
                refused = await peer.next("error", code="session_busy", session_id="s")
                assert refused["turn_id"] == start["turn_id"]
                assert refused["retryable"]
                assert "seq" not in refused
            (await model.asked()).say(End("Hello"))
            await one.until("response_complete")
            await two.quiet()  # a refused chat makes no member

    run(scene())


def test_cancel(run, serving, meet, script):
    async def scene():
        model = script()
        async with serving(providers=[model], model="scripted") as app, meet(app, 2) as (one, two):
            await one.say("chat", message="Hi", session_id="s")
            ask = await model.asked()
            ask.say("Hel")
            turn_id = (await one.until("chunk", text="Hel"))[-1]["turn_id"]
            await two.say("cancel", turn_id=turn_id)
            ended = (await one.until("response_complete"))[-1]
            assert (ended["finish_reason"], ended["full_response"]) == ("cancelled", "Hel")
            await ask.stopped.wait()
            # Whoever does not follow is answered by the end, every time.
            assert await two.hear() == ended
            await two.say("cancel", turn_id=turn_id)
            assert await two.hear() == ended
            await two.say("cancel", turn_id="nobodys")
            await two.next("error", code="not_found", turn_id="nobodys")

    run(scene())


def test_a_turn_that_fails_ends_with_an_error_that_has_a_seq(run, serving, meet):
    async def scene():
        async with serving(model="demo?chunks=5&rate=0&fail_after=2") as app, meet(app) as peer:
            await peer.say("chat", message="Hi")
            heard = await peer.until("error")
            assert types(heard) == ["status", "response_start", "chunk", "chunk", "error"]
            assert heard[-1] | {"seq": 5, "code": "model_error", "turn_id": heard[0]["turn_id"]} == heard[-1]
            await peer.quiet()

    run(scene())


def test_resume_from_every_cursor_of_an_ended_turn(run, serving, meet):
    async def scene():
        async with serving(model=DEMO) as app, meet(app, 2) as (one, two):
            await one.say("chat", message="Hi")
            whole = await one.until("response_complete")
            turn_id = whole[0]["turn_id"]
            order = sorted(whole, key=lambda message: message["seq"])
            for after in range(len(order) + 1):
                await two.say("resume", turn_id=turn_id, after=after)
                heard = await two.until("response_complete")
                if after < 2:
                    assert heard == whole  # `status` takes `response_start` along
                else:
                    assert heard == (order[after:] or order[-1:])  # the tail is answered by the end
            await two.quiet()
            await two.say("resume", turn_id=turn_id, after=len(order) + 1)
            await two.next("error", code="invalid_request", turn_id=turn_id)
            await two.say("resume", turn_id="nobodys", after=0)
            await two.next("error", code="not_found", turn_id="nobodys")

    run(scene())


def test_resume_of_a_running_turn_starts_anew_from_the_asked_cursor(run, serving, meet, script):
    async def scene():
        model = script()
        async with serving(providers=[model], model="scripted") as app, meet(app, 2) as (one, two):
            await one.say("chat", message="Hi")
            ask = await model.asked()
            ask.say("a", "b")
            turn_id = (await one.until("chunk", text="b"))[-1]["turn_id"]
            await one.say("resume", turn_id=turn_id, after=3)
            await one.next("chunk", text="b")
            await two.say("resume", turn_id=turn_id, after=4)
            await two.quiet()
            ask.say("c")
            for peer in (one, two):
                await peer.next("chunk", text="c", seq=5)
            await two.say("resume", turn_id=turn_id, after=6)
            await two.next("error", code="invalid_request")
            ask.say(End("d"))
            for peer in (one, two):
                assert types([await peer.hear(), await peer.hear()]) == ["chunk", "response_complete"]
                await peer.quiet()
            assert app.chat.stats.open_streams == 0

    run(scene())


def test_a_turn_survives_its_connection(run, serving, meet, script):
    async def scene():
        model = script()
        async with serving(providers=[model], model="scripted") as app:
            async with meet(app) as one:
                await one.say("chat", message="Hi", session_id="s", idempotency_key="k")
                ask = await model.asked()
                ask.say("a")
                chunk = (await one.until("chunk"))[-1]
            ask.say("b")
            async with meet(app) as two:
                await two.say("resume", turn_id=chunk["turn_id"], after=chunk["seq"])
                await two.next("chunk", text="b")
                # The same key, in doubt whether the message had arrived: the same turn, from its beginning.
                await two.say("chat", message="Hi", session_id="s", idempotency_key="k")
                await two.say("ping")
                heard = await two.until("pong")
                assert {message.get("turn_id", chunk["turn_id"]) for message in heard} == {chunk["turn_id"]}
                ask.say(End())
                await two.until("response_complete")
                await two.say("chat", message="Hi", session_id="s", idempotency_key="k")
                again = await two.until("response_complete")
                assert again[0]["turn_id"] == chunk["turn_id"]
                assert again[-1]["full_response"] == "ab"
                await two.say("chat", message="Other", session_id="s", idempotency_key="k")
                await two.next("error", code="conflict")

    run(scene())


def test_figures(run, serving, meet):
    async def scene():
        async with serving(model=DEMO) as app, meet(app, 2) as (one, two):
            await two.join(await one.create())
            await one.say("chat", message="Hi")
            for peer in (one, two):
                await peer.until("response_complete")
            stats = app.chat.tell()
            assert stats.websocket_connections == 2
            assert stats.transports["websocket"].requests == 1
            assert stats.transports["websocket"].chunks == 10
            assert stats.transports["websocket"].bytes > 1000
            assert stats.transports["websocket"].open_streams == 0

    run(scene())
