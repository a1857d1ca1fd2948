"""The documentation page in a real browser: it says all there is, and it can be tried."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

READY = "document.querySelector('#errors')"


@pytest.fixture
def docs(page: Any, shared_server: Any) -> Iterator[Any]:
    page.open(f"{shared_server.url}/docs")
    page.until(READY)
    yield page
    assert page.errors == []
    assert page.hosts == {shared_server.url.split("/")[2]}


def fill(page: Any, entry: str, label: str, text: str) -> None:
    page.run(
        f"""(() => {{
            const labels = Array.from(document.querySelectorAll("#{entry} .try label"));
            const label = labels.find((label) => label.textContent.startsWith({label!r}));
            const field = document.getElementById(label.htmlFor);
            field.value = {text!r};
            field.dispatchEvent(new Event("input", {{bubbles: true}}));
            field.dispatchEvent(new Event("change", {{bubbles: true}}));
        }})()"""
    )


def test_every_route_event_method_and_code_is_there(docs: Any) -> None:
    missing = docs.run(
        """(async () => {
            const told = await (await fetch("openapi.json")).json();
            const proto = await (await fetch("chat.proto")).text();
            const all = Object.values(told.paths).flatMap((methods) => Object.values(methods));
            const ids = all.map((one) => one.operationId);
            ids.push(...told.components.schemas.event.oneOf.map((one) => "event-" + one.$ref.split("/").at(-1)));
            ids.push(...Array.from(proto.matchAll(/rpc (\\w+)/g), (match) => "rpc-" + match[1]));
            const text = document.body.textContent;
            const codes = Object.keys(told["x-error-codes"]).filter((code) => !text.includes(code));
            const fields = Object.values(told.components.schemas).flatMap((one) => Object.keys(one.properties ?? {}));
            const unsaid = fields.filter((name) => !text.includes(name));
            return [...ids.filter((id) => !document.getElementById(id)), ...codes, ...unsaid];
        })()"""
    )
    assert missing == []
    assert docs.run("document.querySelectorAll('#contents-list a').length") > 30
    dead = docs.run(
        """Array.from(document.querySelectorAll('a[href^="#"]'), (a) => a.hash.slice(1))
            .filter((id) => !document.getElementById(id))"""
    )
    assert dead == []


@pytest.mark.parametrize(
    "media,piece", [("application/x-ndjson", '"type":"complete"'), ("text/event-stream", "data: {")]
)
def test_a_stream_is_shown_as_it_arrives(media: str, piece: str, docs: Any) -> None:
    entry = "post_chat_stream"
    fill(docs, entry, "Accept", media)
    fill(docs, entry, "Body", '{"message": "Hello", "model_id": "demo?chunks=5000&rate=40"}')
    assert f"Accept: {media}" in docs.text(f"#{entry} .box pre")
    docs.click(f"#{entry} .try .primary")
    output = f"document.querySelector('#{entry} .output')"
    docs.until(f"{output}.querySelectorAll('.at').length > 12")
    assert "ended" not in docs.text(f"#{entry} .status")
    [turn] = set(re.findall('"turn_id":"([^"]+)"', docs.text(f"#{entry} .output pre")))
    docs.run(f"fetch('turns/{turn}/cancel', {{method: 'POST'}})")
    docs.until(f"{output}.querySelector('.status').innerText.includes('ended')")
    docs.until(f"{output}.querySelector('pre').innerText.includes({json.dumps(piece)})")


def test_a_fast_stream_is_shown_to_its_end_and_the_last_of_it_kept(docs: Any) -> None:
    entry = "post_chat_stream"
    fill(docs, entry, "Body", '{"message": "Hello", "model_id": "demo?chunks=6000&rate=0"}')
    docs.click(f"#{entry} .try .primary")
    docs.until(f"document.querySelector('#{entry} .output pre').innerText.includes('complete')")
    assert docs.run(f"document.querySelectorAll('#{entry} .output .at').length") <= 2000


def test_a_stream_can_be_stopped(docs: Any) -> None:
    entry = "post_chat_stream"
    fill(docs, entry, "Body", '{"message": "Hello", "model_id": "demo?chunks=4000&rate=40"}')
    docs.click(f"#{entry} .try .primary")
    docs.until(f"document.querySelectorAll('#{entry} .output .at').length > 4")
    docs.click(f"#{entry} .try button[type=button]")
    docs.until(f"document.querySelector('#{entry} .status').innerText.includes('Stopped')")


@pytest.mark.parametrize("prefix", ["", "/below/a/proxy"])
def test_a_command_asks_for_the_path_that_it_stands_by(prefix: str, docs: Any, shared_server: Any) -> None:
    entries = docs.run(
        f"history.replaceState(null, '', '{prefix}/docs');"
        """Array.from(document.querySelectorAll(".entry"), (entry) => {
            entry.querySelector("form")?.dispatchEvent(new Event("input"));
            return [entry.querySelector(".path span + span")?.innerText, entry.querySelector(".box pre")?.innerText];
        }).filter(([path, command]) => path && command?.startsWith("curl "));"""
    )
    assert len(entries) > 15 and {"/", "/turns/{turn_id}"} <= {path for path, _ in entries}
    for path, command in entries:
        assert f"'{shared_server.url}{prefix}{path}'" in command.replace("\n", " ").split(" "), command
    docs.errors.clear()  # the browser looks there for the icon


def test_the_root_can_be_tried(docs: Any) -> None:
    docs.click("#get_ .try .primary")
    docs.until("document.querySelector('#get_ .output .status.good')")
    docs.until("document.querySelector('#get_ .output pre').innerText.includes('\"endpoints\"')")


@pytest.mark.parametrize("entry", ["get_turns_turn_id", "rpc-CancelTurn"])
def test_what_is_missing_is_named_and_nothing_is_asked(entry: str, docs: Any) -> None:
    assert "{turn_id}" in docs.text(f"#{entry} .box pre")
    asked = len(docs.requests)
    docs.click(f"#{entry} .try .primary")
    docs.until(f"document.querySelector('#{entry} .output .status.bad')?.innerText.startsWith('turn_id is missing')")
    assert docs.run(f"document.activeElement.closest('.entry').id === '{entry}'")
    assert len(docs.requests) == asked
    fill(docs, entry, *(("Message", json.dumps({"turn_id": "t"})) if entry.startswith("rpc") else ("turn_id", "t")))
    assert "{turn_id}" not in docs.text(f"#{entry} .box pre")


def test_parameters_go_where_they_belong(docs: Any) -> None:
    entry = "get_sessions_session_id"
    fill(docs, entry, "session_id", "no such/one")
    assert "/sessions/no%20such%2Fone" in docs.text(f"#{entry} .box pre")
    fill(docs, entry, "session_id", "nobody")
    docs.click(f"#{entry} .try .primary")
    docs.until(f"document.querySelector('#{entry} .output pre').innerText.includes('\"code\": \"not_found\"')")
    assert docs.text(f"#{entry} .output .status.bad").startswith("404")
    docs.errors.clear()  # the browser logs the 404
    docs.click("#get_models .try .primary")
    docs.until("document.querySelector('#get_models .output pre').innerText.includes('\"default\": \"demo\"')")


def test_a_quote_in_a_message_is_quoted_for_the_shell(docs: Any) -> None:
    fill(docs, "post_chat", "Body", '{"message": "It\'s <b>me</b>"}')
    line = docs.text("#post_chat .box pre")
    assert "'{\"message\":\"It'\\''s <b>me</b>\"}'" in line


def test_grpc_methods_can_be_tried(docs: Any) -> None:
    fill(docs, "rpc-StreamChat", "Message", '{"message": "Hello", "model_id": "demo?chunks=10&rate=100"}')
    docs.click("#rpc-StreamChat .try .primary")
    docs.until("document.querySelector('#rpc-StreamChat .status').innerText.startsWith('OK · ended')")
    assert "RESPONSE_COMPLETE" in docs.text("#rpc-StreamChat .output pre")
    docs.click("#rpc-ListModels .try .primary")
    docs.until("document.querySelector('#rpc-ListModels .status.good')")
    fill(docs, "rpc-GetSessionInfo", "Message", '{"session_id": "nobody"}')
    docs.click("#rpc-GetSessionInfo .try .primary")
    docs.until("document.querySelector('#rpc-GetSessionInfo .status.bad')")
    assert "not_found" in docs.text("#rpc-GetSessionInfo .status")


def test_grpcurl_is_told_to_do_without_tls_only_where_there_is_none(
    page: Any, shared_server: Any, start_server: Callable[..., Any], tmp_path: Path
) -> None:
    commands = "Array.from(document.querySelectorAll('[id^=rpc-] .box:first-child pre'), (box) => box.innerText)"
    page.open(f"{shared_server.url}/docs")
    page.until(READY)
    assert all(command.startswith("grpcurl -plaintext -d") for command in page.run(commands))
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    subprocess.run([*command.split(), "-keyout", key, "-out", cert], check=True, capture_output=True)
    server = start_server("--tls-cert", cert, "--tls-key", key)
    page.call("Security.setIgnoreCertificateErrors", ignore=True)
    page.open(f"{server.url}/docs")
    page.until(READY)
    over_tls = page.run(commands)
    assert over_tls and all(command.startswith("grpcurl -d") for command in over_tls)
    page.call("Security.setIgnoreCertificateErrors", ignore=False)


def test_the_websocket_can_be_tried(docs: Any) -> None:
    docs.click("#get_ws .try .primary")
    docs.until("document.querySelector('#get_ws .output').innerText.includes('\"connected\"')")
    fill(docs, "get_ws", "Message", "ping")
    docs.click("#get_ws .try button[type=submit]")
    docs.until("document.querySelector('#get_ws .output').innerText.includes('\"pong\"')")
    docs.click("#get_ws .try .primary")
    docs.until("document.querySelector('#get_ws .status').innerText.includes('1000')")


def test_each_answer_is_told_with_its_own_status(docs: Any) -> None:
    """Also 408 and 415, which have the code of 400, and those that are no errors, like the end of an EventSource."""
    told = docs.run("fetch('openapi.json').then((answer) => answer.json())")
    codes = told["x-error-codes"]
    for path, methods in told["paths"].items():
        for operation in methods.values():
            entry = f"document.getElementById('{operation['operationId']}')"
            rows = docs.run(
                f"""Array.from({entry}.querySelectorAll(".errors tr"), (row) =>
                    Array.from(row.cells, (cell) => cell.innerText).slice(0, 2))"""
            )
            text = docs.run(f"{entry}.innerText")
            wanted = []
            for status, response in operation["responses"].items():
                if "application/problem+json" in response.get("content", {}):
                    wanted += [[code, status] for code in response["description"].split(", ")]
                elif not path.startswith("/chat.") and status != "101":
                    assert f"Answer {status}" in text, (path, status)
            assert rows == wanted and {code for code, _ in rows} <= set(codes), path
