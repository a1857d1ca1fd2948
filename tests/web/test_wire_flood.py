"""The wire panel when more frames come than it keeps: what is being read stays, and nothing is drawn anew."""

from collections.abc import Iterator
from typing import Any

import pytest

KEPT, DROPPED = 600, 200  # as in wire.js
ROWS = "document.querySelectorAll('#frames li').length"
ABOUT = "document.querySelector('#frame-about').textContent"
CHOSEN = "document.querySelector('#frames [aria-selected=true]')"


@pytest.fixture
def wire(browser: Any, shared_server: Any) -> Iterator[Any]:
    """The demo's wire panel without the demo, with `come(count)` for frames that come."""
    page = browser.page()
    page.open(f"{shared_server.url}/docs")
    page.run(
        """(async () => {
            const text = await (await fetch("demo")).text();
            const demo = new DOMParser().parseFromString(text, "text/html");
            const sheets = [...demo.querySelectorAll("link[rel=stylesheet]")];
            const loaded = sheets.map((sheet) => new Promise((resolve) => (sheet.onload = resolve)));
            document.head.append(...sheets);
            await Promise.all(loaded);
            document.body.replaceWith(demo.body);
            const {Wire} = await import("/web/wire.js");
            const wire = new Wire();
            wire.show("ndjson");
            const tap = wire.tap("ndjson");
            let last = 0;
            window.come = (count) => {
                for (; count > 0; count -= 1) {
                    last += 1;
                    tap({direction: "in", label: `frame ${last}`, bytes: new TextEncoder().encode(`bytes ${last}`)});
                }
            };
        })()"""
    )
    yield page
    assert page.errors == []
    page.close()


def test_what_is_being_read_stays_when_the_oldest_frames_go(wire: Any) -> None:
    wire.run(f"come({KEPT})")
    wire.until(f"{ROWS} === {KEPT}")
    wire.run("window.read = document.querySelectorAll('#frames li')[399]; read.scrollIntoView({block: 'center'})")
    wire.until("document.querySelector('#wire-scroll').scrollTop < 12000")
    wire.run("new Promise(requestAnimationFrame)")
    wire.run("read.click()")
    before = wire.run("read.getBoundingClientRect().top")
    wire.run("come(1)")
    wire.until(f"{ROWS} === {KEPT + 1 - DROPPED}")
    assert wire.run(f"{CHOSEN} === read")
    assert wire.text("#frame-about").startswith("frame 400 ·")
    assert wire.text("#frame-bytes") == "bytes 400"
    assert wire.run("read.getBoundingClientRect().top") == pytest.approx(before, abs=1)
    arrow = "document.querySelectorAll('#sequence g g')[199]"
    assert wire.run(f"{arrow}.textContent") == "frame 400"
    assert wire.run(f"{arrow}.getBoundingClientRect().top") == pytest.approx(before, abs=10)
    wire.focus("#frames")
    wire.press("ArrowDown")
    assert wire.text("#frame-about").startswith("frame 401 ·")


def test_a_click_shows_the_frame_of_its_own_row_also_of_one_that_goes(wire: Any) -> None:
    wire.run(f"come({KEPT})")
    wire.until(f"{ROWS} === {KEPT}")
    clicked = wire.run(
        f"""(() => {{
            come(1); // and nothing is drawn before this ends
            return [0, 199, 200, 599].map((index) => {{
                document.querySelectorAll("#frames li")[index].click();
                return {ABOUT}.split(" · ")[0];
            }});
        }})()"""
    )
    assert clicked == ["frame 1", "frame 200", "frame 201", "frame 600"]


def test_a_chosen_frame_that_goes_is_forgotten_and_the_newest_is_shown(wire: Any) -> None:
    wire.run(f"come({KEPT})")
    wire.until(f"{ROWS} === {KEPT}")
    wire.focus("#frames")
    wire.press("Home")
    assert wire.text("#frame-about").startswith("frame 1 ·")
    wire.run("come(1)")
    wire.until(f"{ABOUT}.startsWith('frame 601 ·')")
    assert wire.run(f"{CHOSEN} === null && !document.querySelector('#frames').hasAttribute('aria-activedescendant')")


def test_the_frames_that_are_kept_are_not_drawn_anew(wire: Any) -> None:
    wire.run(f"come({KEPT})")
    wire.until(f"{ROWS} === {KEPT}")
    wire.run("for (const row of document.querySelectorAll('#frames li')) row.drawn = 'before'")
    wire.run("come(1)")
    wire.until(f"{ROWS} === {KEPT + 1 - DROPPED}")
    kept = wire.run("Array.from(document.querySelectorAll('#frames li')).filter((row) => row.drawn).length")
    assert kept == KEPT - DROPPED
    scroll = "document.querySelector('#wire-scroll')"
    assert wire.run(f"{scroll}.scrollTop + {scroll}.clientHeight >= {scroll}.scrollHeight - 1")


def test_nothing_is_drawn_while_the_panel_is_not_shown(wire: Any) -> None:
    wire.run("come(3)")
    wire.until(f"{ROWS} === 3")
    wire.focus("#frames")
    wire.press("Home")
    shown = "new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))"
    wire.run(f"document.querySelector('#chat').hidden = true; {shown}")
    wire.run(f"come(3); {shown}")
    assert wire.run(ROWS) == 3
    wire.run("document.querySelector('#chat').hidden = false")
    wire.until(f"{ROWS} === 6")
    assert wire.text("#frame-about").startswith("frame 1 ·")


def test_a_chosen_frame_is_shown_as_hex(wire: Any) -> None:
    wire.run("come(3)")
    wire.until(f"{ROWS} === 3")
    wire.focus("#frames")
    wire.press("Home")
    wire.click("input[name=bytes][value=hex]")
    assert wire.text("#frame-bytes").startswith("0000  62 79 74 65 73 20 31 ")
    assert wire.text("#frames li:last-child code") == "62 79 74 65 73 20 33"
