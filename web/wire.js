// The wire panel: the frames of one protocol as they arrive, as text or hex, beside a sequence diagram that draws itself
// from them.

import { byId, el, saveFile, svg } from "./dom.js";
import { PROTOCOLS } from "./protocols.js";
import { duration, glimpse, hexDump, hexLine, size, visible } from "./text.js";
import { standalone } from "./drawing.js";

const ROW_PIXELS = 30;
const MOST_FRAMES = 600;
const DROPPED_AT_ONCE = 200;
const FLOOD_MILLISECONDS = 300;
const PREVIEW_BYTES = 160;

export class Wire {
  #frames = Object.fromEntries(Object.keys(PROTOCOLS).map((name) => [name, []]));
  #sums = Object.fromEntries(Object.keys(PROTOCOLS).map((name) => [name, { in: 0, out: 0, frames: 0 }]));
  #zero = Object.fromEntries(Object.keys(PROTOCOLS).map((name) => [name, null]));
  #protocol = "ndjson";
  #chosen = -1;
  #hex = false;
  #atEnd = true;
  #drawn = 0;
  #waiting = false;

  constructor() {
    this.list = byId("frames");
    this.drawing = byId("sequence");
    this.scroll = byId("wire-scroll");
    this.list.addEventListener("click", (click) =>
      this.#choose(Array.from(this.list.children).indexOf(click.target.closest("li"))),
    );
    this.list.addEventListener("keydown", (key) => this.#onKey(key));
    this.scroll.addEventListener("scroll", () => {
      this.#atEnd = this.scroll.scrollTop + this.scroll.clientHeight > this.scroll.scrollHeight - ROW_PIXELS;
    });
    let width = 0;
    new ResizeObserver(([{ contentRect }]) => {
      if (contentRect.width && contentRect.width !== width) this.#redraw();
      width = contentRect.width || width;
    }).observe(this.list);
    for (const radio of document.querySelectorAll('input[name="bytes"]')) {
      radio.addEventListener("change", () => {
        this.#hex = radio.value === "hex" && radio.checked;
        this.#redraw();
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
      frames.push({ ...frame, at: performance.now() - this.#zero[protocol], size: whole });
      this.#sums[protocol].frames += 1;
      this.#sums[protocol][frame.direction] += whole;
      if (frames.length > MOST_FRAMES) {
        frames.splice(0, DROPPED_AT_ONCE);
        if (protocol === this.#protocol) this.#drawn = Infinity;
      }
      if (protocol !== this.#protocol || this.#waiting) return;
      this.#waiting = true;
      const flood = this.#drawn > frames.length; // all of the list is drawn anew: not at every picture
      const later = flood ? (act) => setTimeout(act, FLOOD_MILLISECONDS) : requestAnimationFrame;
      later(() => {
        this.#waiting = false;
        if (this.#drawn > this.#frames[this.#protocol].length) this.#redraw();
        else this.#draw(true);
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

  #redraw() {
    this.#chosen = -1;
    this.#drawn = 0;
    this.#atEnd = true;
    byId("frame").hidden = true;
    this.list.replaceChildren();
    this.list.removeAttribute("aria-activedescendant");
    this.drawing.replaceChildren();
    this.#draw(false);
  }

  // What has come since the last time.
  #draw(isNew) {
    const frames = this.#frames[this.#protocol];
    const fresh = frames.slice(this.#drawn);
    const width = this.drawing.clientWidth || 150;
    const height = frames.length * ROW_PIXELS;
    if (!this.drawing.firstChild) {
      this.drawing.append(
        svg("line", { class: "life", x1: 10, x2: 10, y1: 0 }),
        svg("line", { class: "life", x1: width - 10, x2: width - 10, y1: 0 }),
      );
    }
    this.drawing.setAttribute("height", height);
    this.drawing.setAttribute("viewBox", `0 0 ${width} ${Math.max(height, 1)}`);
    for (const life of [this.drawing.childNodes[0], this.drawing.childNodes[1]]) life.setAttribute("y2", height);
    this.list.append(...fresh.map((frame, index) => this.#row(frame, this.#drawn + index)));
    this.drawing.append(...fresh.map((frame, index) => arrow(frame, this.#drawn + index, width, isNew)));
    this.#drawn = frames.length;
    this.#sum();
    if (this.#chosen < 0 && frames.length) this.#tell(frames.at(-1));
    if (this.#atEnd) this.scroll.scrollTop = this.scroll.scrollHeight;
  }

  #row(frame, index) {
    const preview = this.#hex ? hexLine(frame.bytes, 24) : glimpse(frame.bytes.subarray(0, PREVIEW_BYTES));
    const way = frame.direction === "out" ? "sent" : "received";
    return el(
      "li",
      {
        role: "option",
        id: `frame-${index}`,
        "aria-selected": "false",
        "aria-label": `${frame.label}, ${way}, ${size(frame.size)}, at ${duration(frame.at)}`,
      },
      el("span", { class: "at" }, duration(frame.at)),
      el("span", { class: "size" }, frame.size ? size(frame.size) : "–"),
      el("code", {}, preview || (frame.head ?? "").split("\n")[0]),
    );
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

  #choose(index) {
    const row = this.list.children[index];
    if (!row) return;
    this.list.children[this.#chosen]?.setAttribute("aria-selected", "false");
    this.#chosen = index;
    row.setAttribute("aria-selected", "true");
    this.list.setAttribute("aria-activedescendant", row.id);
    row.scrollIntoView({ block: "nearest" });
    this.#tell(this.#frames[this.#protocol][index]);
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
    const last = this.list.children.length - 1;
    const to = {
      ArrowDown: Math.min(this.#chosen + 1, last),
      ArrowUp: Math.max(this.#chosen - 1, 0),
      Home: 0,
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

function arrow(frame, index, width, isNew) {
  const y = index * ROW_PIXELS + 21;
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
