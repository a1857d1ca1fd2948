"""Writing to a connection's socket without asyncio's detour.

asyncio's own transport tries to send at once, too, but looks at half a dozen of its fields before: with a chunk to each
of a thousand sockets that is a twelfth of the time. So what can be sent is sent here, and the transport gets the rest
and whatever went wrong: it waits for the socket, and closes the connection.
"""

import asyncio
from typing import Any


class DirectWriter:
    """Its protocol tells it when the transport holds something back: what comes then must go behind that."""

    __slots__ = ("_full", "_socket", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._socket: Any = None
        # TLS, Windows' proactor and other loops have reasons of their own not to send at once.
        if type(transport).__module__ == "asyncio.selector_events":
            self._socket = getattr(transport.get_extra_info("socket"), "_sock", None)
            transport.set_write_buffer_limits(0)  # pause as soon as anything is held back
        self._full = self._socket is None

    def write(self, data: bytes) -> None:
        if not self._full:
            try:
                sent = self._socket.send(data)
            except OSError:  # it takes nothing now, or never again
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
        self._transport.write(data)

    def pause(self) -> None:
        """The transport holds something back; or the connection is gone."""
        self._full = True

    def resume(self) -> None:
        """The transport's buffer is empty again."""
        self._full = self._socket is None
