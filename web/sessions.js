// The side panel: the sessions of this server, newest activity first.

import { byId, el } from "./dom.js";
import { json, untapped } from "./http.js";
import { titles } from "./kept.js";
import { age } from "./text.js";

const PAGE = 30;
const MOST = 500; // that the server tells at once
const REFRESH_MILLISECONDS = 10_000; // what others make in other sessions is not told

export class SessionList {
  #current = null;
  #shown = null; // what is known of the session that is shown, which may be older than those of the list
  #wanted = PAGE;
  #more = false;
  #sessions = [];
  #asked = 0;

  constructor(choose) {
    this.choose = choose;
    byId("more-sessions").addEventListener("click", () => {
      this.#wanted = this.#sessions.length + PAGE;
      this.refresh();
    });
    setInterval(() => document.visibilityState === "visible" && this.refresh(), REFRESH_MILLISECONDS);
  }

  set current(session_id) {
    this.#current = session_id;
    this.#draw();
  }

  // The session that is shown, as it was read.
  show(session) {
    this.#shown = session;
    this.#draw();
  }

  // As many as are listed, from the newest on: also those that were older when the list was longer than a page.
  async refresh() {
    const asked = ++this.#asked;
    try {
      const found = new Map(); // one that moves between two pages comes twice
      let next = null;
      do {
        const limit = Math.min(this.#wanted - found.size, MOST);
        const before = next ? `&before=${encodeURIComponent(next)}` : "";
        const page = await json(untapped, "GET", `sessions?limit=${limit}${before}`);
        if (asked !== this.#asked) return; // a later answer is on its way
        for (const session of page.sessions) found.set(session.session_id, session);
        next = page.next ?? null;
      } while (next && found.size < this.#wanted);
      this.#sessions = Array.from(found.values());
      this.#more = Boolean(next);
      byId("sessions-note").textContent = this.#sessions.length ? "" : "No sessions yet.";
    } catch (problem) {
      if (asked === this.#asked) byId("sessions-note").textContent = problem.message;
    }
    this.#draw();
  }

  // Rows are kept and changed in place: one that is being pressed, or has the focus, must not go away.
  #draw() {
    byId("more-sessions").hidden = !this.#more;
    const listed = this.#sessions.find(({ session_id }) => session_id === this.#current);
    if (listed) this.#shown = listed;
    const older = !listed && this.#current && this.#shown?.session_id === this.#current;
    const list = byId("session-list");
    const rows = new Map(Array.from(list.children, (row) => [row.firstChild.dataset.session, row]));
    [...this.#sessions, ...(older ? [this.#shown] : [])].forEach((session, index) => {
      const row = rows.get(session.session_id) ?? this.#row(session.session_id);
      rows.delete(session.session_id);
      this.#fill(row, session);
      if (list.children[index] !== row) list.insertBefore(row, list.children[index] ?? null);
    });
    for (const row of rows.values()) row.remove();
  }

  #row(session_id) {
    const parts = ["title", "age", "more"].map((name) => el("span", { class: name, dir: "auto" }));
    return el(
      "li",
      {},
      el(
        "button",
        { type: "button", "data-session": session_id, title: session_id, click: () => this.choose(session_id) },
        ...parts,
      ),
    );
  }

  #fill(row, { session_id, model, message_count, created_at, connected_clients }) {
    const button = row.firstChild;
    const here = connected_clients > 1 ? `, ${connected_clients} here` : "";
    if (session_id === this.#current) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
    [
      titleOf(session_id),
      age(created_at),
      `${message_count} ${message_count === 1 ? "message" : "messages"}${here} · ${model}`,
    ].forEach((text, index) => (button.children[index].textContent = text));
  }
}

export function titleOf(session_id) {
  return titles.of(session_id) ?? `Session ${session_id.slice(-8)}`; // they begin alike
}
