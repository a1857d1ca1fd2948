"""What the commands do. Each function is a row of the table: its usage, its help, what completes its argument."""

import json
import os
import platform
import time
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from client.commands import Table, Unclear, split
from client.markdown import Markdown
from client.paint import Style
from client.seat import Refused, Seat, idle, session_meant
from client.settings import PROTOCOLS, protocol_named, server_url
from client.text import clean_line, shortened
from client.transports import ConnectionLost
from client.wording import age, as_markdown, counted, duration, not_whole, seconds, when
from client.wrap import Wrap
from proto.answers import ServerStats
from proto.errors import ChatError
from proto.events import dumps
from proto.requests import Cursor, check_model_id, cursor

PAGE = 20
TABLE: Table[Seat] = Table()


async def perform(seat: Seat, line: str) -> bool:
    """A command line, and what may go wrong with it; whether it went well."""
    name, argument = split(line)
    try:
        command = TABLE.find(name)
        if argument and not command.argument:
            raise Refused(f"/{command.name} takes nothing behind it.")
        await command.run(seat, argument)
        return True
    except ConnectionLost as error:
        if not seat.talk.failed(error):
            seat.screen.fail(clean_line(str(error)))
    except (ChatError, Refused, Unclear, ValueError, OSError, LookupError) as error:
        seat.screen.fail(clean_line(str(error)))
    return False


@TABLE.command("/help [COMMAND]", "this list", "commands")
async def help_(seat: Seat, argument: str) -> None:
    commands = [TABLE.find(argument)] if argument else TABLE.commands.values()
    seat.screen.lines(seat.screen.table([(command.usage, command.help) for command in commands]))
    if not argument:
        keys = (
            ("Enter", "sends; while an answer grows, afterwards"),
            ("Alt-Enter", "begins a new line; so does a \\ before Enter"),
            ("Space /", "begins a message with a /"),
            ("Ctrl-C", "stops the answer"),
            ("Ctrl-D", "leaves"),
            ("Tab", "completes; an unambiguous beginning of a command will do"),
        )
        seat.screen.lines(["", *seat.screen.table(keys)])


@TABLE.command("/new [MODEL]", "begin a new session", "models")
async def new(seat: Seat, argument: str) -> None:
    idle(seat)
    model_id = check_model_id(argument) if argument else seat.talk.wanted_model
    created = await seat.talk.transport.new_session(model_id)
    seat.talk.wanted_model = model_id
    seat.talk.figures.sessions += 1
    await seat.talk.enter(created.session_id, created.model)
    seat.screen.note(f"A new session with {created.model}.")


@TABLE.command("/info [N|ID]", "what is known of the session", "sessions")
async def info(seat: Seat, argument: str) -> None:
    detail = await seat.talk.transport.session(session_meant(seat, argument))
    rows = [
        ("session", detail.session_id),
        ("model", detail.model),
        ("messages", f"{detail.message_count} ({detail.user_messages} yours, {detail.model_messages} the model's)"),
        ("age", duration(detail.session_duration_seconds)),
        ("begun", when(detail.created_at)),
        ("tokens", f"{detail.usage.input_tokens} in, {detail.usage.output_tokens} out"),
    ]
    if detail.active_turn:
        rows.append(("answering", f"turn {detail.active_turn}"))
    _show(seat, rows)


