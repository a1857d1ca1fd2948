// One session as the page shows it: its turns, the one that is running, and what the other members do.
//
// 1. A room keeps its turns' nodes when another session is looked at: answers go on growing there.
// 2. Membership (WebSocket) brings every turn of the session, also the page's own. A turn that the page reads over the
//    chosen protocol is shown from there; frames that come before its id is known are held until it is.

import { Cut, Failure } from "./failures.js";
import { json, untapped } from "./http.js";
import { randomId, el } from "./dom.js";
import { running } from "./kept.js";
import { eventOf } from "./transports/websocket.js";
import { events, Switched } from "./turn.js";
import { TurnView } from "./turnview.js";

const KEEP_MILLISECONDS = 250;

export class Room extends EventTarget {
  #views = new Map();
  #own = null; // {view, turn, hand, keptAt}
  #undecided = [];
  #loading = null;
  loaded = false;
  model = "";

  constructor(session_id, chosen) {
    super();
    this.session_id = session_id;
    this.chosen = chosen; // () -> {name, transport, begin}
    this.node = el("div", { class: "turns" });
  }

  get busy() {
    return this.#own !== null;
  }

  // The session as the server has it, and the turn that is running in it. Members' frames wait until it is known which
  // turns are whose.
  load() {
    this.#loading ??= this.#load().finally(() => (this.#loading = null));
    return this.#loading;
  }

  async #load() {
    const detail = await json(untapped, "GET", `sessions/${encodeURIComponent(this.session_id)}`);
    this.model = detail.model;
    this.loaded = true;
    this.#show(detail, running.of(this.session_id));
    if (!this.#own || this.#own.view.turn_id) this.#decide(this.#own?.view);
    return detail;
  }

  #show({ messages, active_turn: active = null }, kept) {
    const past = new Map();
    for (const { role, text, turn_id } of messages) {
      if (turn_id === active || turn_id === kept?.turn_id || this.#views.has(turn_id)) continue;
      const turn = past.get(turn_id) ?? { message: "", text: "", turn_id };
      past.set(turn_id, turn);
      turn[role === "user" ? "message" : "text"] = text;
    }
    for (const turn of past.values()) this.#add(TurnView.past({ ...turn, retry: (view) => this.#retry(view) }));
    if (kept && !this.#own) this.#goOn(kept);
    else if (active && !this.#views.has(active)) this.#witness(active, []);
  }

  // After a reload: with the cursor if the turn's id was known, else with the idempotency key.
  #goOn(kept) {
    const { name } = this.chosen();
    const view = this.#add(new TurnView({ message: kept.message, protocol: name, retry: (old) => this.#retry(old) }));
    if (kept.turn_id) view.goOn(kept);
    this.#read(view, kept);
  }

  send(message, model_id) {
    if (model_id) this.model = model_id;
    const { name } = this.chosen();
    const view = this.#add(new TurnView({ message, protocol: name, retry: (old) => this.#retry(old) }));
    this.#read(view, { message, model_id, idempotency_key: randomId() });
  }

  #retry(view) {
    if (!this.busy) this.dispatchEvent(new CustomEvent("retry", { detail: view.message }));
  }

