// The documentation page: everything it says is drawn from /openapi.json and /chat.proto of this server.

import { drawContents } from "./chapters.js";
import { grpc } from "./docs_grpc.js";
import { errors, events, http } from "./docs_http.js";
import { webSocket } from "./docs_websocket.js";
import { address, byId, el } from "./dom.js";
import { Schemas } from "./schema.js";

async function start() {
  const [openapi, proto] = await Promise.all([
    fetch(address("openapi.json")).then((answer) => answer.json()),
    fetch(address("chat.proto")).then((answer) => answer.text()),
  ]);
  const schemas = new Schemas(openapi);
  byId("summary").textContent = openapi.info.summary;
  const facts = {
    Version: openapi.info.version,
    "This server": new URL(".", document.baseURI).href.replace(/\/$/, ""),
    "OpenAPI 3.1": el("a", { href: "openapi.json" }, "openapi.json"),
    Protobuf: el("a", { href: "chat.proto" }, "chat.proto"),
  };
  byId("facts").append(
    ...Object.entries(facts).map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))),
  );
  http(openapi, schemas);
  webSocket(openapi, schemas);
  grpc(openapi, schemas, proto);
  events(schemas);
  errors(openapi["x-error-codes"], schemas);
  drawContents();
  if (location.hash) byId(location.hash.slice(1))?.scrollIntoView({ behavior: "instant" });
}

start().catch((problem) => {
  byId("summary").textContent = "The server could not be reached: start it, and load this page again.";
  throw problem;
});
