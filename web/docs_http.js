// The routes, events and error codes of the documentation, from /openapi.json.

import { entry, listed, part } from "./chapters.js";
import { el } from "./dom.js";
import { inline } from "./inline.js";
import { fieldItem } from "./schema.js";
import { codeBox, tryHttp } from "./tryit.js";

const GROUPS = [
  ["Chat", /^\/(chat|turns)(\/|$)/],
  ["Sessions", /^\/sessions/],
  ["Server", /./],
];

export function operations(document) {
  return Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ path, method: method.toUpperCase(), ...operation })),
  );
}

// A WebSocket and gRPC-Web begin as HTTP, and are told about in their own parts.
export const isWebSocket = ({ responses }) => "101" in responses;
export const isGrpcWeb = ({ responses }) =>
  Object.keys(responses["200"]?.content ?? {}).some((type) => type.startsWith("application/grpc-web"));

export function http(document, schemas) {
  const all = operations(document).filter((operation) => !isWebSocket(operation) && !isGrpcWeb(operation));
  const taken = new Set();
  for (const [group, matches] of GROUPS) {
    const mine = all.filter((operation) => matches.test(operation.path) && !taken.has(operation));
    mine.forEach((operation) => taken.add(operation));
    part(
      `http-${group.toLowerCase()}`,
      group,
      null,
      mine.map((operation) => {
        listed(group, operation.operationId, operation.path, operation.method, operation.method.toLowerCase());
        return operationEntry(operation, schemas, document["x-error-codes"]);
      }),
    );
  }
}

function operationEntry(operation, schemas, codes) {
  const { path, method, operationId, parameters = [], requestBody, responses } = operation;
  const success = Object.entries(responses).find(([status]) => status < 400);
  const media = Object.keys(success[1].content ?? {});
  const body = requestBody?.content["application/json"];
  const told = operationTold(operation, success, body, schemas, codes);
  const shown = exampleOf(success[1].content ?? {}, schemas);
  const filled = body ? (body.example ?? schemas.example(body.schema)) : null;
  return entry(operationId, told, [...tryHttp(method, path, { parameters, body: filled, media }), shown]);
}

function exampleOf(content, schemas) {
  const json = content["application/json"]?.schema;
  if (json?.$ref) return codeBox("Example of an answer", JSON.stringify(schemas.example(json), null, 2)).box;
  if (!("application/x-ndjson" in content)) return null;
  const events = ["session_info", "status", "chunk", "complete"].map((name) => schemas.example({ $ref: name }));
  return codeBox("Example of an answer, as NDJSON", events.map((event) => JSON.stringify(event)).join("\n")).box;
}

export function operationTold(
  { path, method, summary, description, parameters = [], responses },
  success,
  body,
  schemas,
  codes,
) {
  const told = [
    el("h3", {}, summary),
    el("p", { class: "path" }, el("span", { class: `method ${method.toLowerCase()}` }, method), el("span", {}, path)),
  ];
  if (description) told.push(el("p", { class: "said" }, ...inline(description)));
  if (parameters.length) {
    told.push(
      el("h4", {}, "Parameters"),
      el(
        "ul",
        { class: "fields" },
        ...parameters.map((parameter) =>
          fieldItem({
            name: parameter.name,
            kind: `${parameter.schema.type}, in the ${parameter.in}`,
            must: parameter.required,
            said: parameter.description,
          }),
        ),
      ),
    );
  }
  if (body) told.push(el("h4", {}, "Body"), schemas.fields(body.schema));
  if (success[0] !== "101") told.push(...answers(success, schemas));
  const errors = [];
  for (const [status, { description: said, content = {} }] of Object.entries(responses)) {
    if ("application/problem+json" in content) errors.push(...said.split(", ").map((name) => [status, name]));
    else if (status !== success[0]) told.push(el("h4", {}, `Answer ${status}`), el("p", {}, ...inline(said)));
  }
  if (errors.length) told.push(el("h4", {}, "Errors"), errorTable(errors, codes));
  return told;
}

function answers([status, { content = {} }], schemas) {
  return Object.entries(content).flatMap(([type, { schema }]) => {
    const whole = schemas.resolve(schema);
    if (whole.oneOf)
      return [
        el("h4", {}, `Answer ${status}, ${type}`),
        el("p", {}, "A stream of ", el("a", { href: "#events" }, "events"), "."),
      ];
    if (whole.properties) return [el("h4", {}, `Answer ${status}, ${type}`), schemas.fields(schema)];
    return [el("h4", {}, `Answer ${status}`), el("p", {}, el("code", {}, type))];
  });
}

// An invalid request has more statuses than the one of its code.
function errorTable(errors, codes) {
  const row = ([status, name]) =>
    el(
      "tr",
      {},
      el("td", {}, el("code", {}, name)),
      el("td", {}, status),
      el("td", {}, codes[name].title),
      el("td", {}, codes[name].retryable ? "may be tried again" : ""),
    );
  return el("div", { class: "table" }, el("table", { class: "errors" }, el("tbody", {}, ...errors.map(row))));
}

export function events(schemas) {
  const lead =
    "What a turn's log holds, and every stream carries: the same objects as NDJSON lines, in the `data:` of SSE frames, and as WebSocket frames. A turn ends with exactly one `complete` or `error`; a stream that ends without was cut, and is resumed from its last `seq`.";
  part(
    "events",
    "Events",
    lead,
    schemas.all.event.oneOf.map((reference) => {
      const word = schemas.resolve(reference);
      listed("Events", `event-${word.name}`, word.name);
      return entry(
        `event-${word.name}`,
        [
          el("h3", {}, word.name),
          word.description ? el("p", { class: "said" }, ...inline(word.description)) : null,
          schemas.fields(reference),
        ],
        [codeBox("Example", JSON.stringify(schemas.example(reference), null, 2)).box],
      );
    }),
  );
}

export function errors(codes, schemas) {
  const rows = Object.entries(codes).map(([name, { http: status, grpc, retryable, title }]) =>
    el(
      "tr",
      {},
      ...[el("code", {}, name), String(status), grpc, retryable ? "yes" : "no", title].map((cell) =>
        el("td", {}, cell),
      ),
    ),
  );
  const head = ["Code", "HTTP", "gRPC", "Retryable", "Meaning"].map((name) => el("th", { scope: "col" }, name));
  listed("Errors", "errors", "Error codes");
  part(
    "errors",
    "Errors",
    "One table for all transports. HTTP answers them as `application/problem+json`, a stream that has begun as an `error` event, never both.",
    [
      entry("error-codes", [
        el(
          "div",
          { class: "table", tabindex: 0 },
          el("table", { class: "errors" }, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows)),
        ),
      ]),
      entry(
        "problem",
        [el("h3", {}, "Problem"), schemas.fields({ $ref: "#/components/schemas/Problem" })],
        [codeBox("Example", JSON.stringify(schemas.example({ $ref: "#/components/schemas/Problem" }), null, 2)).box],
      ),
    ],
  );
}
