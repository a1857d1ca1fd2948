// A turn as the page reads it: one async iterator of events, whole and in order, over any protocol and across every cut.
//
// 1. The cursor (turn_id, seq) is the only state. After a cut the same turn is followed from it, on whatever protocol is
//    chosen by then; a change of protocol in mid-answer is a cut made on purpose.
// 2. Before the turn's id is known, the request is repeated with its idempotency key, which attaches to the same turn.
// 3. Events are given in the order of their seq, each once: a member of a session may get a turn live while it also
//    replays it.
//    The terminal event is always given: after a crash of the server its log may end before the page's cursor.
// 4. A stream that ends without a terminal event was cut. A stream that says nothing for longer than its transport
//    allows is taken for cut as well: that is what a closed laptop leaves behind.

import { Cut } from "./failures.js";
import { json } from "./http.js";

const DELAYS_MILLISECONDS = [0, 300, 600, 1_200, 2_400, 4_800, 8_000, 8_000, 8_000, 8_000];
const LATE_MILLISECONDS = 2_000; // for what comes after the terminal event: trailers, the end of the body
const TERMINAL = new Set(["complete", "error"]);

export class Switched extends Error {}

// `ask` starts a turn; `cursor` follows one. `protocol()` gives the transport to use now; `hand` is a holder whose
// `controller` the page aborts with Switched (go on over another protocol) or with anything else (leave).
export async function* events({ ask, cursor = null, protocol, hand, waiting = () => {} }) {
  let { turn_id = null, seq = 0 } = cursor ?? {};
  const held = new Map();
  let cuts = 0;
  let over = false;
  let late = null;
  for (;;) {
    hand.controller = new AbortController();
    const { signal } = hand.controller;
    try {
      const transport = protocol();
      const source = turn_id ? transport.follow(turn_id, seq, signal) : transport.send(ask, signal);
      const silence = turn_id ? transport.silence.follow : transport.silence.send;
      let some = false;
      for await (const event of heard(source, silence, hand.controller)) {
        some = true;
        cuts = 0;
        if (event.turn_id) turn_id = event.turn_id;
        if (event.type === "reconnecting") {
          waiting(0);
          continue;
        }
        if (event.type === "heartbeat") continue;
        if (!event.seq) {
          yield event;
          if (event.type === "snapshot" && event.status !== "running") return;
          continue;
        }
        const ended = TERMINAL.has(event.type);
        if (event.seq > seq && !ended) held.set(event.seq, event);
        for (const next of inOrder(held, seq, ended)) {
          seq = next.seq;
          yield next;
        }
        if (!ended) continue;
        over = true;
        yield event;
        late = setTimeout(() => hand.controller.abort(), LATE_MILLISECONDS);
      }
      clearTimeout(late);
      if (over) return;
      if (turn_id && !some) {
        // Finished, and nothing left after the cursor (204): the snapshot says how it ended.
        const turn = await json(transport.tap, "GET", `turns/${turn_id}`, undefined, { signal });
        yield { type: "snapshot", ...turn };
        if (turn.status !== "running") return;
      }
      throw new Cut("The stream ended before the answer did.");
    } catch (problem) {
      clearTimeout(late);
      if (over) return;
      if (signal.reason instanceof Switched) continue;
      if (signal.aborted && !(signal.reason instanceof Cut)) throw problem;
      const lost = signal.aborted || problem instanceof Cut || (problem.code === "unavailable" && cuts > 0);
      if (!lost || cuts >= DELAYS_MILLISECONDS.length) throw problem;
      const delay = DELAYS_MILLISECONDS[cuts++];
      waiting(delay);
      if (delay) await worthATry(delay, hand);
    }
  }
}

function* inOrder(held, seq, all) {
  const known = [...held.keys()].sort((a, b) => a - b);
  for (const next of known) {
    if (next > seq + 1 && !all) return;
    if (next > seq) yield held.get(next);
    held.delete(next);
    seq = Math.max(seq, next);
  }
}

// The source's events; silence for too long is a cut.
async function* heard(source, silence, controller) {
  const alarm = () => setTimeout(() => controller.abort(new Cut("Nothing was heard for too long.")), silence);
  let timer = silence ? alarm() : null;
  try {
    for await (const event of source) {
      clearTimeout(timer);
      timer = silence ? alarm() : null;
      yield event;
    }
  } finally {
    clearTimeout(timer);
  }
}

// Waits, but no longer than until the network or the reader is back, or the page wants something else.
function worthATry(delay, hand) {
  hand.controller = new AbortController();
  const { signal } = hand.controller;
  return new Promise((resolve, reject) => {
    const done = () => {
      clearTimeout(timer);
      window.removeEventListener("online", done);
      document.removeEventListener("visibilitychange", seen);
      if (signal.aborted && !(signal.reason instanceof Switched)) reject(signal.reason);
      else resolve();
    };
    const seen = () => document.visibilityState === "visible" && done();
    const timer = setTimeout(done, delay);
    window.addEventListener("online", done);
    document.addEventListener("visibilitychange", seen);
    signal.addEventListener("abort", done, { once: true });
  });
}
