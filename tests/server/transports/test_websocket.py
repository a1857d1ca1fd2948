"""The WebSocket as its clients see it: sessions and their members, every update, every refusal."""

import asyncio
import json

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from server.models.demo import Demo
from tests.server.transports.messages import FIELDS, types

DEMO = "demo?chunks=5&rate=0"
TURN = ["status", "response_start", *["chunk"] * 5, "response_complete"]


def test_the_greeting(run, serving):
    async def scene():
        async with serving() as app, connect(app.http_url.replace("http", "ws") + "/ws") as socket:
            greeting = json.loads(await socket.recv())
            assert types([greeting]) == ["connected"]
            assert greeting["server_info"]["model"] == "demo"
            assert greeting["server_info"]["framework"] == "aiohttp + grpclib"
            assert "resume" in greeting["server_info"]["features"]

    run(scene())


def test_create_chat_and_chat_again(run, serving, meet):
    """As an older client does it: no session_id after the session was created."""

    async def scene():
        async with serving(model=DEMO) as app, meet(app) as peer:
            await peer.say("create_session", model_id="demo?chunks=5&rate=0&x=1")
            refused = await peer.next("error", code="invalid_request")
            assert "seq" not in refused
            session_id = await peer.create(model_id=DEMO)
            for count in (1, 3):
                await peer.say("chat", message="Hi")
                heard = await peer.until("response_complete")
                assert types(heard) == ["session_update", *TURN]
                assert heard[0] | {"update_type": "message_added", "message_count": count} == heard[0]
                turn = heard[1:]
                assert {message["turn_id"] for message in turn} == {turn[0]["turn_id"]}
                assert [message["seq"] for message in turn] == [2, 1, 3, 4, 5, 6, 7, 8]
                assert turn[1]["session_id"] == turn[-1]["session_id"] == session_id
                assert turn[1]["message"] == "Hi"
                assert not turn[1]["is_new_session"]
                assert [chunk["is_final"] for chunk in turn[2:-1]] == [False] * 4 + [True]
                assert turn[-1]["full_response"] == "".join(chunk["text"] for chunk in turn[2:-1])
                assert turn[-1]["message_count"] == count + 1

    run(scene())


@pytest.mark.parametrize("session_id", [None, "a.new-one_1"])
def test_chat_makes_a_session_and_joins_it(run, serving, meet, session_id):
    async def scene():
        async with serving(model=DEMO) as app, meet(app) as peer:
            await peer.say("chat", message="Hi", **({"session_id": session_id} if session_id else {}))
            heard = await peer.until("response_complete")
            assert types(heard) == TURN
            assert heard[1]["is_new_session"]
            assert session_id in (None, heard[1]["session_id"])
            assert (await app.chat.sessions()).sessions[0].connected_clients == 1
            await peer.say("chat", message="Again")
            again = await peer.until("response_complete")
            assert again[-1]["session_id"] == heard[-1]["session_id"]
            assert again[-1]["message_count"] == 4

    run(scene())


def test_ping(run, serving, meet):
    async def scene():
        async with serving() as app, meet(app) as peer:
            await peer.say("ping")
            assert types([await peer.hear()]) == ["pong"]

    run(scene())


def test_join_and_leave(run, serving, meet):
    async def scene():
        async with serving(model=DEMO) as app, meet(app, 2) as (one, two):
            session_id = await one.create()
            joined = await two.join(session_id)
            assert types([joined]) == ["session_joined"]
            assert (joined["message_count"], joined["model"]) == (0, DEMO)
            assert joined["connection_id"] == two.connection_id
            update = await one.next("session_update", update_type="user_joined", session_id=session_id)
            assert update["connection_id"] == two.connection_id
            assert (await app.chat.sessions()).sessions[0].connected_clients == 2

            await two.join(session_id)
            await one.quiet()  # joining twice is being there once
            await two.say("leave_session")
            assert types([await two.hear()]) == ["session_left"]
            await one.next("session_update", update_type="user_disconnected", connection_id=two.connection_id)
            await two.say("leave_session", session_id=session_id)
            await two.next("error", code="invalid_request", session_id=session_id)
            await two.say("leave_session")
            await two.next("error", code="invalid_request")

            await one.say("chat", message="Hi")
            await one.until("response_complete")
            await two.quiet()  # who has left sees nothing any more
            assert (await app.chat.sessions()).sessions[0].connected_clients == 1

    run(scene())


