"""What a server says that is none of ours: no word of it steers the terminal, and what nobody understands is told."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.client.stranger import Stranger, lines
from tests.client.terminal import CTRL_C, CTRL_D, ENTER, TAB, Terminal
from tests.client.test_one_shot import ask

TITLE, TURNED = "\x1b]0;pwned\x07", "\u202e"
BAD = f"{TITLE}{TURNED}"
SESSION = f"s{BAD}"
USAGE = {"input_tokens": 1, "output_tokens": 1, "estimated": True}


def turn(session_id: str = SESSION) -> list[dict[str, Any]]:
    """The events of one, with something bad in every text."""
    start = {"type": "session_info", "session_id": session_id, "model": f"m{BAD}", "timestamp": f"now{BAD}"}
    status = {"type": "status", "message": f"...{BAD}", "context_messages": 1, "omitted_messages": 0}
    chunk = {"type": "chunk", "text": f"hello{BAD}", "chunk_number": 1, "is_final": True, "timestamp": f"now{BAD}"}
    end = {"type": "complete", "total_chunks": 1, "processing_time": 1.0, "message_count": 2, "timestamp": f"now{BAD}"}
    end |= {"session_id": session_id, "finish_reason": f"odd{BAD}", "usage": USAGE, "text_sha256": ""}
    events = [start | {"is_new_session": True, "message": f"hi{BAD}"}, status, chunk, end]
    return [event | {"turn_id": "t", "seq": seq} for seq, event in enumerate(events, 1)]


HEALTH = {"status": f"healthy{BAD}", "model": f"m{BAD}", "framework": f"f{BAD}", "transports": {f"sse{BAD}": {}}}
DETAIL = {
    "session_id": SESSION,
    "model": f"m{BAD}",
    "message_count": 2,
    "created_at": BAD,
    "messages": [{"role": f"user{BAD}", "text": f"said{BAD}", "turn_id": "t", "timestamp": BAD, "code": BAD}],
    "active_turn": f"t{BAD}",
}
ANSWERS = {
    "GET /health": json.dumps(HEALTH),
    "GET /stats": json.dumps(HEALTH),
    "GET /models": json.dumps({"default": f"d{BAD}", "models": [{"id": f"d{BAD}", "provider": BAD}]}),
    "GET /sessions": json.dumps({"active_sessions": 1, "sessions": [DETAIL], "next": BAD}),
    "GET /sessions/": json.dumps(DETAIL),
    "POST /sessions/new": json.dumps({"session_id": f"n{BAD}", "model": f"m{BAD}", "timestamp": BAD}),
    "POST /chat/stream": lines(turn()),
}


def test_no_text_of_a_server_steers_the_terminal(
    stranger: Callable[..., Stranger], terminal: Callable[..., Terminal]
) -> None:
    screen = terminal("--server", stranger(ANSWERS).url, "--protocol", "ndjson", DISPLAY="", WAYLAND_DISPLAY="")
    screen.wait_bar("●")
    for typed, shown in (
        ("hello", "stopped: odd]0;pwned"),
        ("/server", "  sse]0;pwned  0 requests"),
        ("/health", "healthy]0;pwned, up"),
        ("/model", "m]0;pwned"),
        ("/sessions", "s]0;pwned"),
        ("/info", "turn t]0;pwned"),
        ("/history", "said]0;pwned"),
        ("/stats", "s]0;pwned"),
        ("/new", "A new session with m]0;pwned"),
        ("hello", "stopped: odd]0;pwned"),
    ):
        screen.keys(typed, ENTER)
        screen.wait(f"You › {typed}", shown)
    screen.wait_bar("● You [s]0;pwned] ›", "m]0;pwned · connected")
    screen.keys("/delete ")
    screen.wait_bar("s]0;pwned  2 messages, m]0;pwned")
    screen.keys(TAB)
    screen.wait_bar("/delete s]0;pwned")
    screen.keys(CTRL_C, "/delete 1", ENTER)
    screen.wait_bar("Delete session s]0;pwned with 2 messages? y/N ›")
    screen.keys("n", ENTER)
    screen.wait("It stays.")
    screen.keys(CTRL_D)
    assert screen.end() == 0
    assert "To go on with this session: --session s]0;pwned" in screen.text
    assert TITLE not in screen.raw and TURNED not in screen.raw


def test_no_text_of_a_server_steers_what_goes_wrong(stranger: Callable[..., Stranger]) -> None:
    url = stranger(ANSWERS).url
    told = "fivewire: the answer is not whole: odd]0;pwned\n"
    again = f"{told}fivewire: the session 's]0;pwned' is new\n{told}"
    assert ask(url, "--protocol", "ndjson", typed="one\ntwo\n") == (0, "hello]0;pwned\nhello]0;pwned\n", again)


@pytest.mark.parametrize(
    ("place", "wrong", "name"),
    [(0, {"seq": "1"}, "seq"), (2, {"text": None}, "text"), (3, {"usage": {"input_tokens": 1.5}}, "input_tokens")],
)
def test_what_nobody_understands_is_told(
    place: int, wrong: dict[str, Any], name: str, stranger: Callable[..., Stranger]
) -> None:
    events = turn()
    events[place] |= wrong
    url = stranger({**ANSWERS, "POST /chat/stream": lines(events)}).url
    told = f"fivewire: The server at {url} does not speak this protocol: '{name}' has a wrong type."
    assert ask(url, "--protocol", "ndjson", "hi") == (3, "", f"{told} Trying again.\n{told}\n")


def test_a_turn_whose_id_would_break_a_header_is_not_understood(stranger: Callable[..., Stranger]) -> None:
    events = [event | {"turn_id": "t\r\nX-Told: yes"} for event in turn()[:3]]
    url = stranger({**ANSWERS, "POST /chat/stream": lines(events)}).url
    told = f"fivewire: The server at {url} does not speak this protocol: 'turn_id' is none."
    assert ask(url, "--protocol", "ndjson", "hi") == (3, "", f"{told} Trying again.\n{told}\n")


def test_a_usage_that_is_not_whole_is_no_trouble(stranger: Callable[..., Stranger]) -> None:
    events = turn()
    events[-1] |= {"usage": {"input_tokens": 1}, "finish_reason": "stop"}
    url = stranger({**ANSWERS, "POST /chat/stream": lines(events)}).url
    assert ask(url, "--protocol", "ndjson", "hi") == (0, "hello]0;pwned\n", "")
