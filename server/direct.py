"""Writing to a connection's socket without asyncio's detour.

asyncio's own transport tries to send at once, too, but looks at half a dozen of its fields before: with a chunk to each
of a thousand sockets that is a fifteenth of the time. So what can be sent is sent here, and the transport gets the rest
and whatever went wrong: it waits for the socket, and closes the connection.
"""

import asyncio
from abc import ABC, abstractmethod
from typing import Any, Protocol


class Sender(Protocol):
    """Takes as much as it can at once, as a socket does; OSError if that is nothing."""

    def send(self, data: bytes, /) -> int: ...


class Writer(Protocol):
    """Takes bytes for a peer, all of them."""

    @property
    def sender(self) -> Sender:
        """The shortest way, as long as nothing is held back; what it does not take is to be written."""

    def write(self, data: bytes) -> object: ...

    def taken(self) -> int:
        """A number that grows as the peer takes what was held back for it."""


class Whole(ABC):
    """A writer that has no shorter way."""

    __slots__ = ()

    @property
    def sender(self) -> Sender:
        return self

    def send(self, data: bytes) -> int:
        self.write(data)
        return len(data)

    @abstractmethod
    def write(self, data: bytes) -> None: ...

    @abstractmethod
    def taken(self) -> int: ...


class DirectWriter(Whole):
    """One connection's. Its protocol tells it when the transport holds something back: what comes then must go behind
    that. To hear of the first byte it lowers the transport's limit: whoever waits for the transport to drain, be it
    aiohttp or grpclib, waits until nothing is held back."""

    __slots__ = ("_below", "_handed", "_own", "_socket", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._handed = 0  # bytes that were for the transport to send
        self._transport: asyncio.Transport | None = transport
        # TLS hands what it has encrypted on to the socket's transport, half a megabyte at a time. What it holds itself
        # stays the same until the other holds next to nothing, which may take a slow peer minutes.
        self._below: Any = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)
        self._own: Any = None
        # TLS, Windows' proactor and other loops have reasons of their own not to send at once.
        if type(transport).__module__ == "asyncio.selector_events":
            # asyncio shows its socket without its `send`; without the private name all goes by the transport.
            self._own = getattr(transport.get_extra_info("socket"), "_sock", None)
        if self._own is not None:
            transport.set_write_buffer_limits(0)
        self._socket = self._own  # none while the transport holds something back

    @property
    def at_once(self) -> bool:
        """Whether what is written goes to the socket."""
        return self._socket is not None

    @property
    def sender(self) -> Sender:
        return self if self._socket is None else self._socket

    def write(self, data: bytes) -> None:
        socket = self._socket
        if socket is not None:
            try:
                sent = socket.send(data)
            except OSError:  # it takes nothing now, or never again
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
        if self._transport is not None:
            self._handed += len(data)
            self._transport.write(data)

    def taken(self) -> int:
        # How much is held back tells nothing by itself: many may write by one connection, each when there is room.
        return self._handed - self.held()

    def held(self) -> int:
        """How many bytes the peer has yet to take before more can be sent."""
        return sum(each.get_write_buffer_size() for each in (self._transport, self._below) if each is not None)

    def pause(self) -> None:
        """The transport holds something back."""
        self._socket = None

    def resume(self) -> None:
        """It holds nothing back any more."""
        self._socket = self._own

    def lost(self) -> None:
        """The connection is gone, and so is what is written from now on."""
        self._transport = self._below = self._own = self._socket = None


class Writing(Protocol):
    """Who writes by its `writer`."""

    writer: Writer


class Opening(Whole):
    """The writer of one who has not written yet: what begins an answer leaves with the first that is written."""

    __slots__ = ("_head", "_then", "_who")

    def __init__(self, who: Writing, head: bytes, then: Writer) -> None:
        self._who = who
        self._head = head
        self._then = then

    def write(self, data: bytes) -> None:
        self._who.writer = self._then
        self._then.write(self._head + data)

    def taken(self) -> int:
        return self._then.taken()