def test_typing_is_told_to_the_others_only(run, serving, meet):
    async def scene():
        async with serving() as app, meet(app, 3) as (one, two, other):
            session_id, elsewhere = await one.create(), await other.create()
            await two.join(session_id)
            await one.next("session_update", update_type="user_joined")
            for kind, typing in (("typing_start", True), ("typing_stop", False)):
                await one.say(kind)
                update = await two.next("session_update", update_type="user_typing", session_id=session_id)
                assert (update["connection_id"], update["typing"]) == (one.connection_id, typing)
            await one.quiet()
            await other.quiet()
            # With a session_id it is that one's, also when another was joined since.
            await two.join(elsewhere)
            await two.say("typing_start", session_id=session_id)
            await one.next("session_update", update_type="user_typing", connection_id=two.connection_id)
            await two.say("typing_start")
            await other.until("session_update", update_type="user_typing", connection_id=two.connection_id)
            await one.say("typing_start", session_id=elsewhere)
            await one.next("error", code="invalid_request", session_id=elsewhere)

    run(scene())


def test_message_added(run, serving, meet):
    async def scene():
        async with serving(model=DEMO) as app, meet(app, 2) as (one, two):
            session_id = await one.create()
            await two.join(session_id)
            await one.say("chat", message="Hello there")
            heard = await two.until("response_complete")
            assert types(heard) == ["session_update", *TURN]
            assert heard[0]["update_type"] == "message_added"
            assert heard[0]["message_count"] == 1
            assert heard[0]["last_message_preview"] == "Hello there"
            assert heard[0]["turn_id"] == heard[1]["turn_id"]

    run(scene())


def test_cleared_and_deleted(run, serving, meet, dial):
    async def scene():
        async with serving(model=DEMO) as app, meet(app, 2) as (one, two), dial(app) as wire:
            session_id = await one.create()
            await two.join(session_id)
            await one.next("session_update", update_type="user_joined")
            assert (await wire.ask("POST", f"/sessions/{session_id}/clear")).status == 200
            for peer in (one, two):
                await peer.next("session_update", update_type="session_cleared", session_id=session_id)
            assert (await wire.ask("DELETE", f"/sessions/{session_id}")).status == 200
            for peer in (one, two):
                await peer.next("session_update", update_type="session_deleted", session_id=session_id)
            await one.say("typing_start")
            await one.next("error", code="invalid_request")  # nobody is in a session that is gone
            await one.say("join_session", session_id=session_id)
            await one.next("error", code="not_found", session_id=session_id)
            # The id may be taken again, and is another session then.
            await one.say("chat", message="Hi", session_id=session_id)
            assert (await one.until("response_complete"))[1]["is_new_session"]
            await two.quiet()

    run(scene())


def test_who_disconnects_has_left(run, serving, meet):
    async def scene():
        async with serving() as app, meet(app) as one:
            session_id = await one.create()
            for lost in (False, True):
                async with meet(app) as two:
                    await two.join(session_id)
                    await one.next("session_update", update_type="user_joined")
                    assert app.chat.stats.websockets == 2
                    if lost:
                        two.socket.transport.abort()
                    else:
                        await two.socket.close()
                    await one.next("session_update", update_type="user_disconnected", connection_id=two.connection_id)
                    assert app.chat.stats.websockets == 1

    run(scene())


