"""What the documentation says is true: /openapi.json, the table of error codes, the README."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from proto.errors import CODES, ChatError
from server.models import End
from server.settings import PREFIX, Settings

README = Path(__file__).parent.parent / "README.md"

# Contract, section 6.
ERROR_CODES = {
    "invalid_request": (400, "INVALID_ARGUMENT", False),
    "unauthorized": (401, "UNAUTHENTICATED", False),
    "forbidden": (403, "PERMISSION_DENIED", False),
    "not_found": (404, "NOT_FOUND", False),
    "session_busy": (409, "FAILED_PRECONDITION", True),
    "conflict": (409, "FAILED_PRECONDITION", False),
    "too_large": (413, "RESOURCE_EXHAUSTED", False),
    "rate_limited": (429, "RESOURCE_EXHAUSTED", True),
    "model_error": (502, "UNAVAILABLE", False),
    "model_timeout": (504, "DEADLINE_EXCEEDED", True),
    "unavailable": (503, "UNAVAILABLE", True),
    "interrupted": (503, "UNAVAILABLE", True),
    "internal": (500, "INTERNAL", False),
}

# Contract, section 3, and what comes with the other transports.
ROUTES = {
    ("POST", "/chat"), ("POST", "/chat/stream"), ("GET", "/turns/{turn_id}"), ("POST", "/turns/{turn_id}/cancel"),
    ("POST", "/sessions/new"), ("GET", "/sessions"), ("GET", "/sessions/{session_id}"),
    ("DELETE", "/sessions/{session_id}"), ("POST", "/sessions/{session_id}/clear"), ("GET", "/health"),
    ("GET", "/stats"), ("GET", "/metrics"), ("GET", "/models"), ("GET", "/"), ("GET", "/openapi.json"),
    ("GET", "/demo"), ("GET", "/docs"), ("GET", "/ws"),
}  # fmt: skip


def test_the_table_of_error_codes() -> None:
    assert {name: (code.http, code.grpc, code.retryable) for name, code in CODES.items()} == ERROR_CODES


class Document:
    """An OpenAPI document, with as much of JSON Schema as ours uses; a keyword that is not known fails."""

    def __init__(self, whole: Any) -> None:
        self.whole = whole

    def at(self, reference: str) -> Any:
        found = self.whole
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
        return found

    def wrong(self, schema: Any, value: Any, where: str = "$") -> list[str]:
        """Why the value does not fit the schema."""
        kinds = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "object": dict, "array": list}
        errors: list[str] = []
        for keyword, said in schema.items():
            match keyword:
                case "$ref":
                    errors += self.wrong(self.at(said), value, where)
                case "type":
                    fits = value is None if said == "null" else isinstance(value, kinds[said])
                    if not fits or (isinstance(value, bool) and said != "boolean"):
                        errors.append(f"{where} is no {said}: {value!r}")
                case "const":
                    errors += [] if value == said else [f"{where} is not {said!r}"]
                case "enum":
                    errors += [] if value in said else [f"{where} is none of {said!r}"]
                case "anyOf" | "oneOf":
                    fitting = [one for one in said if not self.wrong(one, value, where)]
                    if not fitting or (keyword == "oneOf" and len(fitting) > 1):
                        errors.append(f"{where} fits {len(fitting)} of {keyword}: {value!r}")
                case "properties":
                    for name in set(said) & set(value):
                        errors += self.wrong(said[name], value[name], f"{where}.{name}")
                    if "additionalProperties" not in schema:
                        errors += [f"{where}.{name} is not documented" for name in sorted(set(value) - set(said))]
                case "required":
                    errors += [f"{where}.{name} is missing" for name in said if name not in value]
                case "items":
                    for number, item in enumerate(value):
                        errors += self.wrong(said, item, f"{where}[{number}]")
                case "additionalProperties":
                    for name in set(value) - set(schema.get("properties", ())):
                        errors += self.wrong(said, value[name], f"{where}.{name}")
                case "description" | "example" | "examples" | "default" | "title":
                    pass
                case _:
                    raise AssertionError(f"keyword {keyword} at {where}")
        return errors

    def responses(self, method: str, path: str) -> Any:
        return self.whole["paths"][path][method.lower()]["responses"]

    def check(self, method: str, path: str, answer: Any) -> None:
        """An answer of the server is what the document says of this route."""
        media = answer.headers["content-type"].partition(";")[0]
        response = self.responses(method, path)[str(answer.status)]
        documented = response["content"]
        assert media in documented, (method, path, answer.status, media)
        if media == "application/problem+json":
            assert answer.json["code"] in response["description"].split(", "), (method, path, answer.json)
        if media in ("application/json", "application/problem+json") and "schema" in documented[media]:
            assert self.wrong(documented[media]["schema"], answer.json) == [], (method, path)


@pytest.fixture
def document(run: Any, serving: Any, dial: Any) -> Document:
    async def get() -> Any:
        async with serving() as app, dial(app) as wire:
            return (await wire.ask("GET", "/openapi.json")).json

    return Document(run(get()))


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


def test_openapi_is_an_openapi_document(document: Document) -> None:
    whole = document.whole
    assert whole["openapi"] == "3.1.0"
    assert {"title", "version"} <= set(whole["info"])
    for reference in references(whole):
        assert document.at(reference), reference
    operations = [
        (method, path, operation) for path, item in whole["paths"].items() for method, operation in item.items()
    ]
    ids = [operation["operationId"] for _, _, operation in operations]
    assert len(ids) == len(set(ids))
    for method, path, operation in operations:
        assert method in ("get", "post", "delete", "put", "patch", "head", "options"), path
        assert operation["summary"] and operation["responses"], path
        declared = {(at["name"], at["in"]) for at in operation.get("parameters", ())}
        assert {name for name, place in declared if place == "path"} == set(re.findall(r"{(\w+)}", path)), path
        assert len(declared) == len(operation.get("parameters", ()))
        for parameter in operation.get("parameters", ()):
            assert parameter["in"] in ("path", "query", "header") and parameter["schema"]
            assert parameter["required"] or parameter["in"] != "path"
        for status, response in operation["responses"].items():
            assert re.fullmatch(r"[1-5]\d\d", status) and response["description"], (path, status)
        assert method != "get" or "requestBody" not in operation
        for media in operation.get("requestBody", {}).get("content", {}).values():
            if "example" in media:
                assert document.wrong(media["schema"], media["example"]) == [], path


def test_openapi_has_every_route(document: Document, run: Any, serving: Any, dial: Any) -> None:
    async def index() -> Any:
        async with serving() as app, dial(app) as wire:
            return (await wire.ask("GET", "/")).json["endpoints"]

    documented = {(method.upper(), path) for path, item in document.whole["paths"].items() for method in item}
    assert ROUTES - {("GET", "/ws")} <= documented
    endpoints = {(route["method"], route["path"]) for route in run(index())}
    assert documented <= endpoints and endpoints >= ROUTES


def test_real_answers_are_what_openapi_says(document: Document, run: Any, serving: Any, dial: Any, script: Any) -> None:
    async def test() -> None:
        models = script("a ", End("b"))
        async with serving(model="script", providers=[models]) as app, dial(app) as wire:

            async def ask(
                method: str, path: str, body: Any = None, at: dict[str, str] | None = None, **headers: str
            ) -> Any:
                real = path.format(**(at or {}))
                answer = await wire.ask(method, real, body, **headers)
                document.check(method, path, answer)
                return answer

            chat = await ask("POST", "/chat", {"message": "Hello", "session_id": "s"})
            turn = {"turn_id": chat.json["turn_id"]}
            event = {"$ref": "#/components/schemas/event"}
            stream = await ask("POST", "/chat/stream", {"message": "Hello", "session_id": "s"})
            for line in stream.body.splitlines():
                assert document.wrong(event, json.loads(line)) == []
            await ask("POST", "/chat/stream", {"message": "Hello", "session_id": "s"}, Accept="text/event-stream")
            await ask("GET", "/turns/{turn_id}", at=turn)
            await ask("GET", "/turns/{turn_id}", at=turn, Accept="application/x-ndjson")
            await ask("GET", "/turns/{turn_id}", at={"turn_id": "unknown"})
            await ask("POST", "/turns/{turn_id}/cancel", at=turn)
            await ask("POST", "/sessions/new", {})
            await ask("GET", "/sessions")
            await ask("GET", "/sessions/{session_id}", at={"session_id": "s"})
            await ask("GET", "/sessions/{session_id}", at={"session_id": "unknown"})
            await ask("POST", "/chat", {"message": ""})
            await ask("POST", "/chat", {"message": "x" * 40_000})
            for path in ("/chat", "/chat/stream", "/sessions/new"):
                assert (await ask("POST", path, b"{}", Content_Type="text/plain")).status == 415
                assert (await ask("POST", path, {"message": "x" * 900_000})).status == 413
            await ask("POST", "/chat.ChatService/{method}", b"{}", at={"method": "ListModels"})
            await ask("GET", "/ws")
            await ask("GET", "/ws", Sec_WebSocket_Version="12")
            for path in ("/chat", "/health", "/openapi.json", "/sessions", "/turns/{turn_id}"):
                method = "POST" if path == "/chat" else "GET"
                assert (await ask(method, path, at=turn, Origin="http://elsewhere")).status == 403
            session = await app.chat.session("s")
            session.changing = True
            for method, path in (("POST", "/sessions/{session_id}/clear"), ("DELETE", "/sessions/{session_id}")):
                assert (await ask(method, path, at={"session_id": "s"})).status == 409
            session.changing = False
            for path in ("/health", "/stats", "/metrics", "/models", "/openapi.json", "/"):
                await ask("GET", path)
            done = await wire.ask("GET", f"/turns/{turn['turn_id']}?after=5", Accept="application/x-ndjson")
            assert done.status == 204 and "204" in document.responses("GET", "/turns/{turn_id}")
            for path in ("/demo", "/docs", "/chat.proto"):
                tag = (await ask("GET", path)).headers["etag"]
                known = await wire.ask("GET", path, If_None_Match=tag)
                assert known.status == 304 and "304" in document.responses("GET", path)
            browser = await wire.ask("GET", "/", Accept="text/html")
            assert str(browser.status) in document.responses("GET", "/")
            await ask("POST", "/sessions/{session_id}/clear", at={"session_id": "s"})
            await ask("DELETE", "/sessions/{session_id}", at={"session_id": "s"})
            app.chat.draining = True
            for path in ("/chat", "/chat/stream", "/sessions/new"):
                assert (await ask("POST", path, {"message": "Hello"})).status == 503
            assert (await ask("GET", "/health")).status == 503

    run(test())


@pytest.mark.parametrize("code", ["model_error", "model_timeout", "rate_limited", "interrupted"])
def test_how_a_turn_breaks_is_documented_and_comes_again_with_its_key(
    document: Document, run: Any, serving: Any, dial: Any, script: Any, code: str
) -> None:
    """`interrupted` is what a crash leaves: who asks again with the key of that turn is told so."""

    async def test() -> None:
        models = script("a ", ChatError(code, "It broke."))
        async with serving(model="script", providers=[models]) as app, dial(app) as wire:
            for _ in range(2):
                answer = await wire.ask("POST", "/chat", {"message": "Hello"}, Idempotency_Key="k")
                assert answer.json["code"] == code
                document.check("POST", "/chat", answer)
        assert models.asks.qsize() == 1

    run(test())


def test_the_readme_knows_every_flag_and_invents_none() -> None:
    text = README.read_text()
    flags = {"--" + setting.name.replace("_", "-") for setting in dataclasses.fields(Settings)}
    told = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))
    assert sorted(flags - told) == []
    for line in text.splitlines():
        if "-m server" in line:
            used = set(
                re.findall(r"(?<![\w-])--[a-z][a-z-]*", line.partition("-m server")[2].partition("-m client")[0])
            )
            assert used <= flags | {"--help", "--version"}, line
    variables = {PREFIX + setting.name.upper() for setting in dataclasses.fields(Settings)}
    assert set(re.findall(r"FIVEWIRE_[A-Z_]*[A-Z]", text)) <= variables


def test_the_readme_names_routes_that_exist(document: Document) -> None:
    def shape(method: str, path: str) -> tuple[str, str]:
        return method, re.sub(r"{\w+}", "{}", path).partition("?")[0]

    routes = {shape(method.upper(), path) for path, item in document.whole["paths"].items() for method in item} | {
        ("GET", "/ws")
    }
    named = re.findall(r"\b(GET|POST|DELETE|PUT|PATCH) (/[\w/{}.?=&-]*)", README.read_text())
    assert [f"{method} {path}" for method, path in named if shape(method, path) not in routes] == []


def test_the_readme_tells_defaults_and_meanings_as_the_help_does() -> None:
    text = README.read_text()
    for setting in dataclasses.fields(Settings):
        default = "" if setting.default in (None, False, ()) else f"`{setting.default}`"
        row = f"| `--{setting.name.replace('_', '-')}` | {default} | {setting.metadata['help'].replace('%%', '%')} |"
        assert row in text, row
