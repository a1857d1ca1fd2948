"""The race where it does not go well, in a real browser."""

import json
import urllib.request
from typing import Any


def race(page: Any, model: str) -> None:
    page.run("location.hash = 'race'")
    page.fill("#race-model", model)
    page.click("#race-start")


def test_a_race_that_broke_is_not_said_to_have_never_started(demo: Any) -> None:
    race(demo, "demo?chunks=9&fail_after=3")
    demo.until("!document.querySelector('#race-copy').disabled")
    note = demo.text("#race-note")
    assert "did not start" not in note
    assert all(f"{label}: " in note for label in ("REST", "NDJSON", "SSE", "WebSocket", "gRPC"))
    chunks, overheads = (
        demo.run(f"Array.from(document.querySelectorAll('#race-table td:nth-child({column})'), (td) => td.innerText)")
        for column in (4, 6)
    )
    assert chunks == ["0", "3", "3", "3", "3"]
    assert overheads[0] == "–" and all("B" in overhead for overhead in overheads[1:])
    demo.errors.clear()  # the browser logs REST's 502


def test_a_figure_and_its_unit_stand_in_one_line_on_a_narrow_screen(demo: Any) -> None:
    demo.size(375, 667)
    race(demo, "demo?chunks=9&rate=40")
    demo.until("!document.querySelector('#race-copy').disabled")
    lines = demo.run(
        """Array.from(document.querySelectorAll('#race-table tbody td'), (td) => {
            const range = document.createRange();
            range.selectNodeContents(td);
            return range.getClientRects().length;
        })"""
    )
    assert len(lines) == 30 and set(lines) == {1}


def test_a_race_of_a_model_that_is_not_there_did_not_start(demo: Any) -> None:
    race(demo, "no-such-model")
    demo.until("document.querySelector('#race-note').textContent.includes('did not start')")
    demo.errors.clear()  # the browser logs the refusals


def test_a_race_that_is_left_leaves_no_sessions_behind(visit: Any, shared_server: Any) -> None:
    def sessions() -> set[str]:
        with urllib.request.urlopen(f"{shared_server.url}/sessions?limit=100") as answer:
            return {session["session_id"] for session in json.load(answer)["sessions"]}

    other = visit()
    one = visit()
    before = sessions()
    race(one, "demo?chunks=5000&rate=25")
    one.until("document.querySelectorAll('#lanes .tick:not([d=\"\"])').length >= 4")
    raced = sessions() - before
    assert len(raced) == 5
    one.open("about:blank")
    other.run(
        f"""(async () => {{
            const gone = async (id) => (await fetch(`sessions/${{id}}`)).status === 404;
            for (const id of {json.dumps(sorted(raced))}) while (!(await gone(id)));
        }})()"""
    )
    assert not raced & sessions()
    other.errors.clear()  # the browser logs the 404s
    one.visit(shared_server.url)
