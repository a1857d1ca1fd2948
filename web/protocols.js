// The five protocols that a turn can take, behind one contract:
//
//   create(model_id) -> session_id
//   send(ask, signal) -> async iterator of events         ask: {message, session_id, model_id?, idempotency_key}
//   follow(turn_id, after, signal) -> the same, from a cursor
//   cancel(turn_id)
//   silence: milliseconds after which a stream that says nothing is dead, or null
//   tap: what it was made with, and tells every frame (http.js)
//
// Events are the contract's, and three of the page's own: `started` {turn_id} (known before the first event), `heartbeat`,
// and `snapshot` {status, text ...} (the turn as it stands, where a protocol does not stream).

import { GrpcWeb } from "./transports/grpc.js";
import { Rest } from "./transports/rest.js";
import { Ndjson, Sse } from "./transports/stream.js";
import { WebSocketTransport } from "./transports/websocket.js";

export const PROTOCOLS = {
  rest: { label: "REST", make: Rest, says: "One request, the whole answer." },
  ndjson: { label: "NDJSON", make: Ndjson, says: "One JSON object a line, in a chunked response." },
  sse: { label: "SSE", make: Sse, says: "Server-Sent Events; resumed by a native EventSource." },
  websocket: { label: "WebSocket", make: WebSocketTransport, says: "One connection, both ways; sees the others." },
  grpc: { label: "gRPC", make: GrpcWeb, says: "gRPC-Web on the same port, without a proxy." },
};
