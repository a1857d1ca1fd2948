// The messages of the WebSocket, from /openapi.json.

import { entry, listed, part } from "./chapters.js";
import { isWebSocket, operations, operationTold } from "./docs_http.js";
import { el } from "./dom.js";
import { inline } from "./inline.js";
import { fieldItem } from "./schema.js";
import { codeBox, tryWebSocket } from "./tryit.js";

export function webSocket(document, schemas) {
  const operation = operations(document).find(isWebSocket);
  const told = document["x-websocket"];
  const named = (schema) => ({ ...schema, type: schema.properties.type.const, example: schemas.example(schema) });
  const client = told.client.map(named);
  const entries = [
    entry(
      operation.operationId,
      operationTold(operation, ["101", {}], null, schemas, document["x-error-codes"]),
      tryWebSocket(told.path, client),
    ),
  ];
  listed("WebSocket", operation.operationId, told.path, "WS", "ws");
  for (const [side, said, messages] of [
    ["client", "sent by the client", client],
    ["server", "sent by the server", told.server.map(named)],
  ]) {
    for (const { type, description, example, ...schema } of messages) {
      const id = `ws-${side}-${type}`;
      listed("WebSocket", id, type, side === "client" ? "send" : "recv", "ws");
      entries.push(
        entry(
          id,
          [
            el("h3", {}, type),
            el("p", { class: "path" }, said),
            description ? el("p", { class: "said" }, ...inline(description)) : null,
            schemas.fields(schema),
          ],
          [codeBox("Example", JSON.stringify(example, null, 2)).box],
        ),
      );
    }
  }
  listed("WebSocket", "ws-close", "Close codes");
  const codes = Object.entries(told.close_codes).map(([code, said]) => fieldItem({ name: code, kind: "", said }));
  entries.push(entry("ws-close", [el("h3", {}, "Close codes"), el("ul", { class: "fields" }, ...codes)]));
  part(
    "websocket",
    "WebSocket",
    "JSON in text frames, both ways. The events of a turn are those of the streams, under the names that WebSocket clients know.",
    entries,
  );
}
