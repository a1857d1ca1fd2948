"""What comes of a call: its header blocks, and its data until it is read."""

import asyncio

import hpack
import pytest

from proto.grpc_stream import LATER_BYTES, Inbox
from proto.h2_frames import HeaderDecoder

CALL = [(b":method", b"POST"), (b":path", b"/chat.ChatService/StreamChat"), (b"te", b"trailers")]
OTHER = [(b":method", b"POST"), (b":path", b"/chat.ChatService/ListModels"), (b"te", b"trailers")]


def test_header_blocks_mean_what_they_mean_to_hpack():
    """Calls that repeat themselves, fields that are new, fields that are not remembered, places that have moved on."""
    encoder, plain, ours = hpack.Encoder(), hpack.Decoder(), HeaderDecoder()
    secret = [*CALL, hpack.NeverIndexedHeaderTuple(b"x-key", b"1")]
    lists = [CALL, CALL, CALL, OTHER, CALL, CALL, secret, CALL, [*CALL, (b"x-new", b"1")], CALL, CALL, OTHER, OTHER, []]
    lists += [[*CALL, (b"x-new", b"%d" % number)] for number in range(200)] + [CALL, OTHER, CALL, CALL]
    repeated = 0
    for headers in lists:
        block = encoder.encode(headers)
        repeated += bool(block) and min(block) > 0x80
        assert ours.decode(block, raw=True) == plain.decode(block, raw=True) == headers
        assert ours.texts == [(name.decode(), value.decode()) for name, value in headers]
    assert repeated > 8  # else nothing was tried


def test_a_block_that_was_seen_before_does_not_reach_around_a_changed_table():
    """The same byte, 0xBE, is the newest field in the table, whichever that is."""
    ours = HeaderDecoder()
    first, second = b"\x40\x01a\x011", b"\x40\x01b\x012"  # a: 1 and b: 2, to be remembered
    ours.decode(first, raw=True)
    assert ours.decode(b"\xbe", raw=True) == ours.decode(b"\xbe", raw=True) == [(b"a", b"1")]
    ours.decode(second, raw=True)
    assert ours.decode(b"\xbe", raw=True) == [(b"b", b"2")]


def test_a_bad_block_is_refused_also_behind_a_good_one():
    ours = HeaderDecoder()
    assert ours.decode(b"\x83", raw=True) == ours.decode(b"\x83", raw=True)
    for bad in (b"\xfe", b"\x80", b"\xff", b"\xff\xff\xff"):
        with pytest.raises(hpack.HPACKError):
            ours.decode(bad, raw=True)
    assert ours.decode(b"\x83", raw=True) == [(b":method", b"POST")]


class Peer:
    """Has so much room for what it sends."""

    def __init__(self, window: int) -> None:
        self.window = window

    def ack(self, stream_id: int, size: int) -> None:
        assert (stream_id, size > 0) == (1, True)
        self.window += size


def test_a_reader_gives_room_for_what_it_reads_and_for_no_more(run):
    async def scenario():
        peer = Peer(0)
        inbox = Inbox(peer, 1)
        inbox.add(b"12345678", 8)
        inbox.add(b"9", 11)  # with ten bytes of padding
        assert await inbox.read(3) == b"123" and peer.window == 13
        assert await inbox.read(0) == b"" and peer.window == 13
        assert inbox.unacked_size() == 6 and inbox.unacked_size() == 0
        assert await inbox.read(6) == b"456789" and peer.window == 13
        inbox.add(b"abc", 3)
        assert await inbox.read(2) == b"ab" and peer.window == 15

    run(scenario())


def test_room_for_the_rest_of_a_small_request_is_given_when_its_call_is_over(run):
    async def scenario():
        peer = Peer(0)
        inbox = Inbox(peer, 1)
        inbox.add(b"abcdef", 10)
        assert await inbox.read(1) == b"a" and peer.window == 5
        inbox.eof()
        assert await inbox.read(2) == b"bc" and await inbox.read(9) == b"def" and await inbox.read(5) == b""
        assert peer.window == 5 and inbox.unacked_size() == 5 and inbox.unacked_size() == 0

    run(scenario())


def test_room_for_many_small_messages_is_given_before_the_call_is_over(run):
    async def scenario():
        peer = Peer(0)
        inbox = Inbox(peer, 1)
        inbox.add(bytes(10 * LATER_BYTES), 10 * LATER_BYTES)
        inbox.eof()
        for _ in range(1000):
            await inbox.read(40)
        assert 40_000 - LATER_BYTES <= peer.window <= 40_000
        assert peer.window + inbox.unacked_size() == 10 * LATER_BYTES

    run(scenario())


def test_room_for_the_rest_of_a_large_request_is_given_as_it_is_read(run):
    async def scenario():
        peer = Peer(0)
        inbox = Inbox(peer, 1)
        inbox.add(bytes(5 + LATER_BYTES + 1), 5 + LATER_BYTES + 1)
        inbox.eof()
        await inbox.read(5)
        await inbox.read(LATER_BYTES + 1)
        assert peer.window == 5 + LATER_BYTES + 1 and inbox.unacked_size() == 0

    run(scenario())


def test_a_message_may_be_larger_than_the_window(run):
    async def scenario():
        peer = Peer(100)
        inbox = Inbox(peer, 1)
        message = bytes(range(256)) * 4
        reading = asyncio.ensure_future(inbox.read(len(message)))
        sent = 0
        while sent < len(message):
            await asyncio.sleep(0)
            part = message[sent : sent + min(peer.window, 70)]
            peer.window -= len(part)
            sent += len(part)
            inbox.add(part, len(part))
        assert await reading == message and peer.window == 100

    run(scenario())


def test_a_reader_that_gives_up_loses_nothing(run):
    async def scenario():
        inbox = Inbox(Peer(0), 1)
        reading = asyncio.ensure_future(inbox.read(4))
        await asyncio.sleep(0)
        inbox.add(b"12", 2)
        reading.cancel()
        await asyncio.wait([reading])
        inbox.add(b"34", 2)
        assert await inbox.read(4) == b"1234"

    run(scenario())
