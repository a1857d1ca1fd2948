// What a screen reader hears: whole sentences, politely, and never every token.

import { byId, el } from "./dom.js";

const KEPT = 20;
const SHORTEST = 60;
const WITHIN_LINES = new Set(["A", "CODE", "EM", "S", "STRONG"]);
const MARK = /[*_~`[\\]/; // begins what its end may still change

const texts = new WeakMap(); // of blocks: one that changes is drawn as another node

export function announce(text) {
  const region = byId("announcer");
  region.append(el("p", {}, text));
  while (region.childNodes.length > KEPT) region.firstChild.remove();
}

// Takes a growing answer as it is shown, and announces it sentence by sentence.
export class Reader {
  #said = 0;

  grown(prose) {
    const text = settled(prose);
    const end = /^[\s\S]*(?:[.!?:](?=\s)|\n)/.exec(text.slice(this.#said))?.[0].length ?? 0;
    if (end >= SHORTEST) this.#say(text, this.#said + end);
  }

  finished(prose) {
    const text = Array.from(prose.childNodes, lines).join("");
    this.#say(text, text.length);
  }

  #say(text, end) {
    const part = text.slice(this.#said, end).trim();
    this.#said = Math.max(this.#said, end);
    if (part) announce(part);
  }
}

// As much of the text as stays what it is, however the answer goes on. Its last block may yet become another one, but
// not the items of a list before the last, nor the sentences of a paragraph up to what may be a mark. Every part of the
// text ends in one line break, so that it is the same text when what comes joins the block before.
function settled(prose) {
  const blocks = Array.from(prose.childNodes);
  const last = blocks.pop();
  if (last?.tagName === "UL" || last?.tagName === "OL") blocks.push(...Array.from(last.childNodes).slice(0, -1));
  const text = blocks.map(lines).join("");
  return last?.tagName === "P" ? text + begun(lines(last).trimEnd()) : text;
}

// Of a paragraph: a bar anywhere may make a table of it, other marks change no more than their own line.
function begun(paragraph) {
  const [whole] = paragraph.split("|");
  const line = whole.lastIndexOf("\n") + 1;
  return whole.slice(0, line) + whole.slice(line).split(MARK)[0];
}

// The text of a block: a line for each line, item and cell, and none that is empty.
function lines(block) {
  if (!texts.has(block)) {
    const all = spoken(block).split("\n");
    const full = all.map((line) => line.trim()).filter(Boolean);
    texts.set(block, full.map((line) => `${line}\n`).join(""));
  }
  return texts.get(block);
}

function spoken(node) {
  if (node.nodeType === Node.TEXT_NODE) return node.data;
  const text = Array.from(node.childNodes, spoken).join("");
  return WITHIN_LINES.has(node.tagName) ? text : `\n${text}\n`;
}
