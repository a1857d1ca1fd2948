"""The files of the pages as they are served: types, caching, policy, and nothing inline or from elsewhere."""

import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import aiohttp
import pytest

from server.app import App

WEB = Path(__file__).parent.parent.parent / "web"
FILES = sorted(path for path in WEB.rglob("*") if path.suffix in (".html", ".css", ".js", ".svg"))

Serving = Callable[..., AbstractAsyncContextManager[App]]
Run = Callable[..., Any]


@pytest.mark.parametrize(
    "path,content_type",
    [
        ("/demo", "text/html; charset=utf-8"),
        ("/docs", "text/html; charset=utf-8"),
        ("/web/demo.js", "text/javascript; charset=utf-8"),
        ("/web/transports/stream.js", "text/javascript; charset=utf-8"),
        ("/web/style.css", "text/css; charset=utf-8"),
        ("/web/icon.svg", "image/svg+xml"),
        ("/chat.proto", "text/plain; charset=utf-8"),
    ],
)
def test_a_file_is_served_with_its_type_its_policy_and_a_tag(
    path: str, content_type: str, serving: Serving, run: Run
) -> None:
    async def check() -> None:
        async with serving() as app, aiohttp.ClientSession(app.http_url) as client:
            async with client.get(path) as first:
                assert first.status == 200
                assert first.headers["Content-Type"] == content_type
                assert first.headers["X-Content-Type-Options"] == "nosniff"
                assert first.headers["Cache-Control"] == "no-cache"
                policy = first.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
                assert await first.read()
            async with client.get(path, headers={"If-None-Match": first.headers["ETag"]}) as again:
                assert again.status == 304
                assert await again.read() == b""
            async with client.get(path, headers={"If-None-Match": '"another"'}) as other:
                assert other.status == 200

    run(check())


@pytest.mark.parametrize(
    "path", ["/web/none.js", "/web/__init__.py", "/web/../setup.cfg", "/web/%2e%2e/setup.cfg", "/web/"]
)
def test_nothing_else_is_served(path: str, serving: Serving, run: Run) -> None:
    async def check() -> None:
        async with serving() as app, aiohttp.ClientSession(app.http_url) as client, client.get(path) as answer:
            assert answer.status == 404
            assert answer.content_type == "application/problem+json"

    run(check())


def test_a_browser_is_sent_to_the_demo(serving: Serving, run: Run) -> None:
    async def check() -> None:
        headers = {"Accept": "text/html"}
        async with (
            serving() as app,
            aiohttp.ClientSession(app.http_url, headers=headers) as client,
            client.get("/") as page,
        ):
            assert page.url.path == "/demo"
            assert "fivewire" in await page.text()

    run(check())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(WEB).as_posix())
def test_no_file_has_inline_code_or_loads_from_elsewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".html":
        assert not re.search(r"<script(?![^>]*\bsrc=)", text)
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", text)
    if path.suffix == ".js":
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)
    for url in re.findall(r"(?:src|href)=\"([^\"]+)\"|url\(([^)]+)\)|\bfrom \"([^\"]+)\"", text):
        assert not re.match(r"(https?:)?//", "".join(url)), url


@pytest.mark.parametrize("page", ["demo", "docs"])
def test_a_page_is_found_with_a_slash_behind_it(page: str, serving: Serving, run: Run) -> None:
    async def check() -> None:
        async with serving() as app, aiohttp.ClientSession(app.http_url) as client, client.get(f"/{page}/") as answer:
            assert (answer.status, answer.url.path) == (200, f"/{page}")

    run(check())


@pytest.mark.parametrize("path,page", [("/", "demo"), ("/demo/", "demo"), ("/docs/", "docs")])
def test_the_way_to_a_page_leads_there_below_a_proxys_prefix_too(
    path: str, page: str, serving: Serving, run: Run
) -> None:
    async def check() -> None:
        headers = {"Accept": "text/html"}
        async with (
            serving() as app,
            aiohttp.ClientSession(app.http_url, headers=headers) as client,
            client.get(path, allow_redirects=False) as answer,
        ):
            assert urljoin(f"https://t/below{path}", answer.headers["Location"]) == f"https://t/below/{page}"

    run(check())
