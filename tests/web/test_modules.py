"""The pages' modules by themselves, in a real browser: decoders in pieces, markdown, protobuf as Python's."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from proto import chat_pb2, grpc_web, ndjson, sse
from proto.events import Chunk, Usage

CHUNKS = [
    Chunk(text, number, False, "2026-11-21T08:13:49.045216+00:00", "turn", number)
    for number, text in enumerate(["Hello ", "wörld\n", "🙂 ", '"quoted" \\ ', "last"], 1)
]
MESSAGES = [chat_pb2.ChatResponse(type=chat_pb2.ChatResponse.CHUNK, chunk_text=chunk.text, seq=300) for chunk in CHUNKS]
BODIES = {
    "NdjsonDecoder": b"".join(map(ndjson.encode, CHUNKS)),
    "SseDecoder": sse.RETRY + b"".join(map(sse.encode, CHUNKS)) + sse.KEEP_ALIVE,
    "GrpcWebDecoder": b"".join(grpc_web.frame(one.SerializeToString()) for one in MESSAGES) + grpc_web.trailers("OK"),
}


@pytest.fixture(scope="module")
def modules(browser: Any, shared_server: Any) -> Iterator[Any]:
    page = browser.page()
    page.open(f"{shared_server.url}/docs")
    yield page
    page.close()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100_000])
@pytest.mark.parametrize("name", BODIES)
def test_a_decoder_gives_the_same_frames_however_the_bytes_come(name: str, size: int, modules: Any) -> None:
    frames = modules.run(
        f"""(async () => {{
            const decoder = new (await import("/web/codecs.js")).{name}();
            const body = atob("{base64.b64encode(BODIES[name]).decode()}");
            const bytes = Uint8Array.from(body, (c) => c.charCodeAt(0));
            const frames = [];
            const step = {size};
            for (let at = 0; at < bytes.length; at += step) frames.push(...decoder.feed(bytes.slice(at, at + step)));
            return frames.map((frame) => ({{...frame, raw: btoa(String.fromCharCode(...frame.raw)), payload: null}}));
        }})()"""
    )
    assert b"".join(base64.b64decode(frame["raw"]) for frame in frames) == BODIES[name]
    if name == "GrpcWebDecoder":
        assert len(frames) == len(MESSAGES) + 1
        assert frames[-1]["trailers"]["grpc-status"] == "0"
    else:
        assert [frame["event"]["text"] for frame in frames if frame["event"]] == [chunk.text for chunk in CHUNKS]


def test_protobuf_is_read_and_written_as_python_does(modules: Any) -> None:
    response = chat_pb2.ChatResponse(
        type=chat_pb2.ChatResponse.RESPONSE_COMPLETE,
        session_id="s",
        total_chunks=70_000,
        processing_time=1.5,
        turn_id="t",
        seq=2,
        usage=chat_pb2.Usage(**Usage(2**40, 7, True)._asdict()),
        is_new_session=True,
        time_to_first_chunk=0.25,
    )
    models = chat_pb2.ListModelsResponse(default="a", models=[chat_pb2.ModelInfo(id=one, provider="p") for one in "ab"])
    asked = {"type": "RESUME", "session_id": "wörld 🙂", "message": "x" * 300, "turn_id": "t", "after": 300}
    read, listed, written = modules.run(
        f"""(async () => {{
            const {{Protobuf}} = await import("/web/protobuf.js");
            const {{parseProto}} = await import("/web/protofile.js");
            const protobuf = new Protobuf(parseProto(await (await fetch("chat.proto")).text()));
            const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
            return [
                protobuf.decode("ChatResponse", bytes("{base64.b64encode(response.SerializeToString()).decode()}")),
                protobuf.decode("ListModelsResponse", bytes("{base64.b64encode(models.SerializeToString()).decode()}")),
                btoa(String.fromCharCode(...protobuf.encode("ChatRequest", {json.dumps(asked)}))),
            ];
        }})()"""
    )
    assert read == {
        "type": "RESPONSE_COMPLETE",
        "session_id": "s",
        "total_chunks": 70_000,
        "processing_time": 1.5,
        "turn_id": "t",
        "seq": 2,
        "usage": {"input_tokens": 2**40, "output_tokens": 7, "estimated": True},
        "is_new_session": True,
        "time_to_first_chunk": 0.25,
    }
    assert listed == {"default": "a", "models": [{"id": "a", "provider": "p"}, {"id": "b", "provider": "p"}]}
    request = chat_pb2.ChatRequest.FromString(base64.b64decode(written))
    assert request == chat_pb2.ChatRequest(**{**asked, "type": chat_pb2.ChatRequest.RESUME})


MARKDOWN = [
    ("plain & <b>bold</b>", "<p>plain &amp; &lt;b&gt;bold&lt;/b&gt;</p>"),
    (
        "**strong** *em* _em_ ~~no~~ `a*b`",
        "<p><strong>strong</strong> <em>em</em> <em>em</em> <s>no</s> <code>a*b</code></p>",
    ),
    ("snake_case_name and 2*3*4", "<p>snake_case_name and 2<em>3</em>4</p>"),
    ("foo__bar__baz, foo__bar and baz__", "<p>foo__bar__baz, foo__bar and baz__</p>"),
    ("2**n and foo__bar", "<p>2**n and foo__bar</p>"),
    ("__all__ and ___both___", "<p><strong>all</strong> and <strong><em>both</em></strong></p>"),
    ("***Important:*** so", "<p><strong><em>Important:</em></strong> so</p>"),
    ("*a **b** c* d", "<p><em>a <strong>b</strong> c</em> d</p>"),
    ("**a *b* c** d", "<p><strong>a <em>b</em> c</strong> d</p>"),
    ("*a **b*** c", "<p><em>a <strong>b</strong></em> c</p>"),
    ("**a *b*** c", "<p><strong>a <em>b</em></strong> c</p>"),
    ("***a** b* c", "<p><em><strong>a</strong> b</em> c</p>"),
    ("***a* b** c", "<p><strong><em>a</em> b</strong> c</p>"),
    ("5 * 3 * 2, a ** b ** c, *a", "<p>5 * 3 * 2, a ** b ** c, *a</p>"),
    ("one\ntwo\n\nthree", "<p>one\ntwo</p><p>three</p>"),
    ("# Head\ntext", "<h3>Head</h3><p>text</p>"),
    ("- a\n- b\n  - c\n- d", "<ul><li>a</li><li>b<ul><li>c</li></ul></li><li>d</li></ul>"),
    ("3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'),
    ("> said\n> so", "<blockquote><p>said\nso</p></blockquote>"),
    ("---", "<hr>"),
    (
        "```py\n<b>1</b>\n\n# two\n```\nafter",
        '<pre tabindex="0" data-language="py"><code>&lt;b&gt;1&lt;/b&gt;\n\n# two</code></pre><p>after</p>',
    ),
    ("```\nopen", '<pre tabindex="0"><code>open</code></pre>'),
    (
        "| a | b |\n|---|:-:|\n| 1 | 2 \\| 3 |",
        '<div class="table" tabindex="0"><table><thead><tr><th>a</th><th class="center">b</th></tr></thead>'
        '<tbody><tr><td>1</td><td class="center">2 | 3</td></tr></tbody></table></div>',
    ),
    (
        "[a](https://x.test/?q=1&r) https://y.test.",
        '<p><a href="https://x.test/?q=1&amp;r" target="_blank" rel="noopener noreferrer nofollow">a</a> '
        '<a href="https://y.test" target="_blank" rel="noopener noreferrer nofollow">https://y.test</a>.</p>',
    ),
    ("[a](javascript:alert(1)) [b](data:text/html,x)", "<p>[a](javascript:alert(1)) [b](data:text/html,x)</p>"),
    (
        "![pixel](https://x.test/p.png)",
        '<p><a href="https://x.test/p.png" target="_blank" rel="noopener noreferrer nofollow">pixel</a></p>',
    ),
    ("\\*not em\\* `", "<p>*not em* `</p>"),
    ("The steps:\n- one\n- two", "<p>The steps:</p><ul><li>one</li><li>two</li></ul>"),
    ("The steps:\n1. one\n2. two", "<p>The steps:</p><ol><li>one</li><li>two</li></ol>"),
    ("In\n1986. a year", "<p>In\n1986. a year</p>"),
    ("He said:\n> so\nand went", "<p>He said:</p><blockquote><p>so</p></blockquote><p>and went</p>"),
    ("Over\n---\nunder", "<p>Over</p><hr><p>under</p>"),
    (
        "The figures:\n| a |\n|---|\n| 1 |\n| - |\nThat is all.",
        '<p>The figures:</p><div class="table" tabindex="0"><table><thead><tr><th>a</th></tr></thead>'
        "<tbody><tr><td>1</td></tr><tr><td>-</td></tr></tbody></table></div><p>That is all.</p>",
    ),
    ("- a\n- b\n\n1. c\n2. d", "<ul><li>a</li><li>b</li></ul><ol><li>c</li><li>d</li></ol>"),
    ("1. a\n- b\n\n2. c", '<ol><li>a</li></ol><ul><li>b</li></ul><ol start="2"><li>c</li></ol>'),
    ("1. a\n  - b\n  - c\n2. d", "<ol><li>a<ul><li>b</li><li>c</li></ul></li><li>d</li></ol>"),
    ("- a\n\n  more\n\n- b\ngoes on\n\nend", "<ul><li>a<p>more</p></li><li>b\ngoes on</li></ul><p>end</p>"),
    ("* a\n\t* b\n\t\t* c", "<ul><li>a<ul><li>b<ul><li>c</li></ul></li></ul></li></ul>"),
    (
        "1. Get it:\n2. Run it:\n    ```sh\n    if x\n      y\n    ```\n\n3. Done",
        '<ol><li>Get it:</li><li>Run it:<pre tabindex="0" data-language="sh"><code>if x\n  y</code></pre></li>'
        "<li>Done</li></ol>",
    ),
    (
        "1. Run it:\n  ```\ndef f():\n      - 1\n  ```\n2. Done",
        '<ol><li>Run it:<pre tabindex="0"><code>def f():\n    - 1</code></pre></li><li>Done</li></ol>',
    ),
    (
        "1. Run it:\n\n```\nx\n```\n\n2. Done",
        '<ol><li>Run it:</li></ol><pre tabindex="0"><code>x</code></pre><ol start="2"><li>Done</li></ol>',
    ),
    (
        "~~~~md\n1. Run:\n    ~~~~\n    x\n    ~~~~\n~~~\n~~~~",
        '<pre tabindex="0" data-language="md"><code>1. Run:\n    ~~~~\n    x\n    ~~~~\n~~~</code></pre>',
    ),
    ("```not a fence``` but code", "<p><code>not a fence</code> but code</p>"),
    (
        "> - a\n> - b\n>   > c",
        "<blockquote><ul><li>a</li><li>b<blockquote><p>c</p></blockquote></li></ul></blockquote>",
    ),
    (
        "a | b | c\n:-- | :-: | --:\n`x|y` | | 2\n<i> | \\`",
        '<div class="table" tabindex="0"><table>'
        '<thead><tr><th>a</th><th class="center">b</th><th class="right">c</th></tr></thead>'
        '<tbody><tr><td><code>x|y</code></td><td class="center"></td><td class="right">2</td></tr>'
        '<tr><td>&lt;i&gt;</td><td class="center">`</td></tr></tbody></table></div>',
    ),
    ("- [a](javascript:x)\n  <b>", "<ul><li>[a](javascript:x)\n&lt;b&gt;</li></ul>"),
]


@pytest.mark.parametrize("text,html", MARKDOWN, ids=[text[:20] for text, _ in MARKDOWN])
def test_markdown_becomes_nodes_and_the_same_when_it_grows(text: str, html: str, modules: Any) -> None:
    shown = modules.run(
        f"""(async () => {{
            const {{Answer}} = await import("/web/markdown.js");
            const text = {json.dumps(text)};
            const html = (node) => node.innerHTML.replaceAll(' dir="auto"', "");
            const whole = (part) => {{
                const node = document.createElement("div");
                new Answer(node).show(part);
                return html(node);
            }};
            const grown = new Answer(document.createElement("div"));
            const wrong = [];
            for (let end = 1; end <= text.length; end += 1) {{
                grown.show(text.slice(0, end));
                if (html(grown.node) !== whole(text.slice(0, end))) wrong.push(text.slice(0, end));
            }}
            return [whole(text), wrong];
        }})()"""
    )
    assert shown == [html, []]


@pytest.mark.parametrize(
    "text,selector",
    [
        ("ARABIC\n\nHello", "p"),
        ("# ARABIC\n# Hello", "h3"),
        ("- ARABIC\n- b\n\n1. Hello", "ul, ol"),
        ("> ARABIC\n\nand\n> - Hello", "blockquote"),
        ("> - ARABIC\n\n- Hello", "li"),
        ("| ARABIC | Hello |\n|---|---|", "th"),
        ("| a |\n|---|\n| ARABIC |\n| Hello |", "td"),
    ],
)
def test_a_block_has_the_direction_of_its_text(text: str, selector: str, modules: Any) -> None:
    directions = modules.run(
        f"""(async () => {{
            const {{Answer}} = await import("/web/markdown.js");
            const node = document.createElement("div");
            document.body.append(node);
            new Answer(node).show({json.dumps(text.replace("ARABIC", "مرحبا، Python"))});
            const blocks = Array.from(node.querySelectorAll("{selector}"));
            const directions = blocks.map((block) => getComputedStyle(block).direction);
            node.remove();
            return directions;
        }})()"""
    )
    assert directions == ["rtl", "ltr"]


MUCH = 3_000  # milliseconds


def test_markdown_that_means_no_good_takes_no_time(modules: Any) -> None:
    slow = [
        "**" * 15_000,
        "[" * 30_000,
        "`" * 30_000,
        "- " * 15_000,
        "*a " * 10_000,
        "*a **b** " * 4_000,
        "*a" + "**b** " * 6_000,
        "***a " * 6_000,
        "*a **b " * 5_000,
        "a__b " * 6_000,
        "> " * 400,
        "|" * 30_000,
        "_a" * 15_000,
        "- " * 15_000 + "a",
        "> " * 15_000,
        "- a\n" * 5_000,
        "1. ```\n" * 5_000,
        "a\n|-" * 5_000 + " " * 15_000 + "b",
        "".join("  " * depth + "- a\n" for depth in range(200)),
    ]
    spent = modules.run(
        f"""(async () => {{
            const {{Answer}} = await import("/web/markdown.js");
            const spent = (text) => {{
                const start = performance.now();
                new Answer(document.createElement("div")).show(text);
                return performance.now() - start;
            }};
            // A machine that is busy with something else takes its time, but not each time.
            const least = (text, tries = 4) => {{
                const once = spent(text);
                return once < {MUCH} || tries === 1 ? once : Math.min(once, least(text, tries - 1));
            }};
            return {json.dumps(slow)}.map((text) => least(text));
        }})()"""
    )
    assert max(spent) < MUCH, spent
