// WebSocket: one connection that is a member of the session, over which turns are asked and followed.
//
// 1. The page keeps one Link, whatever the protocol of its own turns is: membership is how it sees the others.
// 2. A Link that was opened to stay opens itself again, and joins its session again; its turns are cut meanwhile, and
//    resumed by whoever reads them.
// 3. Whose turn it is shows in `response_start`, which quotes the message. The server says `status` before it, and the
//    Link gives it after it. Two members who send the same words at the same time get the same turn: one is refused as
//    busy, and reads along.
// 4. Whoever leaves a session is no longer sent its turns. The page's own is asked for again then, from where it is: to
//    resume takes no membership. The answer to `leave_session` is the moment: what was asked before it has begun. And
//    whoever asks in a session becomes a member: one that was left before is left once more.

import { Arrivals } from "../arrivals.js";
import { address } from "../dom.js";
import { Cut, Failure } from "../failures.js";
import { encode } from "../text.js";

const FIRST_DELAY_MILLISECONDS = 400;
const LONGEST_DELAY_MILLISECONDS = 8_000;
const OPEN_TIMEOUT_MILLISECONDS = 10_000;
const PING_MILLISECONDS = 20_000;
const CLOSE_LOST = 1006; // without a goodbye
const CLOSE_TOO_BIG = 1009;

export class Link extends EventTarget {
  #socket = null;
  #opening = null;
  #stays = false;
  #delay = FIRST_DELAY_MILLISECONDS;
  #timer = null;
  #ping = null;
  #early = null; // a `status`, until its `response_start` is there
  state = "closed";
  close_code = null; // of the last connection
  session_id = null;

  constructor(tap) {
    super();
    this.tap = tap;
  }

