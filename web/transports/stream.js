// Chunked NDJSON and Server-Sent Events: a POST starts the turn and its response streams it.
//
// 1. An EventSource cannot POST, so a turn is started through fetch on both, and the frames are read from the body.
// 2. What is followed again on SSE (after a cut, a reload, a change of protocol) goes through a native EventSource, which
//    reconnects by itself with Last-Event-ID and is ended by a 204. It does not show its bytes: those frames are rebuilt
//    from what it tells, and marked so.

import { Arrivals } from "../arrivals.js";
import { NdjsonDecoder, SseDecoder } from "../codecs.js";
import { address } from "../dom.js";
import { Cut } from "../failures.js";
import { json, pieces, request } from "../http.js";
import { encode } from "../text.js";

const SILENCE_MILLISECONDS = 40_000; // the server says something every 15 s

class Stream {
  silence = { send: SILENCE_MILLISECONDS, follow: SILENCE_MILLISECONDS };

  constructor(tap) {
    this.tap = tap;
  }

  async create(model_id) {
    return (await json(this.tap, "POST", "sessions/new", { model_id })).session_id;
  }

  async *send(ask, signal) {
    const { idempotency_key, ...fields } = ask;
    const headers = { accept: this.accept, "content-type": "application/json", "idempotency-key": idempotency_key };
    const body = encode(JSON.stringify(fields));
    const response = await request(this.tap, "POST", "chat/stream", { headers, body, signal });
    const turn_id = response.headers.get("x-turn-id");
    if (turn_id) yield { type: "started", turn_id };
    yield* this.read(response, signal);
  }

  async cancel(turn_id) {
    await json(this.tap, "POST", `turns/${turn_id}/cancel`);
  }

  async *read(response, signal) {
    const decoder = this.decoder();
    for await (const bytes of pieces(response, signal)) {
      for (const { raw, event, comment } of decoder.feed(bytes)) {
        this.tap({ direction: "in", label: label(event, comment), bytes: raw });
        yield event ?? { type: "heartbeat" };
      }
    }
  }
}

export class Ndjson extends Stream {
  accept = "application/x-ndjson";

  decoder() {
    return new NdjsonDecoder();
  }

  async *follow(turn_id, after, signal) {
    const response = await request(this.tap, "GET", `turns/${turn_id}?after=${after}`, {
      headers: { accept: this.accept },
      signal,
    });
    if (response.status !== 204) yield* this.read(response, signal);
  }
}

export class Sse extends Stream {
  silence = { send: SILENCE_MILLISECONDS }; // an EventSource does not show the signs of life
  accept = "text/event-stream";

  decoder() {
    return new SseDecoder();
  }

  async *follow(turn_id, after, signal) {
    const path = `turns/${turn_id}?after=${after}`;
    const arrived = new Arrivals();
    const source = new EventSource(address(path));
    this.tap({
      direction: "out",
      label: `GET /${path}`,
      bytes: new Uint8Array(0),
      head: `GET /${path}\naccept: text/event-stream\n(sent by EventSource)`,
    });
    source.onmessage = ({ data, lastEventId }) => {
      const event = JSON.parse(data);
      const bytes = encode(`id: ${lastEventId}\ndata: ${data}\n\n`);
      this.tap({ direction: "in", label: label(event), bytes, rebuilt: true });
      arrived.put(event);
    };
    source.onerror = () => {
      if (source.readyState === EventSource.CLOSED) arrived.end();
      else arrived.put({ type: "reconnecting" });
    };
    const abort = () => arrived.fail(signal.reason);
    signal?.addEventListener("abort", abort, { once: true });
    try {
      let opened = false;
      for await (const event of arrived) {
        // Before the first event a refusal and a dead server look the same to an EventSource; the caller's own
        // retries tell them apart, and wait longer each time.
        if (event.type === "reconnecting" && !opened) throw new Cut("The server could not be reached.");
        opened = true;
        yield event;
        if (event.type === "complete" || event.type === "error") return; // or it would connect again, to hear 204
      }
      if (!opened) await json(this.tap, "GET", `turns/${turn_id}`, undefined, { signal }); // says why, if it was refused
    } finally {
      source.close();
      signal?.removeEventListener("abort", abort);
    }
  }
}

function label(event, comment = null) {
  if (!event) return comment === null ? "blank" : "keep-alive";
  return event.type === "chunk" ? `chunk ${event.chunk_number}` : event.type;
}