@TABLE.command("/sessions [more]", "the server's sessions, the newest first; the next page of them", "pages")
async def sessions(seat: Seat, argument: str) -> None:
    if not "more".startswith(argument):
        raise Refused("/sessions shows the first page, /sessions more the next one.")
    if argument and seat.next_page is None:
        raise Refused("There is no next page: /sessions shows the first one.")
    answer = await seat.talk.transport.sessions(PAGE, seat.next_page if argument else None)
    seat.next_page = answer.next
    if not argument:
        seat.listed = []
    if not answer.sessions:
        seat.screen.note("There is no session yet.")
        return
    wide = seat.screen.columns > 76
    head = f"  N   {'session':36}  {'messages':>8} {'age':>6}  model" if wide else "  N   session   messages"
    rows = []
    for number, known in enumerate(answer.sessions, len(seat.listed) + 1):
        seat.listed.append(known.session_id)
        name, model = clean_line(known.session_id), clean_line(known.model)
        row = f"{number:>3} {'●' if known.session_id == seat.talk.session_id else ' '} "
        if wide:
            row += f"{shortened(name, 36):36}  {known.message_count:>8} {age(known.duration_minutes):>6}"
            row += f"  {model}" + (f" · {known.connected_clients} connected" if known.connected_clients else "")
        else:
            row += f"{shortened(name, 9):9} {known.message_count:>8}"
        rows.append(shortened(row, seat.screen.columns))
    seat.screen.lines([seat.screen.paint(head, Style.DIM), *rows])
    more = f" {answer.active_sessions - len(seat.listed)} more: /sessions more." if answer.next else ""
    seat.screen.note(f"/switch N goes on with one of them.{more}")


@TABLE.command("/switch N|ID", "go on with a session of the list", "sessions")
async def switch(seat: Seat, argument: str) -> None:
    idle(seat)
    if not argument:
        raise Refused("Which one? /sessions lists them: /switch N")
    detail = await seat.talk.transport.session(session_meant(seat, argument))
    count = counted(detail.message_count, "message")
    # Before one is there: what is said there may come at once.
    seat.screen.note(f"Session {detail.session_id}: {count} with {detail.model}. /history shows them.")
    await seat.talk.enter(detail.session_id, detail.model, detail.message_count > 0)
    seat.talk.wanted_model = None
    if detail.active_turn and not seat.talk.transport.live:  # else it is heard
        seat.resume(Cursor(detail.active_turn, 0))


@TABLE.command("/history [N]", "the messages of the session, or the last N of them")
async def history(seat: Seat, argument: str) -> None:
    if argument and not (argument.isdecimal() and int(argument)):
        raise Refused("/history shows all messages, /history N the last N of them.")
    detail = await seat.talk.transport.session(session_meant(seat))
    messages = detail.messages[-int(argument) :] if argument else detail.messages
    if not messages:
        seat.screen.note("Nothing has been said yet.")
    for message in messages:
        seat.screen.lines([seat.screen.paint("You" if message.role == "user" else clean_line(detail.model), Style.YOU)])
        page = Markdown(Wrap(lambda: seat.screen.columns, seat.screen.paint), seat.raw or message.role == "user")
        seat.screen.lines([*page.feed(message.text), *page.close()])
        end = not_whole(message)
        if end is not None:
            seat.screen.say(end, Style.BAD if message.code is not None else Style.ACCENT)
        seat.screen.lines([""])


@TABLE.command("/reset", "forget what was said; the session stays")
async def reset(seat: Seat, argument: str) -> None:
    idle(seat)
    await seat.talk.clear(session_meant(seat))
    seat.screen.note("Forgotten. The session begins anew.")


@TABLE.command("/delete [N|ID]", "delete the session, or another one", "sessions")
async def delete(seat: Seat, argument: str) -> None:
    session_id = session_meant(seat, argument)
    if session_id == seat.talk.session_id:
        idle(seat)
    count = (await seat.talk.transport.session(session_id)).message_count
    if count and not await seat.confirm(f"Delete session {session_id} with {counted(count, 'message')}?"):
        seat.screen.note("It stays.")
        return
    await seat.talk.delete(session_id)
    seat.screen.note(f"Session {session_id} is deleted.")