BAD = [
    ("{", "invalid_request"),
    ("[]", "invalid_request"),
    ("null", "invalid_request"),
    ('{"type": "ping", "x": ' + "[" * 40 + "]" * 40 + "}", "invalid_request"),
    ("{}", "invalid_request"),
    ('{"type": "nonsense"}', "invalid_request"),
    ('{"type": 7}', "invalid_request"),
    ('{"type": "chat"}', "invalid_request"),
    ('{"type": "chat", "message": ""}', "invalid_request"),
    ('{"type": "chat", "message": 5}', "invalid_request"),
    ('{"type": "chat", "message": "Hi", "session_id": "a/b"}', "invalid_request"),
    ('{"type": "chat", "message": "Hi", "model_id": "nonsense"}', "invalid_request"),
    ('{"type": "chat", "message": "%s"}' % ("x" * 51), "too_large"),
    ('{"type": "create_session", "model_id": "nonsense"}', "invalid_request"),
    ('{"type": "join_session"}', "invalid_request"),
    ('{"type": "join_session", "session_id": "unknown"}', "not_found"),
    ('{"type": "leave_session"}', "invalid_request"),
    ('{"type": "typing_start"}', "invalid_request"),
    ('{"type": "typing_stop", "session_id": "unknown"}', "invalid_request"),
    ('{"type": "cancel"}', "invalid_request"),
    ('{"type": "cancel", "turn_id": "unknown"}', "not_found"),
    ('{"type": "resume", "turn_id": "unknown"}', "invalid_request"),
    ('{"type": "resume", "turn_id": "unknown", "after": 0}', "not_found"),
    ('{"type": "resume", "turn_id": "unknown", "after": "x"}', "invalid_request"),
    (b'{"type": "ping"}', "invalid_request"),
    (b"\xff\xfe", "invalid_request"),
]


def test_what_is_not_taken_is_answered_and_the_connection_lives_on(run, serving, meet):
    async def scene():
        async with serving(max_message_chars=50) as app, meet(app) as peer:
            for data, code in BAD:
                await peer.socket.send(data)
                error = await peer.hear()
                assert types([error]) == ["error"], data
                assert error["code"] == code, data
                assert not {"seq", "turn_id"} & set(error) or "unknown" in str(data), data
                await peer.quiet()
            stats = app.chat.tell()
            assert (stats.running_turns, stats.websocket_connections) == (0, 1)

    run(scene())


def test_what_one_connection_may_hold_is_bounded(run, serving, meet, monkeypatch, script):
    monkeypatch.setattr("server.sessions.MAX_JOINED", 2)
    monkeypatch.setattr("server.connection.MAX_FOLLOWED", 3)

    async def scene():
        model = script()
        async with serving(providers=[model], model="scripted") as app, meet(app, 2) as (one, two):
            for name in ("a", "b"):
                await one.say("chat", message="Hi", session_id=name)
                await one.until("response_start")
            await two.create()
            await two.create()
            for kind, fields in (
                ("create_session", {}),
                ("join_session", {"session_id": "a"}),
                ("chat", {"message": "Hi", "session_id": "c"}),
            ):
                await two.say(kind, **fields)
                await two.next("error", code="rate_limited", retryable=True)
            await two.say("leave_session")
            await two.next("session_left")
            await two.join("a")

            turns = [(await app.chat.session(name)).turn.id for name in ("a", "b")]
            async with meet(app, 3) as others:
                for number, peer in enumerate(others):
                    await peer.say("chat", message="Hi", session_id=f"of-{number}")
                    turns.append((await peer.until("response_start"))[-1]["turn_id"])
                async with meet(app) as greedy:
                    for turn_id in turns[:3]:
                        await greedy.say("resume", turn_id=turn_id, after=0)
                        await greedy.until("response_start", turn_id=turn_id)
                    await greedy.say("resume", turn_id=turns[3], after=0)
                    await greedy.next("error", code="rate_limited", turn_id=turns[3])
                    await greedy.say("resume", turn_id=turns[0], after=0)  # which it follows already
                    await greedy.until("response_start", turn_id=turns[0])

    run(scene())


def test_a_flood_is_read_slowly(run, serving, meet, monkeypatch):
    """Five times as many messages as may come at once: the rest takes its time, and nobody else notices."""
    monkeypatch.setattr("server.hearing.BURST_MESSAGES", 50.0)
    monkeypatch.setattr("server.hearing.MESSAGES_PER_SECOND", 1000.0)

    async def scene():
        loop = asyncio.get_running_loop()
        async with serving() as app, meet(app, 2) as (flood, other):
            start = loop.time()
            for _ in range(250):
                await flood.say("ping")
            await other.quiet()
            for _ in range(250):
                await flood.next("pong")
            assert loop.time() - start >= 0.19

    run(scene())


