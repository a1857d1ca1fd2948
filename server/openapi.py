"""The OpenAPI 3.1 document, drawn from the routes and the words: nothing is written by hand twice."""

import types
import typing
from collections import abc
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from proto.answers import Problem
from proto.errors import CODES
from proto.events import NAMES, TYPES
from server.fields import described

if TYPE_CHECKING:
    from server.transports import Route

# What the edge answers before a route sees the request.
EVERYWHERE = {403: "forbidden"}
WITH_A_BODY = {408: "invalid_request", 413: "too_large", 415: "invalid_request"}

_SCALARS: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
}


class Messages(NamedTuple):
    """The messages of a transport that speaks both ways, by their `type`; `added` are fields that a word lacks."""

    path: str
    client: Mapping[str, type[Any]]
    server: Mapping[str, type[Any]]
    added: Mapping[str, Mapping[str, Any]]
    close_codes: Mapping[int, str]


class Schemas:
    """The schemas of words, gathered as they are referred to."""

    def __init__(self) -> None:
        self.made: dict[str, dict[str, Any]] = {}

    def of(self, kind: Any) -> dict[str, Any]:
        """The schema of a type as it stands in a word's annotations."""
        if kind in _SCALARS:
            return dict(_SCALARS[kind])
        origin, args = typing.get_origin(kind), typing.get_args(kind)
        if origin in (types.UnionType, typing.Union):
            return {"anyOf": [self.of(arg) for arg in args]}
        if origin is list:
            return {"type": "array", "items": self.of(args[0])}
        if origin is dict:
            return {"type": "object", "additionalProperties": self.of(args[1])}
        return self.word(kind)

    def word(self, word: type[Any]) -> dict[str, Any]:
        """A reference to a word's schema."""
        name = NAMES.get(word) or word.__name__
        if name not in self.made:
            self.made[name] = {}
            self.made[name] = self._schema(word)
        return {"$ref": f"#/components/schemas/{name}"}

    def message(self, name: str, word: type[Any], added: Mapping[str, Any]) -> dict[str, Any]:
        """The schema of a word as a message of this type."""
        schema = self._schema(word)
        properties = {"type": {}, **schema["properties"]}
        properties["type"] = described(_name(word), "type", {"const": name})
        required = ["type", *(field for field in schema["required"] if field != "type")]
        for field, kind in added.items():
            optional = type(None) in typing.get_args(kind)
            shown = self.of(typing.get_args(kind)[0] if optional else kind)
            properties[field] = described(_name(word), field, shown)
            if not optional:
                required.append(field)
        return {**schema, "properties": properties, "required": required}

    def _schema(self, word: type[Any]) -> dict[str, Any]:
        hints = typing.get_type_hints(word)
        properties, required = {}, []
        if word in NAMES:
            properties["type"] = described(_name(word), "type", {"const": NAMES[word]})
            required.append("type")
        for name in word._fields:
            kind = hints[name]
            if typing.get_origin(kind) is abc.Mapping:
                continue  # its entries stand in the object itself
            optional = type(None) in typing.get_args(kind)
            if optional:  # a field that is not set is left out
                kind = next(arg for arg in typing.get_args(kind) if arg is not type(None))
            else:
                required.append(name)
            properties[name] = described(_name(word), name, self.of(kind))
        return {
            "type": "object",
            "description": _said(word),
            "properties": properties,
            "required": required,
        }


def document(routes: Sequence["Route"], version: str, websocket: Messages) -> dict[str, Any]:
    """The whole document; what a WebSocket says is `x-websocket`."""
    schemas = Schemas()
    events = {"oneOf": [schemas.word(word) for word in TYPES.values()]}
    schemas.made["event"] = events
    messages = _messages(websocket, schemas)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        if route.listed:
            paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "fivewire",
            "version": version,
            "summary": "One multi-turn AI chat over five streaming transports.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": schemas.made},
        "x-error-codes": {name: code._asdict() for name, code in CODES.items()},
        "x-websocket": messages,
    }


def _messages(messages: Messages, schemas: Schemas) -> dict[str, Any]:
    return {
        "path": messages.path,
        **{
            side: [schemas.message(name, word, messages.added.get(name, {})) for name, word in words.items()]
            for side, words in (("client", messages.client), ("server", messages.server))
        },
        "close_codes": {str(code): text for code, text in messages.close_codes.items()},
    }


def _operation(route: "Route", schemas: Schemas) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if route.answer is not None:
        content["application/json"] = {"schema": schemas.word(route.answer)}
    for media in route.media:
        streams = media in ("application/x-ndjson", "text/event-stream")
        content[media] = {"schema": {"$ref": "#/components/schemas/event"} if streams else {}}
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": f"{route.method.lower()}{route.path.replace('/', '_').replace('{', '').replace('}', '')}",
        "responses": {str(route.status): {"description": route.summary, "content": content}},
    }
    for status, text in route.also:
        empty = status == 204 or 300 <= status < 400
        operation["responses"][str(status)] = {"description": text, **({} if empty else {"content": content})}
    if route.text:
        operation["description"] = route.text
    if route.parameters:
        operation["parameters"] = [
            {
                "name": parameter.name,
                "in": parameter.place,
                "required": parameter.place == "path",
                "description": parameter.text,
                "schema": {"type": parameter.kind},
            }
            for parameter in route.parameters
        ]
    if route.body is not None:
        body: dict[str, Any] = {"schema": schemas.word(route.body)}
        if route.example is not None:
            body["example"] = route.example
        operation["requestBody"] = {
            "required": bool(schemas.made[_name(route.body)]["required"]),
            "content": {"application/json": body},
        }
    by_status: dict[int, list[str]] = {}
    for code in route.errors:
        by_status.setdefault(CODES[code].http, []).append(code)
    refused = dict.fromkeys(route.refused, "invalid_request")
    for status, code in {**EVERYWHERE, **(WITH_A_BODY if route.body is not None else {}), **refused}.items():
        by_status.setdefault(status, []).append(code)
    for status, codes in sorted(by_status.items()):
        operation["responses"][str(status)] = {
            "description": ", ".join(codes),
            "content": {"application/problem+json": {"schema": schemas.word(Problem)}},
        }
    return operation


def _said(word: type[Any]) -> str:
    """A word's own sentence; a NamedTuple without one has a signature there, which is none."""
    said = " ".join((word.__doc__ or "").split())
    return "" if said.startswith(f"{word.__name__}(") else said


def _name(word: type[Any]) -> str:
    return NAMES.get(word) or word.__name__
