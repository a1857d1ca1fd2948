// What a screen reader hears: whole sentences, politely, and never every token.

import { byId, el } from "./dom.js";

const KEPT = 20;

export function announce(text) {
  const region = byId("announcer");
  region.append(el("p", {}, text));
  while (region.childNodes.length > KEPT) region.firstChild.remove();
}

// Takes a growing text and announces it sentence by sentence.
export class Reader {
  #said = 0;

  grown(text) {
    const end = /^[\s\S]*[.!?:\n](?=\s|$)/.exec(text.slice(this.#said))?.[0].length ?? 0;
    if (end >= 60) this.#say(text, this.#said + end);
  }

  finished(text) {
    this.#say(text, text.length);
  }

  #say(text, end) {
    const part = text.slice(this.#said, end).trim();
    this.#said = end;
    if (part) announce(part);
  }
}
