"""What lies between a browser and its server: it can be cut and mended, and it can fall silent."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any


class Cable:
    """A TCP relay."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._loop = asyncio.new_event_loop()
        self._open: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.port = 0
        self.mend()
        self.url = f"http://127.0.0.1:{self.port}"

    def mend(self) -> None:
        self._do(self._listen())

    def cut(self) -> None:
        self._do(self._abort())

    def until_used(self) -> None:
        """Wait until somebody is connected."""
        self._do(self._used())

    def hold(self) -> None:
        """Nothing arrives any more on either side, and neither is told."""
        self._do(self._flow(False))

    def release(self) -> None:
        """What was on its way arrives."""
        self._do(self._flow(True))

    def close(self) -> None:
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, what: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _abort(self) -> None:
        self._server.close()
        for writer in self._open:
            writer.transport.abort()
        self._flows.set()
        while self._open:
            await asyncio.sleep(0)

    async def _used(self) -> None:
        while not self._open:
            await asyncio.sleep(0.005)

    async def _flow(self, flows: bool) -> None:
        if flows:
            self._flows.set()
        else:
            self._flows.clear()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        pair = {writer, far_writer}
        self._open |= pair
        try:
            await asyncio.gather(self._copy(reader, far_writer), self._copy(far_reader, writer))
        finally:
            for one in pair:
                one.close()
            self._open -= pair

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await self._flows.wait()
                writer.write(data)
        except ConnectionError:
            pass
        writer.close()