@TABLE.command("/stats", "what this client has done and seen")
async def stats(seat: Seat, argument: str) -> None:
    figures = seat.talk.figures
    first = figures.first_chunks
    rows = [
        ("session", seat.talk.session_id or "none yet"),
        ("running for", duration(time.monotonic() - figures.started)),
        ("messages", str(figures.messages)),
        ("streams", f"{figures.good} good, {figures.failed} failed"),
        ("chunks", f"{figures.chunks}, {figures.chunks / max(figures.answers, 1):.1f} an answer"),
        ("average time", seconds(figures.seconds / figures.answers) if figures.answers else "-"),
        (
            "first chunk",
            f"{seconds(sum(first) / len(first))} on average, {seconds(min(first))} to {seconds(max(first))}"
            if first
            else "-",
        ),
        ("sessions created", str(figures.sessions)),
        ("connection attempts", f"{figures.attempts}, {counted(figures.reconnections, 'reconnection')}"),
    ]
    _show(seat, rows)


@TABLE.command("/server", "the server's figures")
async def server(seat: Seat, argument: str) -> None:
    known = await seat.talk.transport.stats()
    rows = [
        ("server", f"{seat.talk.url} ({known.framework})"),
        ("status", f"{known.status}, up {duration(known.uptime_seconds)}"),
        ("model", known.model),
        ("requests", f"{known.total_requests}: {known.successful_requests} good, {known.failed_requests} failed"),
        ("answering", f"{known.running_turns} now, {seconds(known.average_response_time)} on average"),
        ("sessions", f"{known.active_sessions}, {known.total_sessions_created} created"),
        (
            "connected",
            f"{counted(known.streaming_connections, 'stream')}, {counted(known.websocket_connections, 'WebSocket')}",
        ),
    ]
    _show(seat, rows + _transports(known))


def _transports(known: ServerStats) -> list[tuple[str, str]]:
    rows = []
    for name, used in sorted(known.transports.items()):
        first = "" if used.first_chunk_p50 is None else f", first chunk {seconds(used.first_chunk_p50)}"
        counts = f"{counted(used.requests, 'request')}, {counted(used.chunks, 'chunk')}"
        rows.append((name, f"{counts}, {used.bytes / 1000:.1f} kB{first}"))
    return rows


@TABLE.command("/health", "whether the server is well")
async def health(seat: Seat, argument: str) -> None:
    await seat.talk.connect()
    known = await seat.talk.transport.health()
    style = Style.GOOD if known.status == "healthy" else Style.BAD
    seat.screen.say(clean_line(f"{known.status}, up {duration(known.uptime_seconds)}, model {known.model}"), style)


@TABLE.command("/ping", "how long there and back takes")
async def ping(seat: Seat, argument: str) -> None:
    if not seat.talk.connected:
        await seat.talk.connect()
    before = time.perf_counter()
    await seat.talk.transport.ping()
    seat.screen.note(f"{(time.perf_counter() - before) * 1000:.1f} ms there and back over {seat.talk.protocol}")


@TABLE.command("/docs", "the server's API documentation, in the browser")
async def docs(seat: Seat, argument: str) -> None:
    _browse(seat, f"{seat.talk.url}/docs")


@TABLE.command("/demo", "the server's web demo, in the browser")
async def demo(seat: Seat, argument: str) -> None:
    _browse(seat, f"{seat.talk.url}/demo")