ORIGINS = [
    (None, (), True),
    ("http://{host}", (), True),
    ("https://{host}", (), True),  # behind a proxy that does TLS
    ("http://evil.example", (), False),
    ("null", (), False),
    ("http://{host}.evil.example", (), False),
    ("https://friend.example", ("https://friend.example",), True),
    ("https://friend.example:8443", ("https://friend.example",), False),
    ("http://evil.example", ("*",), True),
]


@pytest.mark.parametrize(("origin", "allowed", "comes_in"), ORIGINS)
def test_pages_of_other_origins_are_kept_out(run, serving, origin, allowed, comes_in):
    async def scene():
        async with serving(allow_origin=allowed) as app:
            host = app.http_url.removeprefix("http://")
            opening = connect(f"ws://{host}/ws", origin=origin and origin.format(host=host))
            if comes_in:
                async with opening as socket:
                    assert json.loads(await socket.recv())["type"] == "connected"
            else:
                with pytest.raises(InvalidStatus) as refused:
                    await opening
                assert refused.value.response.status_code == 403
                assert json.loads(refused.value.response.body)["code"] == "forbidden"

    run(scene())


def test_a_request_that_is_no_websocket(run, serving, dial):
    async def scene():
        async with serving() as app, dial(app) as wire:
            answer = await wire.ask("GET", "/ws")
            assert answer.status == 400
            assert answer.json["code"] == "invalid_request"
            assert "Upgrade: websocket" in answer.json["detail"]
            assert (await wire.ask("POST", "/ws", {})).status == 405

    run(scene())


def test_the_messages_are_documented(run, serving, dial):
    async def scene():
        async with serving() as app, dial(app) as wire:
            document = (await wire.ask("GET", "/openapi.json")).json
            assert "101" in document["paths"]["/ws"]["get"]["responses"]
            told = document["x-websocket"]
            assert told["path"] == "/ws"
            assert set(told["close_codes"]) == {"1001", "1008", "1009", "1013", "4408"}
            server = {message["properties"]["type"]["const"]: message for message in told["server"]}
            for name, fields in FIELDS.items():
                assert fields | {"timestamp"} <= set(server[name]["properties"]), name
                assert server[name]["description"], name
            client = {message["properties"]["type"]["const"]: message for message in told["client"]}
            assert client["resume"]["required"] == ["type", "turn_id", "after"]
            assert client["chat"]["required"] == ["type", "message"]
            for message in (*server.values(), *client.values()):
                for reference in str(message).split("'#/components/schemas/")[1:]:
                    assert reference.partition("'")[0] in document["components"]["schemas"]
            index = (await wire.ask("GET", "/")).json
            assert {"GET /ws"} <= {f"{route['method']} {route['path']}" for route in index["endpoints"]}

    run(scene())


def test_closed_by_the_client(run, serving, meet):
    async def scene():
        async with serving() as app, meet(app) as peer:
            await peer.socket.close(1000)
            assert peer.socket.close_code == 1000
            with pytest.raises(ConnectionClosed):
                await peer.hear()
            async with meet(app) as other:
                assert app.chat.stats.websockets == 1
                await other.quiet()

    run(scene())


def test_over_tls(run, serving, certificate):
    import ssl

    async def scene():
        cert, key = certificate
        async with serving(tls_cert=cert, tls_key=key, providers=[Demo()], model=DEMO) as app:
            trust = ssl.create_default_context(cafile=cert)
            url = app.http_url.replace("https", "wss").replace("127.0.0.1", "localhost") + "/ws"
            async with connect(url, ssl=trust) as socket:
                await socket.send('{"type": "chat", "message": "Hi"}')
                heard = [json.loads(await socket.recv()) for _ in range(9)]
                assert types(heard) == ["connected", *TURN]

    run(scene())
