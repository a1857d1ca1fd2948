// Bytes to frames and back: NDJSON lines, SSE frames, gRPC-Web messages. Fed with whatever pieces the network gives.
//
// 1. A decoder returns [{raw, ...}]: the frame's own bytes stay with it, because the wire panel shows them.
// 2. A frame has a largest size, so that a stream without an end of line cannot eat the memory.

import { decode } from "./text.js";

const MAX_FRAME_BYTES = 16 * 2 ** 20;

class Pieces {
  rest = new Uint8Array(0);
  searched = 0;

  add(bytes) {
    if (this.rest.length + bytes.length > MAX_FRAME_BYTES) throw new Error("a frame is larger than 16 MiB");
    const joined = new Uint8Array(this.rest.length + bytes.length);
    joined.set(this.rest);
    joined.set(bytes, this.rest.length);
    this.rest = joined;
  }

  take(length) {
    const raw = this.rest.subarray(0, length);
    this.rest = this.rest.subarray(length);
    this.searched = 0;
    return raw;
  }

  takeLine() {
    const end = this.rest.indexOf(10, this.searched);
    if (end < 0) {
      this.searched = this.rest.length;
      return null;
    }
    return this.take(end + 1);
  }
}

export class NdjsonDecoder {
  #pieces = new Pieces();

  feed(bytes) {
    this.#pieces.add(bytes);
    const frames = [];
    for (let raw = this.#pieces.takeLine(); raw; raw = this.#pieces.takeLine()) {
      const text = decode(raw).trim();
      frames.push({ raw, event: text ? JSON.parse(text) : null });
    }
    return frames;
  }
}

export class SseDecoder {
  #pieces = new Pieces();
  #lines = [];

  feed(bytes) {
    this.#pieces.add(bytes);
    const frames = [];
    for (let raw = this.#pieces.takeLine(); raw; raw = this.#pieces.takeLine()) {
      this.#lines.push(raw);
      if (decode(raw).trimEnd() === "") frames.push(this.#frame());
    }
    return frames;
  }

  #frame() {
    const raw = joined(this.#lines);
    const fields = { id: null, data: [], comment: null };
    for (const line of this.#lines) {
      const text = decode(line).replace(/\r?\n$/, "");
      const colon = text.indexOf(":");
      const name = colon < 0 ? text : text.slice(0, colon);
      const value = colon < 0 ? "" : text.slice(colon + 1).replace(/^ /, "");
      if (name === "data") fields.data.push(value);
      else if (name === "id") fields.id = value;
      else if (name === "" && colon === 0) fields.comment = value;
    }
    this.#lines = [];
    const event = fields.data.length ? JSON.parse(fields.data.join("\n")) : null;
    return { raw, event, id: fields.id, comment: fields.comment };
  }
}

// A message is a flag byte, four bytes of length, and the payload; the frame with the flag 0x80 holds the trailers.
export class GrpcWebDecoder {
  #pieces = new Pieces();

  feed(bytes) {
    this.#pieces.add(bytes);
    const frames = [];
    for (;;) {
      const { rest } = this.#pieces;
      if (rest.length < 5) return frames;
      const length = new DataView(rest.buffer, rest.byteOffset).getUint32(1);
      if (length > MAX_FRAME_BYTES) throw new Error("a frame is larger than 16 MiB");
      if (rest.length < 5 + length) return frames;
      const raw = this.#pieces.take(5 + length);
      const payload = raw.subarray(5);
      frames.push(raw[0] & 0x80 ? { raw, trailers: trailers(decode(payload)) } : { raw, payload });
    }
  }
}

export function grpcWebFrame(payload) {
  const frame = new Uint8Array(5 + payload.length);
  new DataView(frame.buffer).setUint32(1, payload.length);
  frame.set(payload, 5);
  return frame;
}

function trailers(text) {
  const fields = {};
  for (const line of text.split("\r\n")) {
    const colon = line.indexOf(":");
    if (colon > 0) fields[line.slice(0, colon).toLowerCase()] = line.slice(colon + 1).trim();
  }
  return fields;
}

function joined(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
