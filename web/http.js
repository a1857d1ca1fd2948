// HTTP as the transports use it: one request, its frames shown to the tap, its problem turned into a Failure.
//
// A tap is called with every frame: {direction: "out" | "in", label, bytes, head?, framing?, rebuilt?}. `bytes` is what
// crosses in the body, and `framing` how many more its header has; `head` is the request or status line with the headers
// that a page can see, and is not counted.

import { address } from "./dom.js";
import { Cut, failureOf } from "./failures.js";
import { decode, encode } from "./text.js";

export const untapped = () => {}; // for what is not drawn
const NOTHING = new Uint8Array(0);

export async function request(tap, method, path, { headers = {}, body = NOTHING, signal } = {}) {
  tap({
    direction: "out",
    label: `${method} /${path}`,
    bytes: body,
    head: head(`${method} /${path}`, Object.entries(headers)),
  });
  let response;
  try {
    response = await fetch(address(path), {
      method,
      headers,
      body: body.length ? body : undefined,
      signal,
      cache: "no-store",
    });
  } catch (problem) {
    throw signal?.aborted ? problem : new Cut("The server could not be reached.");
  }
  const type = (response.headers.get("content-type") ?? "").split(";")[0];
  tap({
    direction: "in",
    label: [response.status, type].join(" ").trim(),
    bytes: NOTHING,
    head: head(`${response.status} ${response.statusText}`.trim(), response.headers),
  });
  if (!response.ok) {
    const bytes = await whole(response, signal);
    tap({ direction: "in", label: "problem", bytes });
    throw failureOf(response.status, decode(bytes));
  }
  return response;
}

export async function whole(response, signal) {
  try {
    return new Uint8Array(await response.arrayBuffer());
  } catch (problem) {
    throw signal?.aborted ? problem : new Cut("The connection broke in the middle of the answer.");
  }
}

// The pieces of a streaming body, as the network gives them.
export async function* pieces(response, signal) {
  const reader = response.body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } catch (problem) {
    throw signal?.aborted ? problem : new Cut("The connection broke in the middle of the answer.");
  } finally {
    reader.cancel().catch(() => {});
  }
}

export async function json(tap, method, path, fields, { headers, signal } = {}) {
  const all = { accept: "application/json", ...headers };
  if (fields !== undefined) all["content-type"] = "application/json";
  const body = fields === undefined ? NOTHING : encode(JSON.stringify(fields));
  const response = await request(tap, method, path, { headers: all, body, signal });
  const bytes = await whole(response, signal);
  const value = bytes.length ? JSON.parse(decode(bytes)) : null;
  tap({ direction: "in", label: "JSON", bytes });
  return value;
}

function head(first, headers) {
  return [first, ...Array.from(headers, ([name, value]) => `${name}: ${value}`)].join("\n");
}
