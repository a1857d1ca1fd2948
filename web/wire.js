// The wire panel: the frames of one protocol as they arrive, as text or hex, beside a sequence diagram that draws itself
// from them.

import { byId, el, saveFile, svg } from "./dom.js";
import { PROTOCOLS } from "./protocols.js";
import { duration, glimpse, hexDump, hexLine, size, visible } from "./text.js";
import { standalone } from "./drawing.js";

const ROW_PIXELS = 30;
const MOST_FRAMES = 600;
const DROPPED_AT_ONCE = 200;
const PREVIEW_BYTES = 160;
const MOST_ANIMATED = 10; // of the frames that come at once

const framesOf = new WeakMap(); // of rows: also the frame of a row that is still shown when the frame is not kept any more

export class Wire {
  #frames = Object.fromEntries(Object.keys(PROTOCOLS).map((name) => [name, []]));
  #sums = Object.fromEntries(Object.keys(PROTOCOLS).map((name) => [name, { in: 0, out: 0, frames: 0 }]));
  #zero = Object.fromEntries(Object.keys(PROTOCOLS).map((name) => [name, null]));
  #protocol = "ndjson";
  #chosen = null; // a row
  #hex = false;
  #atEnd = true;
  #drawn = 0; // frames, also those that are no longer kept
  #waiting = false;
  #width = 0;
  #shown = false;

