"""The wire panel and the race, in a real browser."""

from typing import Any


def test_frames_can_be_chosen_by_keyboard_and_shown_as_hex(demo: Any) -> None:
    demo.ask("Hello", "grpc")
    demo.ended()
    demo.until("document.querySelector('#sequence').textContent.includes('trailers')")
    demo.focus("#frames")
    demo.press("Home")
    demo.press("ArrowDown")
    demo.press("End")
    assert "trailers" in demo.text("#frame-about")
    assert "grpc-status:" in demo.text("#frame-bytes").replace(" ", "")
    demo.click("input[name=bytes][value=hex]")
    demo.focus("#frames")
    demo.press("End")
    assert demo.text("#frame-bytes").startswith("0000  80 00 00 00")
    demo.click("#clear-wire")
    demo.until("document.querySelector('#frames').childElementCount === 0")


SAVED = """
(async () => {
    const made = new Promise((resolve) => {
        const original = URL.createObjectURL;
        URL.createObjectURL = (blob) => { URL.createObjectURL = original; resolve(blob); return original(blob); };
    });
    document.querySelector(%s).click();
    const blob = await made;
    const text = await blob.text();
    const tree = new DOMParser().parseFromString(text, "image/svg+xml");
    const broken = tree.querySelector("parsererror") !== null;
    return {type: blob.type, text, root: tree.documentElement.localName, broken};
})()
"""


def test_the_sequence_diagram_is_saved_as_a_drawing_of_its_own(demo: Any) -> None:
    demo.ask("Hello", "ndjson")
    demo.ended()
    saved = demo.run(SAVED % '"#save-diagram"')
    assert saved["type"] == "image/svg+xml" and saved["root"] == "svg" and not saved["broken"]
    assert "POST /chat/stream" in saved["text"] or "POST /chat" in saved["text"]
    assert "class=" not in saved["text"]


def test_the_race_runs_on_all_five_and_can_be_taken_away(demo: Any) -> None:
    demo.run("location.hash = 'race'")
    demo.fill("#race-model", "demo?chunks=20&rate=100")
    demo.click("#race-start")
    demo.until("!document.querySelector('#race-copy').disabled")
    assert "All five answers are the same" in demo.text("#race-note")
    rows = demo.run(
        """Array.from(document.querySelector('#race-table').tBodies[0].rows,
            (row) => Array.from(row.cells, (cell) => cell.innerText))"""
    )
    assert [row[0] for row in rows] == ["REST", "NDJSON", "SSE", "WebSocket", "gRPC"]
    assert [row[3] for row in rows] == ["1", "20", "20", "20", "20"]
    assert all("B" in row[4] and "B" in row[5] and "s" in row[1] and "s" in row[2] for row in rows)
    ticks = demo.run(
        "Array.from(document.querySelectorAll('#lanes .tick'), (n) => n.getAttribute('d').split('M').length)"
    )
    assert ticks == [2, 21, 21, 21, 21]
    assert demo.run("document.querySelectorAll('#lanes .end').length") == 5
    saved = demo.run(SAVED % '"#race-save"')
    assert saved["root"] == "svg" and not saved["broken"]
    assert all(cell in saved["text"] for cell in rows[1])
    demo.run("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    demo.click("#race-copy")
    lines = demo.until("window.copied").splitlines()
    assert lines[0].startswith("| Protocol | First chunk |") and len(lines) == 7
    assert lines[3] == f"| {' | '.join(rows[1])} |"