def _browse(seat: Seat, url: str) -> None:
    # A text browser would take this very terminal: only one with a window of its own is opened.
    windows = (
        platform.system() in ("Darwin", "Windows") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
    if windows and not os.environ.get("SSH_CONNECTION") and webbrowser.open(url):
        seat.screen.note(f"{url} is opened in the browser.")
    else:
        seat.screen.say(url)


@TABLE.command("/clear", "clear the screen")
async def clear(seat: Seat, argument: str) -> None:
    seat.screen.clear()


@TABLE.command("/connect [URL]", "connect again, or to another server")
async def connect(seat: Seat, argument: str) -> None:
    url = server_url(argument) if argument else seat.talk.url
    if url != seat.talk.url:
        idle(seat)
    await _use(seat, seat.talk.protocol, url)
    seat.screen.note(f"Connected to {seat.talk.url} over {seat.talk.protocol}.")


async def _use(seat: Seat, protocol: str, url: str) -> None:
    """Where nobody is, everything stays as it was."""
    talk = seat.talk
    before = talk.protocol, talk.url
    try:
        await talk.use(protocol, url)
    except ConnectionLost as error:
        if (protocol, url) == before:
            raise
        if talk.connected:
            try:
                await talk.transport.ping()
            except ConnectionLost as gone:  # that too
                talk.failed(gone)
        raise Refused(f"{error} Staying with {talk.protocol} at {talk.url}.") from None
    if url != before[1]:
        seat.listed, seat.next_page = [], None


@TABLE.command("/disconnect", "let go of the server")
async def disconnect(seat: Seat, argument: str) -> None:
    idle(seat)
    await seat.talk.disconnect()
    seat.screen.note("Disconnected. /connect, or any message, connects again.")


@TABLE.command("/protocol [NAME]", "go on over another protocol, also in mid-answer", "protocols")
async def protocol(seat: Seat, argument: str) -> None:
    if not argument:
        names = [f"● {name}" if name == seat.talk.protocol else f"  {name}" for name in PROTOCOLS]
        seat.screen.lines(names)
        return
    name = protocol_named(argument)
    if name is None:
        raise Refused(f"There is no protocol {argument}: choose one of {', '.join(PROTOCOLS)}.")
    await _use(seat, name, seat.talk.url)
    seat.screen.note(f"Going on over {name}.")


@TABLE.command("/model [ID]", "the models, or the one to ask from now on", "models")
async def model(seat: Seat, argument: str) -> None:
    if argument:
        seat.talk.wanted_model = check_model_id(argument)  # at once, for a message that is typed behind it
    known = await seat.talk.transport.models()
    listed = [one.id for one in known.models]
    if argument:
        sure = argument.partition("?")[0] in listed
        unsure = f"The server does not list {argument}; the next message tries it."
        seat.screen.note(f"The next message goes to {argument}." if sure else unsure)
        return
    current = seat.talk.wanted_model or seat.talk.model or known.default
    names = [current, *(one for one in listed if one != current)]
    for name in names:
        seat.screen.lines([clean_line(f"{'●' if name == current else ' '} {name}").rjust(3)])


@TABLE.command("/resume [TURN:SEQ]", "go on reading the answer that was cut")
async def resume(seat: Seat, argument: str) -> None:
    idle(seat)
    if argument:
        seat.resume(cursor(argument))
    elif seat.talk.cursor is None or seat.talk.finished:
        raise Refused("There is no answer that was cut.")
    else:
        seat.resume(seat.talk.cursor)


@TABLE.command("/export FILE", "write the conversation to FILE: JSON if it ends in .json, else Markdown", "files")
async def export(seat: Seat, argument: str) -> None:
    if not argument:
        raise Refused("Where to? /export FILE")
    detail = await seat.talk.transport.session(session_meant(seat))
    try:
        path = Path(argument).expanduser()
    except RuntimeError:
        raise Refused(f"{argument} cannot be written: there is no such home folder.") from None
    if path.suffix == ".json":
        text = json.dumps(json.loads(dumps(detail)), ensure_ascii=False, indent=2) + "\n"
    else:
        text = as_markdown(detail.session_id, detail.model, detail.messages)
    try:
        with path.open("x", encoding="utf-8", errors="replace") as file:
            file.write(text)
    except FileExistsError:
        raise Refused(f"{path} is there already; choose another name.") from None
    except OSError as error:
        raise Refused(f"{path} cannot be written: {error.strerror}.") from None
    seat.screen.note(f"{counted(len(detail.messages), 'message')} written to {path}.")


@TABLE.command("/quit", "leave")
async def quit_(seat: Seat, argument: str) -> None:
    seat.leave()


def _show(seat: Seat, rows: Sequence[tuple[str, str]]) -> None:
    seat.screen.lines(seat.screen.table(rows))
