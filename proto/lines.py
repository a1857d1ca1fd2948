"""Splitting a stream of bytes into lines, in linear time and bounded memory, for the codecs that are made of lines."""

from proto.errors import ProtocolError

MAX_LINE_BYTES = 8 * 2**20


class LineBuffer:
    """Fed pieces, returns the whole lines (without their line feed). A search offset keeps a long line linear."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max = max_line_bytes
        self._data = bytearray()
        self._searched = 0

    def feed(self, data: bytes) -> list[bytes]:
        self._data += data
        last = self._data.rfind(b"\n", self._searched)
        if last < 0:
            self._searched = len(self._data)
            if self._searched > self._max:
                raise ProtocolError(f"A line is longer than {self._max} bytes.")
            return []
        lines = bytes(self._data[:last]).split(b"\n")
        del self._data[: last + 1]
        self._searched = len(self._data)
        return lines
