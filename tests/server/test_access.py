"""Which pages may speak to the server: by their Origin, and by the name under which they reach it."""

import shlex
from typing import Any

import pytest

from server.settings import parse


def test_origins(run: Any, serving: Any, dial: Any) -> None:
    async def test() -> None:
        async with (
            serving(allow_origin=("https://good.example",), model="demo?chunks=1&rate=0") as app,
            dial(app) as wire,
        ):
            answer = await wire.ask("GET", "/health", Origin="http://test")
            assert answer.status == 200 and "access-control-allow-origin" not in answer.headers
            answer = await wire.ask("GET", "/health", Origin="https://good.example")
            assert answer.headers["access-control-allow-origin"] == "https://good.example"
            assert answer.headers["vary"] == "Origin"
            answer = await wire.ask("GET", "/nowhere", Origin="https://good.example")
            assert answer.headers["access-control-allow-origin"] == "https://good.example"
            answer = await wire.ask("POST", "/chat/stream", {"message": "Hello"}, Origin="https://good.example")
            assert answer.headers["access-control-allow-origin"] == "https://good.example"
            assert "X-Turn-Id" in answer.headers["access-control-expose-headers"]
            preflight = {"Origin": "https://good.example", "Access_Control_Request_Method": "POST"}
            answer = await wire.ask("OPTIONS", "/chat/stream", **preflight)
            assert answer.status == 204 and "POST" in answer.headers["access-control-allow-methods"]
            assert "Last-Event-ID" in answer.headers["access-control-allow-headers"]
            assert (await wire.ask("GET", "/health", Origin="https://evil.example")).status == 403

    run(test())


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example.", "a.b:"])
def test_a_name_that_is_made_to_lead_here_is_none_of_this_machine(run: Any, serving: Any, dial: Any, host: str) -> None:
    """DNS rebinding: a page of such a name is of the same origin as what it asks for, and may read the answer."""

    async def test() -> None:
        async with serving() as app, dial(app) as wire:
            for path in ("/sessions", "http://localhost/sessions"):
                for more in ({}, {"Origin": f"http://{host}"}):
                    answer = await wire.ask("GET", path, Host=host, **more)
                    assert (answer.status, answer.json["code"]) == (403, "forbidden")

    run(test())


HERE = (
    "",
    "localhost",
    "localhost.",
    "localhost:8000",
    "app.localhost",
    "myhost",
    "127.0.0.1:1",
    "[::1]:8000",
    "192.168.1.2",
    "[",
)


@pytest.mark.parametrize("host", [*HERE, "chat.example.org", "CHAT.example.org:443"])
def test_names_of_this_machine_and_those_that_the_operator_names(run: Any, serving: Any, dial: Any, host: str) -> None:
    async def test() -> None:
        async with serving(allow_origin=("https://chat.example.org",)) as app, dial(app) as wire:
            assert (await wire.ask("GET", "/health", Host=host)).status == 200

    run(test())


@pytest.mark.parametrize("settings", [{"host": "0.0.0.0"}, {"allow_origin": ("*",)}])
def test_a_server_for_others_has_any_name(run: Any, serving: Any, dial: Any, settings: Any) -> None:
    async def test() -> None:
        async with serving(**settings) as app, dial(app) as wire:
            assert (await wire.ask("GET", "/health", Host="chat.example.org")).status == 200

    run(test())


def test_every_origin_may_be_allowed(run: Any, serving: Any, dial: Any) -> None:
    async def test() -> None:
        async with serving(allow_origin=("*",)) as app, dial(app) as wire:
            answer = await wire.ask("GET", "/health", Origin="https://any.example")
            assert answer.headers["access-control-allow-origin"] == "https://any.example"

    run(test())


@pytest.mark.parametrize("origin", ["http://a.example:81", "capacitor://localhost", "chrome-extension://abc", "null"])
def test_what_a_refusal_says_that_the_operator_can_do_lets_the_page_in(
    run: Any, serving: Any, dial: Any, origin: str
) -> None:
    async def test() -> None:
        async with serving() as app, dial(app) as wire:
            refused = await wire.ask("GET", "/health", Origin=origin)
            assert refused.status == 403
        flags = shlex.split(refused.json["detail"].rpartition(": ")[2])
        async with serving(allow_origin=parse(flags, {}).allow_origin) as app, dial(app) as wire:
            answer = await wire.ask("GET", "/health", Origin=origin)
            assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, origin)

    run(test())