  // Reads a turn of the page's own to its end.
  async #read(view, turn) {
    const own = { view, turn, hand: {}, keptAt: 0 };
    this.#own = own;
    this.#changed();
    this.#keep(own);
    const { message, model_id, idempotency_key } = turn;
    const ask = { message, session_id: this.session_id, ...(model_id ? { model_id } : {}), idempotency_key };
    const protocol = () => {
      const { name, transport, begin } = this.chosen();
      view.over(name);
      begin(name);
      return transport;
    };
    const cursor = view.turn_id ? view : null;
    try {
      for await (const event of events({
        ask,
        cursor,
        protocol,
        hand: own.hand,
        waiting: (delay) => view.waiting(delay),
      })) {
        const known = view.turn_id !== null;
        view.apply(event);
        if (!known && view.turn_id) this.#decide(view);
        if (performance.now() - own.keptAt > KEEP_MILLISECONDS) this.#keep(own);
      }
    } catch (problem) {
      // A busy session names the turn of somebody else; every other failure that names a turn names this one.
      if (problem.code !== "session_busy") view.turn_id ??= problem.turn_id ?? null;
      if (problem instanceof Failure || problem.code) view.fail(problem);
      else if (problem?.name !== "AbortError")
        view.fail({ code: "internal", message: String(problem?.message ?? problem) });
    }
    this.#own = null;
    running.drop(this.session_id);
    this.#decide(view);
    this.#changed();
  }

  #keep(own) {
    own.keptAt = performance.now();
    const { turn_id, seq, text } = own.view;
    running.keep(this.session_id, { ...own.turn, turn_id, seq, text });
  }

  // The page is left: the exact cursor is kept.
  leave() {
    if (this.#own) this.#keep(this.#own);
  }

  // Another protocol was chosen: a running answer goes on over it.
  switched() {
    this.#own?.hand.controller?.abort(new Switched("another protocol"));
  }

  async stop() {
    const own = this.#own;
    if (!own) return;
    const { transport } = this.chosen();
    try {
      // Plain REST does not tell the turn's id before its end; the session does.
      const turn_id =
        own.view.turn_id ??
        (await json(untapped, "GET", `sessions/${encodeURIComponent(this.session_id)}`)).active_turn;
      if (turn_id) await transport.cancel(turn_id);
      else own.hand.controller?.abort(new Failure("stopped", "Stopped before the answer had begun."));
    } catch (problem) {
      if (!(problem instanceof Cut)) throw problem;
      own.hand.controller?.abort(new Failure("connection", "Stopped waiting. The server could not be told."));
    }
  }

  // --- membership ---

  saw(frame) {
    if (!frame.turn_id || !(frame.seq > 0)) return;
    if (!this.loaded || (this.#own && !this.#own.view.turn_id)) this.#undecided.push(frame);
    else this.#witnessed(frame);
  }

  #decide(view) {
    if (view?.turn_id) {
      const other = this.#views.get(view.turn_id);
      if (other !== view) other?.node?.remove(); // the same turn, found in the history after a reload
      this.#views.set(view.turn_id, view);
    }
    const frames = this.#undecided;
    this.#undecided = [];
    for (const frame of frames) if (frame.turn_id !== view?.turn_id) this.#witnessed(frame);
  }

  #witnessed(frame) {
    const view = this.#views.get(frame.turn_id);
    if (view?.coming || view?.foreign) view.frames.push(frame);
    if (view?.foreign) this.#advance(view);
    if (!view && (frame.type === "status" || frame.type === "response_start")) this.#witness(frame.turn_id, [frame]);
  }

  // A turn of somebody else: what it answers comes from its snapshot, the rest live.
  async #witness(turn_id, frames) {
    this.#views.set(turn_id, { frames, coming: true });
    let turn;
    try {
      turn = await json(untapped, "GET", `turns/${encodeURIComponent(turn_id)}`);
    } catch {
      this.#views.delete(turn_id);
      return;
    }
    const view = new TurnView({ message: turn.message, retry: (old) => this.#retry(old) });
    Object.assign(view, { turn_id, foreign: true, frames });
    this.#add(view);
    if (!frames.length || frames[0].seq > 2) await this.#catchUp(view);
    else this.#advance(view);
  }

  // In the order of seq, as far as there is no gap.
  #advance(view) {
    view.frames.sort((a, b) => a.seq - b.seq);
    while (view.frames.length && view.frames[0].seq <= view.seq + 1) view.apply(eventOf(view.frames.shift()));
  }

  async #catchUp(view) {
    view.foreign = false;
    const protocol = () => this.chosen().transport;
    try {
      for await (const event of events({ cursor: { turn_id: view.turn_id, seq: view.seq }, protocol, hand: {} }))
        view.apply(event);
    } catch (problem) {
      view.fail(problem);
    }
  }

  // The connection was lost and is back: turns of others may have a gap.
  rejoined() {
    for (const view of this.#views.values()) if (view.foreign && !view.finished) this.#catchUp(view);
  }

  cleared() {
    this.#views.clear();
    this.node.replaceChildren();
    if (this.#own) this.node.append(this.#own.view.node);
    this.#changed();
  }

  #add(view) {
    if (view.turn_id) this.#views.set(view.turn_id, view);
    this.node.append(view.node);
    view.grown = () => this.#changed("grown");
    this.#changed("added");
    return view;
  }

  #changed(what = "state") {
    this.dispatchEvent(new CustomEvent(what));
  }
}
