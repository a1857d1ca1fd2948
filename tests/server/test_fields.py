"""The documentation says what every field means, and speaks of no field that does not exist."""

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import aiohttp

from server.app import App
from server.fields import FIELDS


def test_every_field_of_every_schema_is_described(
    serving: Callable[..., AbstractAsyncContextManager[App]], run: Callable[..., Any]
) -> None:
    async def document() -> Any:
        async with (
            serving() as app,
            aiohttp.ClientSession(app.http_url) as client,
            client.get("/openapi.json") as answer,
        ):
            return json.loads(await answer.text())

    described = run(document())
    schemas = described["components"]["schemas"]
    spoken = [schema for side in ("client", "server") for schema in described["x-websocket"][side]]
    tables = [*schemas.items(), *((schema["properties"]["type"]["const"], schema) for schema in spoken)]
    fields = {(word, name): field for word, schema in tables for name, field in schema.get("properties", {}).items()}
    assert [f"{word}.{name}" for (word, name), field in fields.items() if not field.get("description")] == []
    assert {key for key in FIELDS if "." not in key} <= {name for _, name in fields}
    assert {key for key in FIELDS if "." in key} <= {f"{word}.{name}" for word, name in fields}
