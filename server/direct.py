"""Writing to a connection's socket without asyncio's detour.

asyncio's own transport tries to send at once, too, but looks at half a dozen of its fields before: with a chunk to each
of a thousand sockets that is a fifteenth of the time. So what can be sent is sent here, and the transport gets the rest
and whatever went wrong: it waits for the socket, and closes the connection.
"""

import asyncio
from typing import Any


class DirectWriter:
    """One connection's. Its protocol tells it when the transport holds something back: what comes then must go behind
    that. To hear of the first byte it lowers the transport's limit: whoever waits for the transport to drain, be it
    aiohttp or grpclib, waits until nothing is held back."""

    __slots__ = ("_socket", "_transport", "at_once")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport: asyncio.Transport | None = transport
        self._socket: Any = None
        # TLS, Windows' proactor and other loops have reasons of their own not to send at once.
        if type(transport).__module__ == "asyncio.selector_events":
            # asyncio shows its socket without its `send`; without the private name all goes by the transport.
            self._socket = getattr(transport.get_extra_info("socket"), "_sock", None)
        if self._socket is not None:
            transport.set_write_buffer_limits(0)
        self.at_once = self._socket is not None

    def write(self, data: bytes) -> None:
        if self.at_once:
            try:
                sent = self._socket.send(data)
            except OSError:  # it takes nothing now, or never again
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
        if self._transport is not None:
            self._transport.write(data)

    def pause(self) -> None:
        """The transport holds something back."""
        self.at_once = False

    def resume(self) -> None:
        """It holds nothing back any more."""
        self.at_once = self._socket is not None

    def lost(self) -> None:
        """The connection is gone, and so is what is written from now on."""
        self._transport = self._socket = None
        self.at_once = False
