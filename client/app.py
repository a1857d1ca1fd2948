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
    console = Console(sys.stdout, sys.stderr)
    by_hand = settings.message is None and sys.stdin.isatty()
    if by_hand and console.terminal:
        return await _prompt(settings)
    _wake_at_interrupts()
    messages = oneshot.lines_of(sys.stdin) if settings.message is None else oneshot.one(settings.message)
    if by_hand:
        messages = oneshot.typed(messages, console)
    conversation = Conversation(open_transport, settings.protocol, settings.server, oneshot.Reader(console))
    conversation.session_id = settings.session
    conversation.wanted_model = settings.model
    try:
        return await oneshot.run(conversation, messages, console, json=settings.json, plain=settings.plain)
    finally:
        await conversation.disconnect()


def _wake_at_interrupts() -> None:
    """asyncio.run's own handler does not wake the loop: a Ctrl-C that comes just before it goes to sleep is lost until
    a byte comes. For a signal with a handler of the loop it wakes. Yet asyncio.run's stays: a second Ctrl-C raises
    KeyboardInterrupt, also in a write that nobody reads, where a callback of the loop would wait for ever."""
    handler = signal.getsignal(signal.SIGINT)
    if callable(handler):  # not where SIGINT is ignored
        with contextlib.suppress(NotImplementedError):  # on Windows
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, lambda: None)
            signal.signal(signal.SIGINT, handler)


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
