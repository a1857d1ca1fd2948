// The gRPC service, from /chat.proto.

import { entry, listed, part } from "./chapters.js";
import { isGrpcWeb, operations, operationTold } from "./docs_http.js";
import { el } from "./dom.js";
import { inline } from "./inline.js";
import { parseProto } from "./protofile.js";
import { fieldItem } from "./schema.js";
import { tryGrpc } from "./tryit.js";

export function grpc(document, schemas, text) {
  const proto = parseProto(text);
  const overWeb = operations(document).find(isGrpcWeb);
  const messages = Object.fromEntries(proto.messages.map((message) => [message.name, message]));
  for (const service of proto.services) {
    const name = `chat.${service.name}`;
    const entries = service.methods.map((method) => {
      const id = `rpc-${method.name}`;
      listed("gRPC", id, method.name, "rpc", "rpc");
      const told = [
        el("h3", {}, method.name),
        el(
          "p",
          { class: "path" },
          el("span", { class: "method rpc" }, "rpc"),
          `(${method.streams ? "stream " : ""}${method.takes}) returns (${method.answers ? "stream " : ""}${method.gives})`,
        ),
        el("p", { class: "said" }, ...inline(method.said)),
        el("h4", {}, method.takes),
        messageFields(messages[method.takes], messages, proto.enums, schemas),
        el("h4", {}, method.gives),
        messageFields(messages[method.gives], messages, proto.enums, schemas),
      ];
      return entry(id, told, tryGrpc(name, method.name, grpcExample(method), method.streams));
    });
    if (overWeb) {
      listed("gRPC", overWeb.operationId, "gRPC-Web", "POST", "post");
      entries.push(
        entry(
          overWeb.operationId,
          operationTold(overWeb, Object.entries(overWeb.responses)[0], null, schemas, document["x-error-codes"]),
        ),
      );
    }
    part(
      "grpc",
      "gRPC",
      "The service `" +
        name +
        "`, on a port of its own and on this one, which tells HTTP/2 from HTTP/1.1 by its first bytes. gRPC-Web is answered here too. Generate a client from `/chat.proto`; reflection and `grpc.health.v1.Health` are served.",
      entries,
    );
  }
}

function grpcExample({ takes }) {
  if (takes === "ChatRequest") return { message: "Hello, who are you?" };
  return (
    {
      SessionInfoRequest: { session_id: "" },
      DeleteSessionRequest: { session_id: "" },
      ClearSessionRequest: { session_id: "" },
      HistoryRequest: { session_id: "" },
      FollowTurnRequest: { turn_id: "", after: 0 },
      CancelTurnRequest: { turn_id: "" },
    }[takes] ?? {}
  );
}

function messageFields(message, messages, enums, schemas, depth = 0) {
  if (!message.fields.length) return el("p", { class: "note" }, "No fields.");
  return el(
    "ul",
    { class: "fields" },
    ...message.fields.map(({ label, type, name, number, said }) => {
      const named = messages[type] ?? messages[/,\s*(\w+)>/.exec(type)?.[1]];
      const values = enums[`${message.name}.${type}`];
      let inner = null;
      if (named && depth < 3)
        inner = el(
          "details",
          {},
          el("summary", {}, `Fields of ${named.name}`),
          messageFields(named, messages, enums, schemas, depth + 1),
        );
      if (values)
        inner = el(
          "details",
          {},
          el("summary", {}, "Values"),
          el(
            "ul",
            { class: "fields" },
            ...values.values.map((value) =>
              fieldItem({ name: value.name, kind: "", number: value.number, said: value.said }),
            ),
          ),
        );
      return fieldItem({
        name,
        kind: [label, type].filter(Boolean).join(" "),
        number,
        said: said || schemas.meaning(name),
        inner,
      });
    }),
  );
}
