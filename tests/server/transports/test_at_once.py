"""What has nothing to wait for is answered in the call that brings it; what has to wait goes on in a task, in order."""

import asyncio
import json

import pytest

from server.first_step import RestOf
from server.http_protocol import HttpProtocol
from server.models import End
from server.models.demo import Demo
from server.transports.websocket import Socket

QUICK = "demo?chunks=3&rate=0"


async def told(first, seen):
    try:
        seen.append(await first)
        await asyncio.sleep(0)
        return "done"
    except ValueError as failure:
        seen.append(failure)
        return "failed"
    except asyncio.CancelledError:
        seen.append("cancelled")
        raise


@pytest.mark.parametrize("early", [True, False])
def test_the_rest_of_a_coroutine_is_awaited(run, early):
    async def scene():
        first, seen = asyncio.get_running_loop().create_future(), []
        coroutine = told(first, seen)
        rest = RestOf(coroutine, coroutine.send(None))
        if early:
            first.set_result("here")
            assert await rest == "done"
        else:
            task = asyncio.ensure_future(rest)
            await asyncio.sleep(0)
            first.set_result("here")
            assert await task == "done"
        assert seen == ["here"]

    run(scene())


@pytest.mark.parametrize("early", [True, False])
def test_the_rest_of_a_coroutine_fails_and_is_cancelled(run, early):
    async def scene():
        failure, seen = ValueError("no"), []
        first = asyncio.get_running_loop().create_future()
        coroutine = told(first, seen)
        rest = RestOf(coroutine, coroutine.send(None))
        first.set_exception(failure)
        assert await rest == "failed"
        coroutine = told(asyncio.get_running_loop().create_future(), seen)
        task = asyncio.ensure_future(RestOf(coroutine, coroutine.send(None)))
        if not early:  # else before the task's first step
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen == [failure, "cancelled"]

    run(scene())


def counted(monkeypatch, owner, name):
    """Count the calls of a method."""
    calls, method = [], getattr(owner, name)

    def counting(*arguments):
        calls.append(name)
        return method(*arguments)

    monkeypatch.setattr(owner, name, counting)
    return calls


def test_what_waits_for_nothing_is_answered_without_aiohttps_task(run, serving, dial, meet, monkeypatch):
    handled = counted(monkeypatch, HttpProtocol, "_handle")
    read = counted(monkeypatch, Socket, "receive")

    async def scene():
        async with serving(model=QUICK) as app, dial(app) as wire, meet(app) as peer:
            await wire.ask("GET", "/health")  # aiohttp's task has begun by now
            handled.clear()
            for _ in range(3):
                assert (await wire.ask("POST", "/chat", {"message": "Hi"})).status == 200
                assert (await wire.ask("POST", "/chat", {"message": ""})).status == 400
                await peer.say("chat", message="Hi")
                await peer.until("response_complete")
            assert not handled and len(read) == 1  # which still waits
            await wire.ask("GET", "/stats")
            await peer.socket.send(b"binary")
            await peer.until("error")
            await peer.quiet()
            assert len(handled) == 1 and len(read) == 2

    run(scene())


@pytest.mark.parametrize("together", [True, False])
def test_an_answer_that_waits_is_not_overtaken(run, serving, dial, script, together):
    async def scene():
        model = script()
        async with serving(providers=[model, Demo()], model="scripted") as app, dial(app) as wire:
            for number in range(3):
                wire.request("POST", "/chat", {"message": "slow", "session_id": f"s{number}"})
                if not together:
                    ask = await model.asked()
                wire.request("POST", "/chat", {"message": "quick", "session_id": "q", "model_id": QUICK})
                wire.request("GET", "/health")
                if together:
                    ask = await model.asked()
                ask.say("slow", End())
                assert (await wire.answer()).json["session_id"] == f"s{number}"
                assert (await wire.answer()).json["session_id"] == "q"
                assert (await wire.answer()).json["status"] == "healthy"

    run(scene())


class Stubborn:
    """A model that takes its time to stop."""

    id = name = "openai"

    def __init__(self):
        self.stopping, self.let_go = asyncio.Event(), asyncio.Event()

    def model(self, model_id):
        return self

    async def answer(self, messages):
        yield "Well"
        try:
            await asyncio.Event().wait()
        finally:
            self.stopping.set()
            await self.let_go.wait()

    async def close(self):
        pass


