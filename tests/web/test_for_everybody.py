"""The pages for everybody: by keyboard, by ear, on small screens, without motion."""

from typing import Any

import pytest

QUICK = "demo?chunks=12&rate=200"
ENDLESS = "demo?chunks=5000&rate=25"


def test_the_keyboard_alone_is_enough(demo: Any) -> None:
    assert demo.run("document.activeElement.id") == "message"
    demo.focus(".brand")
    demo.press("Tab", shift=True)
    assert demo.run("document.activeElement.className") == "skip"
    demo.press("Enter")
    demo.until("document.activeElement.id === 'message'")
    demo.type("By keyboard")
    demo.press("Enter")
    demo.begun()
    demo.press("Escape")
    demo.ended()
    assert "stopped" in demo.text("#log .about")
    reached = set()
    for _ in range(90):
        demo.press("Tab")
        reached.add(demo.run("document.activeElement.id || document.activeElement.className"))
    assert {"protocol", "model", "send", "frames", "new-session", "delete-session", "log"} <= reached


@pytest.mark.parametrize("width,height", [(375, 667), (1280, 600)])
def test_the_welcome_is_shown_from_its_beginning(width: int, height: int, demo: Any) -> None:
    demo.size(width, height)
    demo.reload()
    demo.connected()
    log = "document.querySelector('#log')"
    assert demo.run(f"{log}.scrollHeight > {log}.clientHeight")
    assert demo.run(f"{log}.scrollTop") == 0


def test_an_answer_is_announced_by_sentences(demo: Any) -> None:
    demo.run(
        """(() => {
            window.said = [];
            new MutationObserver((changes) => changes.forEach((change) => change.addedNodes.forEach((node) =>
                window.said.push(node.textContent)))).observe(document.querySelector("#announcer"), {childList: true});
        })()"""
    )
    demo.ask("Hello", model="demo?chunks=60&rate=200")
    demo.ended()
    said = demo.until("window.said.length > 1 && window.said")
    assert len(said) < 12
    assert " ".join(" ".join(said[1:]).split()) == demo.answer()
    assert demo.run("document.querySelector('#log').getAttribute('aria-live')") == "off"


@pytest.mark.parametrize("view", ["demo", "demo#race", "docs"])
def test_everything_that_can_be_used_has_a_name(view: str, demo: Any, shared_server: Any) -> None:
    demo.open("about:blank")
    demo.open(f"{shared_server.url}/{view}")
    demo.until("document.querySelector('#protocol option, .entry')")
    tree = demo.call("Accessibility.getFullAXTree")["nodes"]
    used = {
        "button",
        "textbox",
        "combobox",
        "link",
        "radio",
        "listbox",
        "option",
        "searchbox",
        "dialog",
        "img",
        "region",
        "navigation",
    }
    nameless = [
        node["role"]["value"]
        for node in tree
        if not node["ignored"] and node["role"]["value"] in used and not node.get("name", {}).get("value")
    ]
    assert nameless == []


def test_nothing_is_wider_than_the_screen(demo: Any, shared_server: Any) -> None:
    demo.ask("A-very-long-word-" * 20, model=QUICK)
    demo.ended()
    widths = (320, 375, 768, 1024, 1280, 1920)
    too_wide = "document.documentElement.scrollWidth > innerWidth"
    for width in widths:
        demo.size(width, 720)
        for pane in ("sessions", "conversation", "wire"):
            demo.run(f"document.querySelector('.panes [data-pane={pane}]').click()")
            assert not demo.run(too_wide), (width, pane)
        demo.run("location.hash = 'race'")
        demo.until("!document.querySelector('#race').hidden")
        assert not demo.run(too_wide), (width, "race")
        demo.run("location.hash = 'chat'")
        demo.until("document.querySelector('#race').hidden")
    demo.open(f"{shared_server.url}/docs")
    demo.until("document.querySelector('.entry')")
    for width in widths:
        demo.size(width, 720)
        assert not demo.run(too_wide), (width, "docs")


def test_a_table_is_scrolled_rather_than_broken_within_words(demo: Any) -> None:
    demo.size(375, 667)
    lines = demo.run(
        """(async () => {
            const {TurnView} = await import("/web/turnview.js");
            const row = "| alphabet | " + "A cell that holds many words. | ".repeat(6);
            const text = [row, "|---".repeat(7), row].join("\\n");
            const {node} = TurnView.past({message: "A table", text});
            document.querySelector("#log").append(node);
            const cell = document.createRange();
            cell.selectNodeContents(node.querySelector("td"));
            return cell.getClientRects().length;
        })()"""
    )
    assert lines == 1


def test_reduced_motion_is_respected(demo: Any) -> None:
    demo.size(1280, 800, still=True)
    demo.ask("Hold still", model=ENDLESS)
    demo.begun()
    assert demo.run("document.getAnimations().length") == 0
    demo.size(1280, 800, still=False)
    demo.until("document.getAnimations().length > 0")
    demo.click("#stop")
    demo.ended()
