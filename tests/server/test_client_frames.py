"""What a WebSocket's client may not send, by the heads of its frames."""

import pytest

from server.client_frames import ClientFrames

MASK = b"\x00\x00\x00\x00"
REFUSED = b"\x70\x80"
SMALL = b"\x81\x82" + MASK + b"{}"
EMPTY = b"\x89\x80" + MASK
MIDDLE = b"\xc1\xfe\x00\x7e" + MASK + b"\x89\x00" * 63  # looks like bare pings
LARGE = b"\x81\xff\x00\x00\x00\x00\x00\x01\x00\x00" + MASK + b"\x89\x00" * 32768
HUGE = b"\x81\xff" + b"\xff" * 8 + MASK + b"and so on"
FRAMES = {
    "nothing": (b"", b""),
    "a few": (SMALL + EMPTY + MIDDLE + SMALL, SMALL + EMPTY + MIDDLE + SMALL),
    "of all sizes": (LARGE + SMALL + MIDDLE + EMPTY, LARGE + SMALL + MIDDLE + EMPTY),
    "one without an end": (HUGE + b"\x81\x00", HUGE + b"\x81\x00"),
    "unmasked": (b"\x81\x02{}", REFUSED),
    "unmasked, behind others": (SMALL + MIDDLE + EMPTY + b"\x89\x00" + SMALL, SMALL + MIDDLE + EMPTY + REFUSED),
    "unmasked and large": (SMALL + b"\x81\x7f" + LARGE[2:10], SMALL + REFUSED),
    "a compressed ping": (SMALL + b"\xc9\x81" + MASK + b"x", SMALL + REFUSED),
    "a compressed close": (EMPTY + b"\xc8\x80" + MASK, EMPTY + REFUSED),
}


class Heard:
    """In the reader's place."""

    def __init__(self):
        self.data = b""

    def feed_data(self, data):
        self.data += data
        return False, b""

    def feed_eof(self):
        self.data += b"<end>"


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1 << 20])
@pytest.mark.parametrize("name", FRAMES)
def test_what_is_forbidden_does_not_come_through(name, step):
    sent, taken = FRAMES[name]
    heard = Heard()
    frames = ClientFrames(heard)
    for at in range(0, len(sent), step):
        frames.feed_data(sent[at : at + step])
    assert heard.data[: len(taken)] == taken
    assert REFUSED in taken or len(heard.data) == len(taken)
    frames.feed_eof()
    assert heard.data.endswith(b"<end>")


def test_the_beginning_of_a_head_waits_for_its_rest():
    heard = Heard()
    frames = ClientFrames(heard)
    frames.feed_data(SMALL + MIDDLE[:3])
    assert heard.data == SMALL
    frames.feed_data(MIDDLE[3:5])
    assert heard.data == SMALL + MIDDLE[:5]
