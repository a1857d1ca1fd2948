"""The table of commands: whole, found by unambiguous beginnings, and the source of the help."""

import re
from pathlib import Path

import pytest
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.document import Document
from prompt_toolkit.history import InMemoryHistory

from client.actions import TABLE
from client.commands import Unclear
from client.input import Suggestions, history_file
from client.settings import PROTOCOLS, parse, protocol_named, server_url
from client.wording import as_markdown, counted, duration, seconds
from proto.answers import HistoryMessage

ALL = (
    "/help /new /info /sessions /switch /history /reset /delete /stats /server /health /ping /docs /demo /clear "
    "/connect /disconnect /protocol /model /resume /export /quit"
)


def test_all_are_there() -> None:
    assert " ".join(f"/{name}" for name in TABLE.commands) == ALL
    assert all(command.help and not command.help.endswith(".") for command in TABLE.commands.values())


@pytest.mark.parametrize(
    ("typed", "found"),
    [("/help", "help"), ("h", None), ("he", None), ("hel", "help"), ("hi", "history"), ("/Q", "quit"),
     ("/sw", "switch"), ("/ses", "sessions"), ("/ser", "server"), ("/m", "model"), ("e", "export"), ("res", None),
     ("rese", "reset")],
)  # fmt: skip
def test_beginnings(typed: str, found: str | None) -> None:
    if found is None:
        with pytest.raises(Unclear, match=r"may be /\w+ or /\w+"):
            TABLE.find(typed)
    else:
        assert TABLE.find(typed).name == found


@pytest.mark.parametrize("typed", ["/", "/nonsense", ""])
def test_unknown(typed: str) -> None:
    with pytest.raises(Unclear, match="no command"):
        TABLE.find(typed)


@pytest.mark.parametrize(
    ("typed", "name"),
    [*((name, name) for name in PROTOCOLS), ("http", "ndjson"), ("ws", "websocket"),
     ("web", "websocket"), ("G", "grpc"), ("x", None), ("", None)],
)  # fmt: skip
def test_protocol_names(typed: str, name: str | None) -> None:
    assert protocol_named(typed) == name


@pytest.mark.parametrize(
    ("typed", "url"),
    [("localhost:8000", "http://localhost:8000"), ("https://a.example/chat/", "https://a.example/chat"),
     ("http://[::1]:9", "http://[::1]:9")],
)  # fmt: skip
def test_server_addresses(typed: str, url: str) -> None:
    assert server_url(typed) == url


@pytest.mark.parametrize(
    "typed",
    ["", "ftp://a", "http://", "http://a:99999", "a:b", "http://a?x=1", "http://[::1", "http://a..b", "a" * 64 + ".b"],
)
def test_no_server_addresses(typed: str) -> None:
    with pytest.raises(ValueError, match="no server address"):
        server_url(typed)


@pytest.mark.parametrize(
    "arguments",
    [["--protocol", "smtp", "hi"], ["--server", "ftp://x", "hi"], ["--session", "a b", "hi"], ["--nonsense"], [" "],
     ["--model", "a b", "hi"]],
)  # fmt: skip
def test_wrong_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(arguments)
    assert caught.value.code == 2
    assert "usage: python -m client" in capsys.readouterr().err


def test_figures_are_said_shortly() -> None:
    assert [seconds(0.0049), seconds(0.999), seconds(12.34)] == ["5 ms", "999 ms", "12.3 s"]
    assert [duration(59), duration(61), duration(7260), duration(90000)] == [
        "59 s",
        "1 min 1 s",
        "2 h 1 min",
        "1 d 1 h",
    ]


def test_counts_have_their_plural() -> None:
    assert [counted(number, "chunk") for number in (0, 1, 2)] == ["0 chunks", "1 chunk", "2 chunks"]


@pytest.mark.parametrize(("typed", "suggested"), [("/s", "witch 2"), ("/", None), ("/d", None), ("/delete", None)])
def test_deleting_is_not_suggested(typed: str, suggested: str | None) -> None:
    history = InMemoryHistory()
    for line in ("/switch 2", "/delete 2"):
        history.append_string(line)
    found = Suggestions().get_suggestion(Buffer(history=history), Document(typed))
    assert (found and found.text) == suggested


def test_history_is_in_the_state_folder() -> None:
    assert history_file({"XDG_STATE_HOME": "/state"}).name == "client-history"
    assert Path("fivewire") / "client-history" == Path(*history_file({}).parts[-2:])


def test_exported_markdown_is_clean() -> None:
    said = [HistoryMessage("user", "hi\x1b[2J", "t", "now"), HistoryMessage("model", "**y**", "t", "no\x1b\nw")]
    text = as_markdown("s\x1b1", "demo", said)
    assert re.findall(r"^##? .*", text, re.MULTILINE) == ["# Conversation s1", "## You, now", "## demo, no w"]
    assert "hi[2J" in text and "**y**" in text and "\x1b" not in text


def test_exported_markdown_tells_what_is_not_whole() -> None:
    said = [
        HistoryMessage("user", "a", "t1", "now"),
        HistoryMessage("model", "```py\nx = 1\n~~~\n``` no end", "t1", "now", "cancelled"),
        HistoryMessage("user", "b", "t2", "now", None, "model_error", "It\nbroke."),
        HistoryMessage("user", "c", "t3", "now"),
        HistoryMessage("model", "~~~\ny\n~~~~", "t3", "now", "stop"),
        HistoryMessage("user", "d", "t4", "now"),
        HistoryMessage("model", "`x` ```z```", "t4", "now", "length"),
    ]
    text = as_markdown("s1", "demo", said)
    heads = ["You, now", "demo, now, cancelled", "You, now", "demo, failed: It broke.", "You, now", "demo, now"]
    assert re.findall(r"^## (.*)", text, re.MULTILINE) == [*heads, "You, now", "demo, now, stopped: length"]
    assert "``` no end\n```\n\n## You" in text, "the code block it was cut in is closed"
    assert "\n~~~~\n\n## You" in text and text.endswith("`x` ```z```\n")


def test_the_readme_has_every_command_and_flag(capsys: pytest.CaptureFixture[str]) -> None:
    readme = (Path(__file__).parent.parent.parent / "README.md").read_text(encoding="utf-8")
    section = readme[readme.index("<!-- client -->") : readme.index("<!-- /client -->")]
    rows = re.findall(r"^\| `(/.*?)` \| (.*) \|$", section.replace("\\|", "|"), re.MULTILINE)
    assert rows == [(command.usage, command.help) for command in TABLE.commands.values()]
    with pytest.raises(SystemExit):
        parse(["--help"])
    flags = re.findall(r"^  (--\w+)", capsys.readouterr().out, re.MULTILINE)
    assert re.findall(r"^\| `(--\w+)` \|", section, re.MULTILINE) == flags
