// The race: one prompt on all five protocols at once, as lanes on a time axis, with the figures in a table.

import { announce } from "./announcer.js";
import { acknowledge, address, byId, copyText, el, randomId, saveFile, svg } from "./dom.js";
import { standalone } from "./drawing.js";
import { PROTOCOLS } from "./protocols.js";
import { duration, encode, size } from "./text.js";
import { events } from "./turn.js";

const WIDE = { width: 1_000, left: 104 };
const NARROW = { width: 420, left: 96 };
const LANE_PIXELS = 44;
const RIGHT_PIXELS = 24;
const TOP_PIXELS = 10;
const ROW_PIXELS = 26;

export class Race {
  #lanes = [];
  #started = 0;
  #running = false;
  #axis = 1_000;

  constructor() {
    this.chart = byId("lanes");
    byId("race-form").addEventListener("submit", (submit) => {
      submit.preventDefault();
      if (!this.#running) this.#run();
    });
    byId("race-copy").addEventListener("click", ({ target }) =>
      copyText(this.#markdown()).then(() => acknowledge(target, "Copied")),
    );
    byId("race-save").addEventListener("click", () => saveFile("fivewire-race.svg", "image/svg+xml", this.#saved()));
    matchMedia("(max-width: 700px)").addEventListener("change", () => this.#draw());
    window.addEventListener("pagehide", () => this.#running && this.#lanes.forEach((lane) => lane.close()));
    this.#reset();
    this.#draw();
  }

  #reset() {
    this.#axis = 1_000;
    this.#lanes = Object.entries(PROTOCOLS).map(([name, { label, make }]) => new Lane(name, label, make));
  }

  async #run() {
    const prompt = byId("race-prompt").value.trim();
    const model_id = byId("race-model").value.trim() || undefined;
    if (!prompt) return byId("race-prompt").focus();
    this.#running = true;
    this.#buttons();
    this.#reset();
    this.#note("Making five sessions.");
    await Promise.all(this.#lanes.map((lane) => lane.prepare(model_id)));
    this.#note("Five wires, one prompt.");
    this.#started = performance.now();
    const frame = () => {
      if (!this.#running) return;
      this.#draw();
      requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
    await Promise.all(this.#lanes.map((lane) => lane.run(prompt, this.#started)));
    this.#running = false;
    this.#lanes.forEach((lane) => lane.close());
    this.#draw();
    this.#buttons();
    this.#judge();
  }

  #judge() {
    const broken = this.#lanes.filter((lane) => lane.problem);
    if (broken.length === this.#lanes.length && this.#lanes.every((lane) => lane.first === null))
      return this.#note(`${broken[0].problem} The race did not start.`);
    const answers = new Set(this.#lanes.map((lane) => lane.text));
    if (broken.length) this.#note(broken.map((lane) => `${lane.label}: ${lane.problem}`).join(" "));
    else if (answers.size > 1) this.#note("The answers differ: this model does not give the same answer twice.");
    else {
      const digest = this.#lanes.find((lane) => lane.sha256)?.sha256 ?? "";
      this.#note(
        `All five answers are the same, ${size(encode(this.#lanes[0].text).length)} of text${digest ? ` (SHA-256 ${digest.slice(0, 12)}…)` : ""}.`,
      );
    }
    announce(byId("race-note").textContent);
  }

  #note(text) {
    byId("race-note").textContent = text;
  }

  #buttons() {
    byId("race-start").disabled = this.#running;
    byId("race-copy").disabled = byId("race-save").disabled = this.#running || !this.#lanes.some((lane) => lane.total);
  }

  #draw() {
    const now = this.#running ? performance.now() - this.#started : 0;
    const longest = Math.max(now, ...this.#lanes.map((lane) => lane.total ?? 0));
    while (longest > this.#axis * 0.97) this.#axis *= 1.5;
    const { width, left } = matchMedia("(max-width: 700px)").matches ? NARROW : WIDE;
    const across = width - left - RIGHT_PIXELS;
    const x = (milliseconds) => left + (milliseconds / this.#axis) * across;
    const bottom = TOP_PIXELS + this.#lanes.length * LANE_PIXELS;
    const step = niceStep(this.#axis, width < 600 ? 3 : 6);
    const grid = [];
    for (let at = 0; at <= this.#axis; at += step) {
      const anchor = at === 0 ? "start" : "middle";
      grid.push(
        svg("line", { class: "grid", x1: x(at), x2: x(at), y1: TOP_PIXELS, y2: bottom }),
        svg("text", { x: x(at), y: bottom + 18, "text-anchor": anchor }, seconds(at)),
      );
    }
    this.chart.setAttribute("viewBox", `0 0 ${width} ${bottom + 26}`);
    this.chart.replaceChildren(
      ...grid,
      ...this.#lanes.map((lane, index) =>
        lane.drawn(TOP_PIXELS + (index + 0.5) * LANE_PIXELS, x, now, width - RIGHT_PIXELS),
      ),
    );
    byId("race-table").tBodies[0].replaceChildren(
      ...this.#lanes.map((lane) =>
        el("tr", { "data-protocol": lane.name }, ...lane.figures().map((figure) => el("td", {}, figure))),
      ),
    );
  }

  #header() {
    return Array.from(byId("race-table").tHead.rows[0].cells, (cell) => cell.textContent);
  }

  #markdown() {
    const rows = this.#lanes.map((lane) => lane.figures());
    const line = (cells) => `| ${cells.join(" | ")} |`;
    return [line(this.#header()), "|---|---:|---:|---:|---:|---:|", ...rows.map(line)].join("\n") + "\n";
  }

  // The lanes, and the table below them.
  #saved() {
    const copy = this.chart.cloneNode(true);
    const [, , width, height] = copy.getAttribute("viewBox").split(" ").map(Number);
    const rows = [this.#header(), ...this.#lanes.map((lane) => lane.figures())];
    const style = getComputedStyle(document.body);
    rows.forEach((cells, row) => {
      cells.forEach((cell, column) => {
        const last = cells.length - 1;
        const place = column === 0 ? 8 : 8 + ((width - 16) * (column + 0.9)) / (last + 0.9);
        const fill =
          column === 0 && row > 0
            ? getComputedStyle(byId("race-table").tBodies[0].rows[row - 1].cells[0]).color
            : style.color;
        copy.append(
          svg(
            "text",
            {
              x: Math.min(place, width - 8),
              y: height + 24 + row * ROW_PIXELS,
              fill,
              "font-family": style.fontFamily,
              "font-size": width < 600 ? 8 : 12,
              "font-weight": column && row ? 400 : 600,
              "text-anchor": column ? "end" : "start",
            },
            cell,
          ),
        );
      });
    });
    copy.setAttribute("viewBox", `0 0 ${width} ${height + 24 + rows.length * ROW_PIXELS}`);
    return standalone(this.chart, copy, { title: "The race: one answer over five protocols" });
  }
}

class Lane {
  text = "";
  sha256 = null;
  problem = null;
  first = null;
  total = null;
  ticks = [];
  #bytes = { in: 0, out: 0 };
  #counting = false;

  constructor(name, label, Transport) {
    this.name = name;
    this.label = label;
    this.transport = new Transport((frame) => {
      if (this.#counting) this.#bytes[frame.direction] += frame.bytes.length + (frame.framing ?? 0);
    });
  }

  async prepare(model_id) {
    try {
      this.session_id = await this.transport.create(model_id);
    } catch (problem) {
      this.problem = problem.message;
    }
  }

  async run(message, started) {
    if (this.problem) return;
    this.#counting = true;
    const ask = { message, session_id: this.session_id, idempotency_key: randomId() };
    try {
      for await (const event of events({ ask, protocol: () => this.transport, hand: {} }))
        this.#take(event, performance.now() - started);
    } catch (problem) {
      this.problem = problem.message;
    }
    this.total ??= performance.now() - started;
    this.#counting = false;
  }

  #take(event, at) {
    if (event.type === "chunk" || event.type === "snapshot") {
      this.first ??= at;
      this.ticks.push(at);
      this.text = event.type === "chunk" ? this.text + (event.text ?? "") : event.text;
    }
    if (event.type === "complete") this.sha256 = event.text_sha256;
    if (event.type === "error") this.problem = event.message;
    if (["complete", "error", "snapshot"].includes(event.type)) this.total = at;
  }

  // The session was for the race only.
  close() {
    this.transport.link?.close();
    if (!this.session_id) return;
    const path = `sessions/${encodeURIComponent(this.session_id)}`;
    fetch(address(path), { method: "DELETE", keepalive: true }).catch(() => {}); // also when the page is left
  }

  figures() {
    const { in: received, out: sent } = this.#bytes;
    if (this.problem && !this.total) return [this.label, "–", "did not start", "–", "–", "–"];
    if (!this.total)
      return [
        this.label,
        this.first === null ? "–" : duration(this.first),
        "–",
        String(this.ticks.length || "–"),
        received ? size(received + sent) : "–",
        "–",
      ];
    const overhead = (received - encode(this.text).length) / this.ticks.length;
    return [
      this.label,
      this.first === null ? "–" : duration(this.first),
      duration(this.total),
      String(this.ticks.length),
      size(received + sent),
      this.ticks.length ? size(Math.round(overhead)) : "–",
    ];
  }

  drawn(y, x, now, right) {
    const end = this.total ?? now;
    return svg(
      "g",
      { "data-protocol": this.name },
      svg("text", { class: "name", x: 8, y: y + 4 }, this.label),
      svg("line", { class: "track", x1: x(0), x2: right, y1: y, y2: y }),
      end ? svg("line", { class: "span", x1: x(0), x2: x(end), y1: y, y2: y }) : null,
      svg("path", { class: "tick", d: this.ticks.map((at) => `M${x(at).toFixed(1)} ${y - 9}v18`).join("") }),
      this.total ? svg("circle", { class: "end", cx: x(this.total), cy: y, r: 4.5 }) : null,
    );
  }
}

function niceStep(axis, most) {
  return (
    [50, 100, 200, 250, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 60_000, 300_000].find(
      (step) => axis / step <= most,
    ) ?? axis
  );
}

function seconds(milliseconds) {
  return milliseconds === 0 ? "0" : `${Number((milliseconds / 1_000).toFixed(2))} s`;
}