  // From now on: open, and again after every loss.
  stay() {
    this.#stays = true;
    window.addEventListener("online", () => this.#again(0));
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.#again(0));
    this.open().catch(() => {});
  }

  open() {
    if (this.state === "open") return Promise.resolve();
    this.#opening ??= this.#connect().finally(() => (this.#opening = null));
    return this.#opening;
  }

  #connect() {
    clearTimeout(this.#timer);
    this.close_code = null;
    this.#become("connecting");
    const socket = new WebSocket(address("ws").replace(/^http/, "ws"));
    this.#socket = socket;
    return new Promise((resolve, reject) => {
      let heard = true; // something, since the last ping
      // Over at once: the browser would wait for the other side's goodbye, long after there is nobody to say it.
      const giveUp = () => {
        const { onclose } = socket;
        socket.onmessage = socket.onclose = null;
        socket.close();
        onclose({ code: CLOSE_LOST, reason: "nothing was heard" });
      };
      const ping = () => {
        if (!heard) return giveUp();
        heard = false;
        this.send({ type: "ping" });
      };
      const timeout = setTimeout(giveUp, OPEN_TIMEOUT_MILLISECONDS);
      socket.onopen = () =>
        this.tap({
          direction: "in",
          label: "101 Switching Protocols",
          bytes: encode(""),
          head: `GET /ws\nupgrade: websocket\n\n101 Switching Protocols`,
        });
      socket.onmessage = ({ data }) => {
        heard = true;
        const frame = JSON.parse(data);
        this.tap({ direction: "in", label: frameLabel(frame), ...bytesOf(data, 0) });
        if (frame.type === "connected") {
          clearTimeout(timeout);
          this.#delay = FIRST_DELAY_MILLISECONDS;
          this.#ping = setInterval(ping, PING_MILLISECONDS);
          this.#become("open");
          if (this.session_id) this.send({ type: "join_session", session_id: this.session_id });
          resolve();
        }
        this.#give(frame);
      };
      socket.onclose = ({ code, reason }) => {
        clearTimeout(timeout);
        clearInterval(this.#ping);
        this.#socket = null;
        this.close_code = code;
        this.tap({
          direction: "in",
          label: `close ${code}`,
          bytes: encode(""),
          head: `close ${code} ${reason}`.trim(),
        });
        this.#become("closed");
        reject(new Cut("The WebSocket could not be opened."));
        if (this.#stays) this.#again(this.#delay);
      };
    });
  }

  #give(frame) {
    if (frame.type === "status") {
      this.#early = frame;
      return;
    }
    this.dispatchEvent(new CustomEvent("frame", { detail: frame }));
    if (frame.type === "response_start" && this.#early?.turn_id === frame.turn_id)
      this.dispatchEvent(new CustomEvent("frame", { detail: this.#early }));
  }

  #again(delay) {
    if (this.state !== "closed") return;
    clearTimeout(this.#timer);
    this.#delay = Math.min(this.#delay * 2, LONGEST_DELAY_MILLISECONDS);
    this.#timer = setTimeout(() => this.open().catch(() => {}), delay);
  }

  #become(state) {
    this.state = state;
    this.dispatchEvent(new CustomEvent("state", { detail: state }));
  }

  send(fields) {
    if (this.state !== "open") return false;
    const data = JSON.stringify(fields);
    this.#socket.send(data);
    this.tap({ direction: "out", label: frameLabel(fields), ...bytesOf(data, 4) });
    return true;
  }

  // The session whose life this page sees; null for none.
  join(session_id) {
    if (session_id === this.session_id) return;
    if (this.session_id) this.send({ type: "leave_session", session_id: this.session_id });
    this.session_id = session_id;
    if (session_id) this.send({ type: "join_session", session_id });
  }

  close() {
    this.#stays = false;
    this.#socket?.close(1000);
  }
}

export class WebSocketTransport {
  silence = {}; // the Link pings, and gives up a dead connection: that is a cut

  constructor(tap, link = new Link(tap)) {
    this.tap = tap;
    this.link = link;
  }

  async create(model_id) {
    await this.link.open();
    for await (const frame of this.#exchange({ type: "create_session", model_id })) {
      if (frame.type === "session_created") {
        this.link.session_id = frame.session_id;
        return frame.session_id;
      }
      if (frame.type === "error" && !frame.seq) throw new Failure(frame.code, frame.message, frame);
    }
  }

  async *send(ask, signal) {
    let begun = false;
    try {
      for await (const event of this.#turn({ type: "chat", ...ask }, signal)) {
        begun = true;
        yield event;
      }
    } catch (problem) {
      if (begun || !(problem instanceof Cut) || this.link.close_code !== CLOSE_TOO_BIG) throw problem;
      throw new Failure("too_large", "The message is larger than the server takes.");
    }
  }

  follow(turn_id, after, signal) {
    return this.#turn({ type: "resume", turn_id, after }, signal);
  }

  // The events of the turn that is asked for, to its end.
  async *#turn(asked, signal) {
    let { turn_id = null, after = 0 } = asked;
    const { session_id } = asked;
    await this.#opened(signal);
    const outside = session_id !== this.link.session_id;
    for await (const frame of this.#exchange(asked, signal)) {
      if (refuses(frame, turn_id, session_id)) throw new Failure(frame.code, frame.message, frame);
      if (!turn_id && begins(frame, asked)) {
        turn_id = frame.turn_id;
        if (outside && session_id !== this.link.session_id) this.link.send({ type: "leave_session", session_id });
      }
      if (turn_id && frame.type === "session_left") this.link.send({ type: "resume", turn_id, after });
      if (!turn_id || frame.turn_id !== turn_id || !frame.seq) continue;
      after = Math.max(after, frame.seq); // what is sent twice begins earlier
      yield eventOf(frame);
      if (ends(frame)) return;
    }
  }

  async cancel(turn_id) {
    if (!this.link.send({ type: "cancel", turn_id })) throw new Cut("The WebSocket is not open.");
  }

  // The Link is open; or whoever waits for it wants something else by now.
  async #opened(signal) {
    signal.throwIfAborted();
    let abort;
    const given = new Promise((_, reject) => (abort = () => reject(signal.reason)));
    signal.addEventListener("abort", abort);
    try {
      await Promise.race([this.link.open(), given]);
    } finally {
      signal.removeEventListener("abort", abort);
    }
  }

  // Says one thing, then gives every frame that comes, until the connection is lost or nobody reads on.
  async *#exchange(fields, signal) {
    const arrived = new Arrivals();
    const onFrame = ({ detail }) => arrived.put(detail);
    const onState = ({ detail }) => detail === "closed" && arrived.fail(new Cut("The WebSocket was closed."));
    const onAbort = () => arrived.fail(signal.reason);
    this.link.addEventListener("frame", onFrame);
    this.link.addEventListener("state", onState);
    signal?.addEventListener("abort", onAbort, { once: true });
    try {
      if (!this.link.send(fields)) throw new Cut("The WebSocket is not open.");
      yield* arrived;
    } finally {
      this.link.removeEventListener("frame", onFrame);
      this.link.removeEventListener("state", onState);
      signal?.removeEventListener("abort", onAbort);
    }
  }
}

// The frame as the event that every transport gives.
export function eventOf(frame) {
  if (frame.type === "response_start") return { ...frame, type: "session_info" };
  if (frame.type === "response_complete") return { ...frame, type: "complete" };
  return frame;
}

// Whether this is the turn that was asked for.
function begins(frame, { message, session_id }) {
  return frame.type === "response_start" && frame.message === message && frame.session_id === session_id;
}

// Whether what was asked is refused: to follow a turn, or, while it has none, a message in this session. The refusal of a
// message may name a turn as well, the one that keeps its session busy; of one that it cannot decode, the server does not
// say whose it was.
function refuses(frame, turn_id, session_id) {
  if (frame.type !== "error" || frame.seq) return false;
  if (turn_id) return frame.turn_id === turn_id && !frame.session_id;
  return frame.session_id ? frame.session_id === session_id : !frame.turn_id;
}

export function ends(frame) {
  return frame.type === "response_complete" || (frame.type === "error" && Boolean(frame.seq));
}

function frameLabel(frame) {
  if (frame.type === "chunk") return `chunk ${frame.chunk_number}`;
  if (frame.type === "session_update") return frame.update_type;
  return String(frame.type);
}

// The payload, and how many bytes the frame's header has (RFC 6455 section 5.2): 2, and 2 or 8 more for the length; a
// client's mask has 4.
function bytesOf(data, mask) {
  const bytes = encode(data);
  return { bytes, framing: 2 + (bytes.length > 65_535 ? 8 : bytes.length > 125 ? 2 : 0) + mask };
}
