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


def masked(text, mask=b"\x01\x80\xff\x7e", first=0x81):
    data = text.encode()
    head = bytes([first, 0x80 | min(len(data), 126)]) + (len(data).to_bytes(2, "big") if len(data) > 125 else b"")
    return head + mask + bytes(byte ^ mask[place % 4] for place, byte in enumerate(data))


def hearing():
    reader, texts = Heard(), []
    frames = ClientFrames(reader)
    frames.hear = texts.append
    return frames, reader, texts


@pytest.mark.parametrize("text", ["", "a", "ab", "abc", "grüße", "x" * 125, "x" * 126, "y" * 4095, "z" * 4096])
def test_a_short_text_that_comes_alone_is_heard_at_once(text):
    frames, reader, texts = hearing()
    for _ in range(2):
        frames.feed_data(masked(text))
    assert texts == [text, text] and not reader.data and frames.hear


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(masked("z" * 4097), id="long"),
        pytest.param(masked("a") + masked("b"), id="two"),
        pytest.param(masked("abc")[:-1], id="cut"),
        pytest.param(masked("a" * 130)[:3], id="cut in its head"),
        pytest.param(LARGE[:14] + b"a" * 119, id="cut where it looks like one of 127 bytes"),
        pytest.param(b"\x81\xfe\x00\x00" + MASK[:2], id="cut in its mask, and of no length"),
        pytest.param(b"\x81\xfe\x00\x02" + MASK + b"{}", id="of a length that is written too long"),
        pytest.param(masked("a", first=0x01), id="begun"),
        pytest.param(masked("a", first=0xC1), id="compressed"),
        pytest.param(masked("a", first=0x82), id="binary"),
        pytest.param(masked("", first=0x89), id="ping"),
        pytest.param(b"\x81\x81" + MASK + b"\xff", id="not UTF-8"),
        pytest.param(b"\x81\x02{}", id="unmasked"),
        pytest.param(b"\x81\x06" + MASK + b"{}", id="unmasked, as long as a masked one"),
    ],
)
def test_everything_else_is_for_the_reader_and_so_is_what_comes_behind_it(data):
    frames, reader, texts = hearing()
    frames.feed_data(data)
    frames.feed_data(SMALL)
    assert not texts and frames.hear is None and (reader.data == data + SMALL or REFUSED in reader.data)


def test_a_text_in_the_midst_of_another_message_is_for_the_reader():
    """Which refuses it."""
    frames, reader, texts = hearing()
    begun = masked("a", first=0x01)
    frames.feed_data(begun)
    frames.hear = texts.append
    frames.feed_data(SMALL)
    assert not texts and reader.data == begun + SMALL
    frames, reader, texts = hearing()
    frames.feed_data(begun + masked("", first=0x89) + masked("b", first=0x80))
    frames.hear = texts.append
    frames.feed_data(masked("c"))
    assert texts == ["c"]


def test_a_wake_up_is_a_pong_for_the_reader():
    frames, reader, texts = hearing()
    frames.wake()
    assert reader.data == b"\x8a\x80" + MASK and frames.hear is None and not texts
