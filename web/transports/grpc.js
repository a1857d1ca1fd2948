// gRPC from a page: gRPC-Web on the HTTP port, unary and server-streaming, without a proxy; binary as gRPC is, or JSON.
//
// The messages' fields come from the server's own chat.proto, read when the first call is made.

import { GrpcWebDecoder, grpcWebFrame } from "../codecs.js";
import { Cut, Failure } from "../failures.js";
import { address } from "../dom.js";
import { pieces, request } from "../http.js";
import { Protobuf } from "../protobuf.js";
import { parseProto } from "../protofile.js";
import { decode, encode } from "../text.js";

const SERVICE = "chat.ChatService";

let definition = null;

// What chat.proto says; asked for once, and again after a failure.
async function defined() {
  definition ??= fetch(address("chat.proto"))
    .then((answer) => answer.text())
    .then((text) => {
      const proto = parseProto(text);
      return { protobuf: new Protobuf(proto), methods: proto.services[0].methods };
    });
  try {
    return await definition;
  } catch {
    definition = null;
    throw new Cut("The server could not be reached.");
  }
}

// How messages are bytes: `type` of content, and both ways for a method.
async function coding(method, json) {
  if (json)
    return {
      type: "application/grpc-web+json",
      pack: (message) => encode(JSON.stringify(message)),
      unpack: (bytes) => JSON.parse(decode(bytes)),
    };
  const { protobuf, methods } = await defined();
  const { takes, gives } = methods.find(({ name }) => name === method);
  return {
    type: "application/grpc-web+proto",
    pack: (message) => protobuf.encode(takes, message),
    unpack: (bytes) => protobuf.decode(gives, bytes),
  };
}

const CODES = {
  3: "invalid_request",
  4: "model_timeout",
  5: "not_found",
  7: "forbidden",
  8: "rate_limited",
  9: "conflict",
  13: "internal",
  14: "unavailable",
  16: "unauthorized",
};

export class GrpcWeb {
  silence = {}; // a silent gRPC stream has no sign of life of its own

  constructor(tap, { json = false } = {}) {
    this.tap = tap;
    this.json = json;
  }

  async create(model_id) {
    return (await this.#one("CreateSession", { model_id })).session_id;
  }

  async *send(ask, signal) {
    for await (const response of this.call("StreamChat", ask, signal)) yield eventOf(response);
  }

  async *follow(turn_id, after, signal) {
    for await (const response of this.call("FollowTurn", { turn_id, after }, signal)) yield eventOf(response);
  }

  async cancel(turn_id) {
    await this.#one("CancelTurn", { turn_id });
  }

  async #one(method, message) {
    let answer = null;
    for await (const response of this.call(method, message)) answer = response;
    return answer;
  }

  async *call(method, message, signal) {
    const { type, pack, unpack } = await coding(method, this.json);
    const headers = { "content-type": type, accept: type, "x-grpc-web": "1" };
    const response = await request(this.tap, "POST", `${SERVICE}/${method}`, {
      headers,
      body: grpcWebFrame(pack(message)),
      signal,
    });
    refuse(Object.fromEntries(response.headers));
    const decoder = new GrpcWebDecoder();
    for await (const bytes of pieces(response, signal)) {
      for (const frame of decoder.feed(bytes)) {
        const message = frame.trailers ? null : unpack(frame.payload);
        this.tap({ direction: "in", label: message ? label(message) : "trailers", bytes: frame.raw });
        if (message) yield message;
        else return refuse(frame.trailers);
      }
    }
    throw new Cut("The stream ended without its trailers.");
  }
}

function refuse(fields) {
  const status = Number(fields["grpc-status"] ?? 0);
  if (status === 0) return;
  throw new Failure(
    fields["fivewire-code"] ?? CODES[status] ?? "internal",
    decoded(fields["grpc-message"] ?? `gRPC status ${status}`),
    { turn_id: fields["fivewire-turn-id"] ?? null },
  );
}

function decoded(message) {
  try {
    return decodeURIComponent(message);
  } catch {
    return message; // a proxy's own, which is not percent-encoded
  }
}

// The response as the event that every transport gives; the names that differ are the contract's.
function eventOf(response) {
  const { type = "STATUS", status_message, chunk_text, error_message, ...fields } = response;
  if (type === "RESPONSE_START") return { ...fields, type: "session_info" };
  if (type === "CHUNK") return { ...fields, type: "chunk", text: chunk_text ?? "" };
  if (type === "RESPONSE_COMPLETE") return { ...fields, type: "complete" };
  if (type === "ERROR") return { ...fields, type: "error", message: error_message };
  return { ...fields, type: "status", message: status_message };
}

function label({ type, chunk_number, status_message }) {
  if (type === "CHUNK") return `CHUNK ${chunk_number}`;
  return type ?? (status_message ? "STATUS" : "message");
}
