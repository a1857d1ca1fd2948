"""Where the client is put together: settings, console, transports, and the one of its two faces that is wanted.

What is not wanted is not imported: a command line answers after 0.2 s then, instead of 0.45 s.
"""

import asyncio
import contextlib
import signal
import sys

from client import oneshot
from client.console import Console
from client.conversation import Conversation
from client.settings import Settings
from client.transports import Listener, Transport


def open_transport(protocol: str, url: str, listener: Listener) -> Transport:
    if protocol == "rest":
        from client.transports.rest import Rest

        return Rest(url)
    if protocol == "grpc":
        from client.transports.grpc import Grpc

        return Grpc(url, listener)
    if protocol == "websocket":
        from client.transports.websocket import WebSocket

        return WebSocket(url, listener)
    from client.transports.stream import Stream

    return Stream(url, protocol)


async def run(settings: Settings) -> int:
    console = Console()
    if settings.message is None and sys.stdin.isatty() and console.terminal:
        return await _prompt(settings)
    task = asyncio.current_task()
    assert task is not None
    with contextlib.suppress(NotImplementedError):  # on Windows, asyncio.run's own handler has to do
        # That one does not wake the loop: a Ctrl-C that comes just before it goes to sleep is lost until a byte comes.
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, task.cancel)
    messages = oneshot.lines_of(sys.stdin) if settings.message is None else oneshot.one(settings.message)
    conversation = Conversation(open_transport, settings.protocol, settings.server, oneshot.Reader(console))
    conversation.session_id = settings.session
    conversation.wanted_model = settings.model
    try:
        return await oneshot.run(conversation, messages, console, json=settings.json, plain=settings.plain)
    finally:
        await conversation.disconnect()


async def _prompt(settings: Settings) -> int:
    from client.repl import Repl
    from client.screen import Screen

    repl = Repl(Screen(sys.stdout, sys.stderr), settings.plain)
    conversation = Conversation(open_transport, settings.protocol, settings.server, repl)
    conversation.wanted_model = settings.model
    try:
        return await repl.run(conversation, settings.session)
    finally:
        await conversation.disconnect()
