"""Which session it is: of a message behind a command, of what others do, and after the way to the server was gone."""

import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.client.link import Link
from tests.client.terminal import CTRL_C, ENTER, Terminal, get, stop, stream, until

QUICK, LONG = "demo?chunks=2&rate=0", "demo?chunks=5000&rate=50"


def said(url: str, session: str) -> list[str]:
    return [message["text"] for message in get(url, f"/sessions/{session}")["messages"] if message["role"] == "user"]


@pytest.mark.parametrize("name", ["sse", "grpc"])
def test_a_first_message_is_asked_once(
    name: str, start_server: Callable[..., Any], terminal: Callable[..., Terminal]
) -> None:
    url = start_server("--model", LONG).url
    screen = terminal("--server", url, "--protocol", "rest")
    screen.wait_bar("●")
    screen.keys("once", ENTER)
    until(lambda: get(url, "/sessions")["sessions"])
    screen.keys(f"/protocol {name}", ENTER)
    screen.wait(f"Going on over {name}.")
    screen.wait_bar("tokens/s")
    (session,) = get(url, "/sessions")["sessions"]
    stop(url, session["session_id"])
    screen.wait("─ cancelled ─")
