"""Other clients of gRPC: our own channel, one of an older server, the official ones for health and reflection."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from client.channel import Channel
from proto import chat_pb2, pb
from proto.chat_grpc import ChatServiceStub
from proto.chat_pb2 import ChatRequest
from proto.events import Complete

HERE = Path(__file__).parent


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
