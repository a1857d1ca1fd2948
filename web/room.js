// One session as the page shows it: its turns, the one that is running, and what the other members do.
//
// 1. A room keeps its turns' nodes when another session is looked at: answers go on growing there.
// 2. A room that is read again keeps what it shows as it is, draws what it has missed at its place, and lets go of what
//    the server no longer has.
// 3. Membership (WebSocket) brings every turn of the session, also the page's own. A turn that the page reads over the
//    chosen protocol is shown from there; frames that come before its id is known are held until it is. Of the frames
//    only the first of a turn tells its session: every room sees them all, and takes up none that begins elsewhere.

import { Cut, Failure } from "./failures.js";
import { json, untapped } from "./http.js";
import { randomId, el } from "./dom.js";
import { running } from "./kept.js";
import { ends, eventOf } from "./transports/websocket.js";
import { events, Switched } from "./turn.js";
import { TurnView } from "./turnview.js";

const KEEP_MILLISECONDS = 250;
const PATIENCE_MILLISECONDS = 3_000; // for the end of an answer that was stopped
const UNTOLD = "Stopped waiting. The server could not be told.";

export class Room extends EventTarget {
  #views = new Map();
  #own = null; // {view, turn, hand, keptAt}
  #undecided = [];
  #loading = null;
  #connection = null; // over which it was joined
  #count = 0; // of messages, when it was read
  #stale = false;
  #catching = new Set();
  #closed = false;
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
    const before = Array.from(this.#views.values()).filter((view) => view.finished);
    const detail = await json(untapped, "GET", `sessions/${encodeURIComponent(this.session_id)}`);
    if (this.#closed) return detail;
    if (this.busy) {
      this.#stale = true; // the page has asked meanwhile: which of these turns is its own is not known
      return detail;
    }
    this.model = detail.model;
    this.#count = detail.message_count;
    this.loaded = true;
    this.#show(detail, running.of(this.session_id), before);
    if (!this.#own || this.#own.view.turn_id) this.#decide(this.#own?.view);
    return detail;
  }

  // `before`: those that had ended when this was asked for.
  #show({ messages, active_turn: active = null }, kept, before) {
    const turns = new Map();
    for (const { role, text, turn_id, ...end } of messages) {
      const turn = turns.get(turn_id) ?? { message: "", text: "", turn_id };
      turns.set(turn_id, turn);
      Object.assign(turn, end, { [role === "user" ? "message" : "text"]: text });
    }
    for (const view of before) {
      if (turns.has(view.turn_id) && !view.cut) continue;
      view.node.remove();
      this.#views.delete(view.turn_id);
    }
    // Whoever joined has been shown how it began: to ask again would show nothing more of it.
    const known = kept && !kept.turn_id && turns.get(active)?.message === kept.message;
    if (known) kept = { ...kept, turn_id: active, seq: 0, text: "" };
    if (kept?.turn_id) this.#goOn(kept);
    let next = null; // from the newest on, as what has no turn (a message that was refused) is older than what was missed
    for (const turn of Array.from(turns.values()).reverse()) {
      if (!this.#views.has(turn.turn_id) && turn.turn_id !== active) {
        const view = TurnView.past({ ...turn, retry: (old) => this.#retry(old) });
        this.#views.set(turn.turn_id, view);
        this.node.insertBefore(view.node, next);
      }
      next = this.#views.get(turn.turn_id)?.node ?? next;
    }
    if (kept && !kept.turn_id) this.#goOn(kept);
    else if (active && !this.#views.has(active)) this.#witness(active, []);
  }

  // Something may have been missed.
  reread() {
    this.#stale = this.busy;
    if (!this.busy && !this.#closed) this.#changed("stale");
  }

  // The room is left: whoever comes back reads it again.
  close() {
    this.#closed = true;
    for (const hand of this.#catching) hand.controller?.abort();
  }

  // After a reload: with the cursor if the turn's id was known, else with the idempotency key.
  #goOn(kept) {
    const { name } = this.chosen();
    const view = new TurnView({ message: kept.message, protocol: name, retry: (old) => this.#retry(old) });
    if (kept.turn_id) view.goOn(kept);
    this.#add(view);
    this.#read(view, kept);
  }

  send(message, model_id) {
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
        if (event.model && !cursor) this.model = event.model;
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
    if (this.#stale) this.reread();
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
    const untold = () => own.hand.controller?.abort(new Failure("connection", UNTOLD));
    setTimeout(() => own === this.#own && untold(), PATIENCE_MILLISECONDS); // a server that is silent refuses nothing
    try {
      // Plain REST does not tell the turn's id before its end; the session does.
      const turn_id =
        own.view.turn_id ??
        (await json(untapped, "GET", `sessions/${encodeURIComponent(this.session_id)}`)).active_turn;
      if (turn_id) await transport.cancel(turn_id);
      else own.hand.controller?.abort(new Failure("stopped", "Stopped before the answer had begun."));
    } catch (problem) {
      if (!(problem instanceof Cut)) throw problem;
      untold();
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
      if (other !== view) other?.node?.replaceWith(view.node); // the same turn, found in the history after a reload
      this.#views.set(view.turn_id, view);
    }
    const frames = this.#undecided;
    this.#undecided = [];
    const opening = frames.findIndex(({ turn_id }) => turn_id === view?.turn_id); // what began before is over
    frames.forEach((frame, place) => {
      if (frame.turn_id !== view?.turn_id) this.#witnessed(frame, place < opening ? view : null);
    });
  }

  #witnessed(frame, next = null) {
    const view = this.#views.get(frame.turn_id);
    if (view?.coming || view?.foreign) view.frames.push(frame);
    if (view?.foreign) this.#advance(view);
    if (view?.cut && ends(frame)) this.reread(); // it was not waited for
    const here = frame.type === "response_start" && frame.session_id === this.session_id;
    if (here && !view) this.#witness(frame.turn_id, [frame], next);
  }

  // A turn of somebody else: what it answers comes from its snapshot, the rest live.
  async #witness(turn_id, frames, next = null) {
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
    this.#add(view, next);
    if (!frames.length || frames[0].seq > 2) await this.#catchUp(view);
    else this.#advance(view);
  }

  // In the order of seq, as far as there is no gap.
  #advance(view) {
    view.frames.sort((a, b) => a.seq - b.seq);
    while (view.frames.length && view.frames[0].seq <= view.seq + 1) view.apply(eventOf(view.frames.shift()));
  }

  async #catchUp(view) {
    if (this.#closed) return;
    view.foreign = false;
    const protocol = () => this.chosen().transport;
    const hand = {};
    this.#catching.add(hand);
    try {
      for await (const event of events({ cursor: { turn_id: view.turn_id, seq: view.seq }, protocol, hand }))
        view.apply(event);
    } catch (problem) {
      if (!this.#closed) view.fail(problem);
    }
    this.#catching.delete(hand);
  }

  // Over a new connection, the turns of others may have a gap, and more may have been missed; the same if the session is
  // not as it was read just before.
  async joined({ connection_id, message_count }) {
    const again = this.#connection !== null && this.#connection !== connection_id;
    this.#connection = connection_id;
    for (const view of this.#views.values()) if (view.foreign && !view.finished) this.#catchUp(view);
    await this.#loading?.catch(() => {});
    if (again || message_count !== this.#count) this.reread();
  }

  cleared() {
    this.#views.clear();
    this.node.replaceChildren();
    if (this.#own) this.node.append(this.#own.view.node);
    this.#changed();
  }

  #add(view, next = null) {
    if (view.turn_id) this.#views.set(view.turn_id, view);
    if (next) next.node.before(view.node);
    else this.node.append(view.node);
    view.grown = () => this.#changed("grown");
    this.#changed("added");
    return view;
  }

  #changed(what = "state") {
    this.dispatchEvent(new CustomEvent(what));
  }
}
