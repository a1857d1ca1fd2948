"""The pages for everybody: by keyboard, by ear, on small screens, without motion."""

import json
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


def test_in_the_race_one_skips_to_its_prompt(demo: Any) -> None:
    demo.run("location.hash = 'race'")
    demo.until("!document.querySelector('#race').hidden")
    demo.focus(".brand")
    demo.press("Tab", shift=True)
    demo.press("Enter")
    demo.until("document.activeElement.id === 'race-prompt'")
    assert demo.run("document.body.dataset.view") == "race"


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


LONG = "This is a sentence that is long enough for being said when it ends."
SPOKEN = {
    f"Some **bold words** and `code`. {LONG} [A link](https://x.test/a).": f"Some bold words and code. {LONG} A link.",
    f"{LONG} **It is strong. And it goes on**. {LONG} End": f"{LONG} It is strong. And it goes on. {LONG} End",
    f"- *1* {LONG}\n- *2* {LONG}\n\n- Late.": f"1 {LONG} 2 {LONG} Late.",
    f"# Head\n{LONG} So:\n1. one\n2. two\n\n```\nx = '**'\n```\nEnd": f"Head {LONG} So: one two x = '**' End",
    f"{LONG} a | b\n|---|---|\n| 1. | 2 |\nc | d": f"{LONG} a b 1. 2 c d",
    f"| a |\n|---|\n| 1 |\n{LONG} And | a cell": f"a 1 {LONG} And a cell",
    f"> *So*.\n\nsnake_case is *not*  \nnor 2 * 3. {LONG}\n\nEnd": f"So. snake_case is not nor 2 * 3. {LONG} End",
    f"{LONG} Look at **this. It never ends. {LONG}": f"{LONG} Look at **this. It never ends. {LONG}",
}


@pytest.mark.parametrize("text,spoken", SPOKEN.items(), ids=range(len(SPOKEN)))
def test_what_is_announced_is_what_is_shown(text: str, spoken: str, demo: Any) -> None:
    said, early = demo.run(
        f"""(async () => {{
            const {{Answer}} = await import("/web/markdown.js");
            const {{Reader}} = await import("/web/announcer.js");
            const text = {json.dumps(text)};
            const said = [];
            document.querySelector("#announcer").append = (node) => said.push(node.textContent);
            const answer = new Answer(document.createElement("div"));
            const reader = new Reader();
            for (let end = 1; end <= text.length; end += 1) {{
                answer.show(text.slice(0, end));
                reader.grown(answer.node);
            }}
            const early = said.length;
            reader.finished(answer.node);
            return [said.join(" "), early];
        }})()"""
    )
    assert said.split() == spoken.split()
    assert early


def test_no_markdown_is_read_out(demo: Any) -> None:
    said = demo.run(
        """(async () => {
            const {TurnView} = await import("/web/turnview.js");
            const view = new TurnView({message: "Hello"});
            view.apply({type: "session_info", turn_id: "t", seq: 1});
            view.apply({type: "chunk", text: "- **Bold**\\n- and `code`", seq: 2});
            view.apply({type: "complete", seq: 3});
            return Array.from(document.querySelector("#announcer").children, (node) => node.innerText);
        })()"""
    )
    assert said == ["Sent. The answer follows.", "Bold and code"]


def test_a_message_that_is_refused_is_not_announced_as_sent(demo: Any) -> None:
    demo.ask("Hello", model=QUICK)
    demo.ended()
    assert demo.text("#announcer").count("Sent.") == 1
    demo.ask("Hello again", model="no-such-model")
    demo.until("document.querySelector('#log .trouble')")
    assert demo.text("#announcer").count("Sent.") == 1
    demo.errors.clear()  # the browser logs the 400


def test_a_scroll_bar_does_not_break_the_words_of_a_button(demo: Any) -> None:
    lines = demo.run(
        """(() => {
            document.querySelector("#sessions").style.paddingRight = "29px"; // room for a classic scroll bar
            const words = document.createRange();
            words.selectNodeContents(document.querySelector("#new-session"));
            return words.getClientRects().length;
        })()"""
    )
    assert lines == 1
    assert demo.run(
        "document.querySelector('#sessions').scrollWidth <= document.querySelector('#sessions').clientWidth"
    )


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
    widths = (320, 375, 768, 901, 1000, 1080, 1081, 1280, 1920)
    too_wide = "document.documentElement.scrollWidth > innerWidth"
    overflows = """["#sessions", "#conversation", "#composer", "#wire"].filter((name) => {
        const node = document.querySelector(name);
        return node.scrollWidth > node.clientWidth;
    })"""
    narrow = """Object.entries({"#protocol": 100, "#model": 60, "#send": 50}).filter(([name, least]) => {
        const {width} = document.querySelector(name).getBoundingClientRect();
        return width && width < least;
    })"""
    for width in widths:
        demo.size(width, 720)
        for pane in ("sessions", "conversation", "wire"):
            demo.run(f"document.querySelector('.panes [data-pane={pane}]').click()")
            assert not demo.run(too_wide), (width, pane)
            assert demo.run(overflows) == [], (width, pane)
            assert demo.run(narrow) == [], (width, pane)
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
