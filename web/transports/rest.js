// REST: one request, the whole answer; a turn that was left is looked at again through its snapshot.

import { json } from "../http.js";

const POLL_MILLISECONDS = 400;

export class Rest {
  silence = {}; // says nothing until the answer is whole

  constructor(tap) {
    this.tap = tap;
  }

  async create(model_id) {
    return (await json(this.tap, "POST", "sessions/new", { model_id })).session_id;
  }

  async *send(ask, signal) {
    const { idempotency_key, ...body } = ask;
    const answer = await json(this.tap, "POST", "chat", body, {
      headers: { "idempotency-key": idempotency_key },
      signal,
    });
    yield { type: "snapshot", status: "complete", text: answer.response, ...answer };
  }

  // Polled: this is what a client of plain REST has to do.
  async *follow(turn_id, after, signal) {
    for (;;) {
      const turn = await json(this.tap, "GET", `turns/${turn_id}`, undefined, { signal });
      yield { type: "snapshot", ...turn };
      if (turn.status !== "running") return;
      await pause(POLL_MILLISECONDS, signal);
    }
  }

  async cancel(turn_id) {
    await json(this.tap, "POST", `turns/${turn_id}/cancel`);
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
}
