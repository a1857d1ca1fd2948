// One turn on the page: what was said, the answer as it grows, what it cost, and what to do when it broke.
//
// `text` is what the log's chunks say, and belongs to the cursor `seq`; a snapshot (REST) is shown instead, and forgotten
// when the log goes on.

import { announce, Reader } from "./announcer.js";
import { acknowledge, copyText, el } from "./dom.js";
import { advice } from "./failures.js";
import { Answer } from "./markdown.js";
import { PROTOCOLS } from "./protocols.js";
import { duration } from "./text.js";

const BROKE = "The answer broke.";

export class TurnView {
  text = "";
  seq = 0;
  turn_id = null;
  finished = false;
  #shown = "";
  #chunks = 0;
  #asked = performance.now();
  #first = null;
  #drawn = false;
  #lost = false; // the connection, as far as is said
  #reader = new Reader();

  constructor({ message, protocol = null, retry = null }) {
    this.message = message;
    this.retry = retry;
    this.said = el("p", { class: "said", dir: "auto" }, message);
    this.prose = el("div", { class: "prose" });
    this.about = el("div", { class: "about" });
    this.answer = el("div", { class: "answer growing", role: "group", "aria-label": "Answer" }, this.prose, this.about);
    this.node = el(
      "article",
      { class: "turn" },
      el("h3", { class: "away" }, "You said"),
      this.said,
      el("h3", { class: "away" }, "Answer"),
      this.answer,
    );
    this.path = [];
    if (protocol) this.over(protocol);
  }

  // The protocol that carries the turn from now on.
  over(protocol) {
    if (this.path.at(-1) === protocol) return;
    this.path.push(protocol);
    this.node.dataset.protocol = protocol;
    this.#describe(this.#shown ? "answering" : "asking");
  }

  // From where a reload or another page left it.
  goOn({ turn_id, seq, text }) {
    Object.assign(this, { turn_id, seq, text, resumed: true });
    this.#show(text);
    this.#describe(`resumed after event ${seq}`);
  }

  apply(event) {
    if (event.turn_id && !this.turn_id) announce("Sent. The answer follows."); // it was not refused
    if (event.turn_id) this.turn_id = event.turn_id;
    if (event.seq) {
      if (event.seq <= this.seq && event.type !== "complete" && event.type !== "error") return;
      this.seq = Math.max(this.seq, event.seq);
    }
    if (event.type === "session_info") {
      this.text = "";
      this.#describe("asking");
    } else if (event.type === "status") this.#describe("thinking");
    else if (event.type === "chunk") {
      this.text += event.text ?? "";
      this.#chunks = event.chunk_number ?? this.#chunks + 1;
      this.#first ??= performance.now();
      this.#show(this.text);
    } else if (event.type === "snapshot") this.#snapshot(event);
    else if (event.type === "complete") this.#end(event);
    else if (event.type === "error") this.fail(event);
  }

  #snapshot(turn) {
    this.#show(turn.text ?? "");
    if (turn.status === "running") this.#describe("answering");
    else if (turn.code) this.fail({ code: turn.code, message: turn.error ?? BROKE });
    else this.#end({ ...turn, total_chunks: null });
  }

  waiting(delay) {
    this.#lost = true;
    this.#describe(delay ? `connection lost, trying again in ${duration(delay)}` : "connection lost, trying again");
  }

  fail({ code = "internal", message }) {
    this.#finish();
    this.cut = code === "connection"; // the turn itself may have gone on
    this.#broke(code, message, { role: "alert" });
  }

  #broke(code, message, how = {}) {
    this.trouble?.remove();
    this.trouble = el(
      "div",
      { class: "trouble", ...how },
      el("strong", {}, message),
      advice(code) ? el("p", { class: "note advice" }, advice(code)) : null,
    );
    this.answer.insertBefore(this.trouble, this.about);
    this.#describe(code);
  }

  // One that lies in the past: nothing grows, nothing is announced.
  static past({ message, text, turn_id, finish_reason, code, error, retry }) {
    const view = new TurnView({ message, retry });
    view.turn_id = turn_id;
    view.finished = true;
    view.answer.classList.remove("growing");
    new Answer(view.prose).show(text);
    view.#shown = text;
    if (code) view.#broke(code, error ?? BROKE);
    else view.#describe(ending(finish_reason) || (text ? "" : "no answer"));
    return view;
  }

  #end(event) {
    this.#finish();
    const figures = [];
    if (event.total_chunks) figures.push(`${event.total_chunks} ${event.total_chunks === 1 ? "chunk" : "chunks"}`);
    if (this.#first && !this.resumed && this.path.length === 1 && event.total_chunks)
      figures.push(`first after ${duration(this.#first - this.#asked)}`);
    if (event.processing_time) figures.push(duration(event.processing_time * 1_000));
    if (event.usage?.output_tokens)
      figures.push(`${event.usage.estimated ? "about " : ""}${event.usage.output_tokens} tokens`);
    this.#describe(...figures, ending(event.finish_reason));
  }

  #finish() {
    this.finished = true;
    this.#draw();
    this.#reader.finished(this.prose);
    this.answer.classList.remove("growing");
    this.answer.removeAttribute("aria-busy");
  }

  #show(text) {
    this.#shown = text;
    if (this.finished) return;
    if (this.#chunks <= 1 || this.#lost) this.#describe("answering");
    this.#lost = false;
    if (this.#drawn) return;
    this.#drawn = true;
    requestAnimationFrame(() => this.#draw());
  }

  // At most once a frame, however fast the chunks come.
  #draw() {
    this.#drawn = false;
    this.rendered ??= new Answer(this.prose);
    this.rendered.show(this.#shown);
    if (!this.finished) this.#reader.grown(this.prose);
    this.grown?.();
  }

  #describe(...words) {
    const names = this.path.map((name) => PROTOCOLS[name].label).join(" → ");
    const parts = [
      names && el("span", { class: "wire-name" }, names),
      ...words.filter(Boolean).map((word) => el("span", {}, word)),
    ];
    this.about.replaceChildren(...parts.filter(Boolean));
    if (!this.finished) return;
    const deeds = el("span", { class: "deeds" });
    if (this.#shown) {
      const copy = el(
        "button",
        { type: "button", class: "quiet", click: () => copyText(this.#shown).then(() => acknowledge(copy, "Copied")) },
        "Copy",
      );
      deeds.append(copy);
    }
    if (this.retry)
      deeds.append(el("button", { type: "button", class: "quiet retry", click: () => this.retry(this) }, "Retry"));
    this.about.append(deeds);
  }
}

// How an answer ended, in a word; a whole one says nothing of it.
function ending(finish_reason) {
  if (!finish_reason || finish_reason === "stop") return "";
  return finish_reason === "cancelled" ? "stopped" : finish_reason;
}