def test_a_message_that_waits_is_not_overtaken(run, serving, dial, meet):
    async def scene():
        model = Stubborn()
        async with serving(providers=[model], model="stubborn") as app, dial(app) as wire, meet(app, 2) as (one, two):
            await one.say("chat", message="Hi")
            turn_id = (await one.until("chunk"))[-1]["turn_id"]
            await two.say("cancel", turn_id=turn_id)  # is answered by the end
            await model.stopping.wait()
            for number in range(2):
                await two.say("join_session", session_id=f"unknown-{number}")
                assert (await wire.ask("GET", "/health")).status == 200  # so it is there by now
            model.let_go.set()
            await two.next("response_complete", finish_reason="cancelled")
            for number in range(2):
                assert f"unknown-{number}" in (await two.next("error", code="not_found"))["message"]
            await two.quiet()

    run(scene())


def test_a_message_that_waits_is_taken_though_its_sender_says_goodbye(run, serving, meet, tmp_path, bugs):
    async def scene():
        async with serving(model=QUICK, store=f"sqlite:{tmp_path / 'chats.db'}") as app, meet(app, 5) as peers:
            for number, peer in enumerate(peers):
                await peer.say("chat", message="Hi", session_id=f"s{number}")
                await peer.socket.close()
                assert (await app.chat.detail(f"s{number}")).messages[0].text == "Hi"

    run(scene())


def test_members_see_an_answer_that_is_over_at_once(run, serving, dial, meet):
    async def scene():
        async with serving(model=QUICK) as app, dial(app) as wire, meet(app) as member:
            session_id = await member.create()
            for _ in range(2):
                answer = await wire.ask("POST", "/chat", {"message": "Hi", "session_id": session_id})
                turn = [message for message in await member.until("response_complete") if "seq" in message]
                assert sorted(message["seq"] for message in turn) == [1, 2, 3, 4, 5, 6]
                assert "".join(message.get("text", "") for message in turn) == answer.json["response"]

    run(scene())


def test_who_leaves_before_the_task_goes_on_is_followed_no_more(run, serving, dial, script):
    """Reset in the very pass of the loop in which the request has come."""
    body = json.dumps({"message": "Hi"}).encode()
    head = f"Host: test\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    async def scene():
        model = script()
        async with serving(providers=[model], model="scripted", resume_grace=0.0) as app:
            for path in (b"/chat", b"/chat/stream"):
                async with dial(app) as wire:
                    await wire.ask("GET", "/health")
                    (protocol,) = app._http_connections()
                    protocol.data_received(b"POST " + path + b" HTTP/1.1\r\n" + head + body)
                    assert app.chat.tell().running_turns == 1
                    protocol.transport.abort()
                    await (await model.asked()).stopped.wait()
                    assert not app.chat.stats.open_streams

    run(scene())


@pytest.mark.parametrize("protocol", ["h2c", "websocket"])
def test_an_upgrade_that_is_declined_is_answered_and_so_is_what_comes_behind_it(run, serving, dial, protocol):
    async def scene():
        async with serving(model=QUICK) as app, dial(app) as wire:
            for _ in range(2):
                wire.request("POST", "/chat", {"message": "Hi"}, Connection="Upgrade", Upgrade=protocol)
                assert (await wire.answer()).status == 200
                assert (await wire.ask("POST", "/chat", {"message": "Hi"})).status == 200

    run(scene())


@pytest.mark.parametrize("close", ["Connection: close\r\n", ""])
def test_a_connection_that_is_to_end_ends(run, serving, dial, close):
    body = json.dumps({"message": "Hi"}).encode()
    version = "1.1" if close else "1.0"
    head = f"POST /chat HTTP/{version}\r\nHost: test\r\nContent-Type: application/json\r\n{close}"

    async def scene():
        async with serving(model=QUICK) as app, dial(app) as wire:
            wire.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            assert (await wire.answer()).headers["connection"] == "close"
            assert await wire.reader.read() == b""

    run(scene())
