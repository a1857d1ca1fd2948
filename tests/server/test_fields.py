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

    schemas = run(document())["components"]["schemas"]
    fields = {(word, name) for word, schema in schemas.items() for name in schema.get("properties", {})}
    assert [f"{word}.{name}" for word, name in fields if not schemas[word]["properties"][name].get("description")] == []
    names = {name for _, name in fields}
    assert {key for key in FIELDS if "." not in key} - names <= {"after", "connection_id"}
    assert {key for key in FIELDS if "." in key} <= {f"{word}.{name}" for word, name in fields}