  constructor() {
    this.list = byId("frames");
    this.drawing = byId("sequence");
    this.scroll = byId("wire-scroll");
    this.list.addEventListener("click", ({ target }) => this.#choose(target.closest("li")));
    this.list.addEventListener("keydown", (key) => this.#onKey(key));
    this.scroll.addEventListener("scroll", () => {
      this.#atEnd = this.scroll.scrollTop + this.scroll.clientHeight > this.scroll.scrollHeight - ROW_PIXELS;
    });
    // Of the drawing: the list is also made narrower by a scroll bar, which changes nothing here.
    new ResizeObserver(([{ contentRect }]) => this.#resized(contentRect.width)).observe(this.drawing);
    for (const radio of document.querySelectorAll('input[name="bytes"]')) {
      radio.addEventListener("change", () => {
        this.#hex = radio.value === "hex" && radio.checked;
        for (const row of this.list.children) row.lastChild.textContent = this.#preview(framesOf.get(row));
        const told = this.#chosen ?? this.list.lastChild;
        if (told) this.#tell(framesOf.get(told));
      });
    }
    byId("clear-wire").addEventListener("click", () => {
      this.#frames[this.#protocol] = [];
      this.#sums[this.#protocol] = { in: 0, out: 0, frames: 0 };
      this.#zero[this.#protocol] = null;
      this.#redraw();
    });
    byId("save-diagram").addEventListener("click", () =>
      saveFile(`fivewire-${this.#protocol}.svg`, "image/svg+xml", this.#saved()),
    );
  }

  // The function that a transport tells its frames. They are drawn once per picture of the screen, however many come.
  tap(protocol) {
    return (frame) => {
      const frames = this.#frames[protocol];
      this.#zero[protocol] ??= performance.now();
      const whole = frame.bytes.length + (frame.framing ?? 0);
      const number = this.#sums[protocol].frames;
      frames.push({ ...frame, number, at: performance.now() - this.#zero[protocol], size: whole });
      this.#sums[protocol].frames += 1;
      this.#sums[protocol][frame.direction] += whole;
      if (frames.length > MOST_FRAMES) frames.splice(0, DROPPED_AT_ONCE);
      if (protocol !== this.#protocol || this.#waiting || !this.#shown) return;
      this.#waiting = true;
      requestAnimationFrame(() => {
        this.#waiting = false;
        this.#draw(true);
      });
    };
  }

  // A turn begins: times count from here.
  begin(protocol) {
    this.#zero[protocol] = performance.now();
  }

  show(protocol) {
    this.#protocol = protocol;
    byId("wire").dataset.protocol = protocol;
    this.#redraw();
  }

  // Nothing is drawn while the pane is not shown; then, what has come meanwhile.
  #resized(width) {
    const wasShown = this.#shown;
    this.#shown = width > 0;
    if (!this.#shown) return;
    if (width !== this.#width) {
      this.#width = width;
      this.#redraw();
    } else if (!wasShown) this.#draw(false);
  }

  #redraw() {
    this.#forget();
    this.#drawn = 0;
    this.#atEnd = true;
    byId("frame").hidden = true;
    this.list.replaceChildren();
    this.arrows = svg("g");
    this.drawing.replaceChildren(
      svg("line", { class: "life", x1: 10, x2: 10, y1: 0 }),
      svg("line", { class: "life", x1: this.#width - 10, x2: this.#width - 10, y1: 0 }),
      this.arrows,
    );
    this.#draw(false);
  }

  // What has come since the last time.
  #draw(isNew) {
    this.#sum();
    if (!this.#shown) return;
    const frames = this.#frames[this.#protocol];
    const fresh = frames.filter(({ number }) => number >= this.#drawn);
    const height = frames.length * ROW_PIXELS;
    const top = this.#atEnd ? 0 : this.scroll.scrollTop;
    const dropped = this.#drop(frames[0]?.number ?? 0);
    this.drawing.setAttribute("height", height);
    this.drawing.setAttribute("viewBox", `0 0 ${this.#width} ${Math.max(height, 1)}`);
    for (const life of this.drawing.querySelectorAll(".life")) life.setAttribute("y2", height);
    this.list.append(...fresh.map((frame) => this.#row(frame)));
    this.arrows.append(...fresh.map((frame) => arrow(frame, this.#width, isNew && fresh.length <= MOST_ANIMATED)));
    this.#drawn = this.#sums[this.#protocol].frames;
    if (!this.#chosen && frames.length) this.#tell(frames.at(-1));
    if (this.#atEnd) this.scroll.scrollTop = this.scroll.scrollHeight;
    else if (dropped) this.scroll.scrollTop = top - dropped * ROW_PIXELS;
  }

  // The rows and arrows before the first frame that is kept go, and all others stay as they are.
  #drop(first) {
    let dropped = 0;
    for (; framesOf.get(this.list.firstChild)?.number < first; dropped += 1) {
      if (this.#chosen === this.list.firstChild) this.#forget();
      this.list.firstChild.remove();
      this.arrows.firstChild.remove();
    }
    this.arrows.setAttribute("transform", `translate(0 ${-first * ROW_PIXELS})`);
    return dropped;
  }

  #row(frame) {
    const way = frame.direction === "out" ? "sent" : "received";
    const row = el(
      "li",
      {
        role: "option",
        id: `frame-${frame.number}`,
        "aria-selected": "false",
        "aria-label": `${frame.label}, ${way}, ${size(frame.size)}, at ${duration(frame.at)}`,
      },
      el("span", { class: "at" }, duration(frame.at)),
      el("span", { class: "size" }, frame.size ? size(frame.size) : "–"),
      el("code", {}, this.#preview(frame)),
    );
    framesOf.set(row, frame);
    return row;
  }

  #preview({ bytes, head }) {
    const preview = this.#hex ? hexLine(bytes, 24) : glimpse(bytes.subarray(0, PREVIEW_BYTES));
    return preview || (head ?? "").split("\n")[0];
  }

  // Also of the frames that are no longer listed.
  #sum() {
    const { in: received, out: sent, frames } = this.#sums[this.#protocol];
    byId("wire-empty").hidden = frames > 0;
    byId("save-diagram").disabled = byId("clear-wire").disabled = frames === 0;
    const { label, says } = PROTOCOLS[this.#protocol];
    const sums = `${label}: ${frames} frames, ${size(received)} in, ${size(sent)} out`;
    byId("wire-sums").textContent = frames ? sums : `${label}. ${says}`;
  }

  #choose(row) {
    if (!row) return;
    this.#forget();
    this.#chosen = row;
    row.setAttribute("aria-selected", "true");
    this.list.setAttribute("aria-activedescendant", row.id);
    row.scrollIntoView({ block: "nearest" });
    this.#tell(framesOf.get(row));
  }

  #forget() {
    this.#chosen?.setAttribute("aria-selected", "false");
    this.#chosen = null;
    this.list.removeAttribute("aria-activedescendant");
  }

  // The frame's bytes below the list: of the newest frame until one is chosen.
  #tell(frame) {
    const notes = [
      frame.label,
      frame.direction === "out" ? "sent" : "received",
      `${frame.bytes.length} bytes`,
      `at ${duration(frame.at)}`,
    ];
    if (frame.framing) notes.push(`+ ${frame.framing} of frame header`);
    if (frame.rebuilt) notes.push("EventSource hides its bytes: rebuilt from what it parsed");
    byId("frame-about").textContent = notes.join(" · ");
    const body = this.#hex ? hexDump(frame.bytes) : visible(frame.bytes);
    byId("frame-bytes").textContent = [frame.head, body].filter(Boolean).join("\n\n");
    byId("frame").classList.toggle("hex", this.#hex);
    byId("frame").hidden = false;
  }

  #onKey(key) {
    const { firstChild: first, lastChild: last } = this.list;
    const to = {
      ArrowDown: this.#chosen ? (this.#chosen.nextSibling ?? last) : first,
      ArrowUp: this.#chosen?.previousSibling ?? first,
      Home: first,
      End: last,
    }[key.key];
    if (to === undefined) return;
    key.preventDefault();
    this.#choose(to);
  }

  #saved() {
    const copy = this.drawing.cloneNode(true);
    return standalone(this.drawing, copy, { title: `${PROTOCOLS[this.#protocol].label}: what crossed the wire` });
  }
}

function arrow(frame, width, isNew) {
  const y = frame.number * ROW_PIXELS + 21; // the group that it is in is moved up by the frames that were dropped
  const out = frame.direction === "out";
  const [from, to] = out ? [10, width - 10] : [width - 10, 10];
  const tip = out ? -7 : 7;
  const most = Math.floor((width - 20) / 6.4);
  const label = frame.label.length > most ? `${frame.label.slice(0, most - 1)}…` : frame.label;
  return svg(
    "g",
    { class: [frame.direction, frame.rebuilt && "rebuilt", isNew && "new"].filter(Boolean).join(" ") },
    svg("line", { class: "arrow", x1: from, x2: to + tip, y1: y, y2: y }),
    svg("path", { class: "tip", d: `M${to} ${y}l${tip} -4v8z` }),
    svg("text", { x: width / 2, y: y - 6 }, label),
  );
}
