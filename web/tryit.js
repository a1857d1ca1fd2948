// Trying a thing out from the documentation: an HTTP route, a WebSocket, a gRPC method; streams are shown as they arrive.

import { acknowledge, address, copyText, el } from "./dom.js";
import { untapped } from "./http.js";
import { GrpcWeb } from "./transports/grpc.js";
import { duration } from "./text.js";

const MOST_LINES = 2_000;

export function codeBox(title, text, { copies = true } = {}) {
  const code = el("code", {}, text);
  const copy = el(
    "button",
    { type: "button", class: "quiet", click: () => copyText(code.textContent).then(() => acknowledge(copy, "Copied")) },
    "Copy",
  );
  const box = el(
    "div",
    { class: "box" },
    el("div", { class: "box-head" }, el("span", {}, title), copies ? copy : null),
    el("pre", { tabindex: 0 }, code),
  );
  return { box, code };
}

// What came back, line by line, each with the time since the asking.
class Output {
  #lines = []; // to be shown with the next frame
  #frame;

  constructor() {
    this.status = el("p", { class: "status", role: "status" });
    this.pre = el("pre", { tabindex: 0, "aria-label": "Answer" });
    this.node = el("div", { class: "output", hidden: true }, this.status, this.pre);
  }

  start(words) {
    this.node.hidden = false;
    this.whole("");
    this.asked = performance.now();
    this.tell(words);
  }

  // How it stands, after the lines before it.
  tell(words, state = "") {
    if (this.#frame) this.#show();
    this.status.textContent = words;
    this.status.className = `status ${state}`;
  }

  // Nothing is asked: a field is empty that must not be.
  miss(name, input) {
    this.start("");
    this.tell(`${name} is missing: fill it in first.`, "bad");
    input.focus();
  }

  line(text, way = "") {
    this.#lines.push([duration(performance.now() - this.asked), text, way]);
    if (this.#lines.length > MOST_LINES) this.#lines.shift(); // in a hidden tab no frame is drawn
    this.#frame ??= requestAnimationFrame(() => this.#show());
  }

  // Once a frame: to ask for the place of the scroll bar has everything laid out anew.
  #show() {
    const atEnd = this.pre.scrollTop + this.pre.clientHeight > this.pre.scrollHeight - 30;
    for (const [at, text, way] of this.#lines)
      this.pre.append(el("span", { class: "at" }, at), el("span", { class: way }, text), "\n");
    this.#forget();
    while (this.pre.childNodes.length > MOST_LINES * 3) this.pre.firstChild.remove();
    if (atEnd) this.pre.scrollTop = this.pre.scrollHeight;
  }

  #forget() {
    cancelAnimationFrame(this.#frame);
    this.#frame = undefined;
    this.#lines = [];
  }

  whole(text) {
    this.#forget();
    this.pre.replaceChildren(text);
  }

  get elapsed() {
    return duration(performance.now() - this.asked);
  }
}

let fieldCount = 0;

function field(label, input) {
  input.id = `field-${++fieldCount}`;
  return el("div", { class: "field" }, el("label", { for: input.id }, label), input);
}

export function tryHttp(method, path, { parameters = [], body = null, media = [] }) {
  const inputs = parameters.map((parameter) => ({
    ...parameter,
    input: el("input", { spellcheck: "false", autocomplete: "off", placeholder: parameter.required ? "required" : "" }),
  }));
  const accept = media.length > 1 ? el("select", {}, ...media.map((type) => el("option", {}, type))) : null;
  const text = body === null ? null : el("textarea", { spellcheck: "false", rows: 4 }, JSON.stringify(body, null, 2));
  const send = el("button", { type: "submit", class: "primary" }, "Send");
  const stop = el("button", { type: "button", hidden: true, click: () => controller?.abort() }, "Stop");
  const output = new Output();
  const curl = codeBox("curl", "");
  let controller = null;

  const request = () => {
    let where = path.slice(1);
    const query = new URLSearchParams();
    const headers = {};
    for (const { name, in: place, input } of inputs) {
      if (place === "path") where = where.replace(`{${name}}`, encodeURIComponent(input.value.trim()) || "$&");
      else if (input.value.trim() && place === "query") query.set(name, input.value.trim());
      else if (input.value.trim()) headers[name] = input.value.trim();
    }
    if (accept) headers.Accept = accept.value;
    if (text) headers["Content-Type"] = "application/json";
    return { url: address("") + where + (query.size ? `?${query}` : ""), headers, body: text?.value };
  };
  const draw = () => {
    const { url, headers, body: data } = request();
    const parts = [`curl ${media.some(streams) ? "-N " : ""}${method === "GET" ? "" : `-X ${method} `}${quoted(url)}`];
    for (const [name, value] of Object.entries(headers)) parts.push(`-H ${quoted(`${name}: ${value}`)}`);
    if (data) parts.push(`-d ${quoted(squeezed(data))}`);
    curl.code.textContent = parts.join(" \\\n  ");
  };
  const run = async (submit) => {
    submit.preventDefault();
    const missing = inputs.find(({ required, input }) => required && !input.value.trim());
    if (missing) return output.miss(missing.name, missing.input);
    controller = new AbortController();
    send.disabled = true;
    stop.hidden = false;
    output.start("Asked.");
    try {
      const { url, headers, body: data } = request();
      const response = await fetch(url, { method, headers, body: data, signal: controller.signal, cache: "no-store" });
      await show(response, output);
    } catch (problem) {
      output.tell(
        problem.name === "AbortError" ? `Stopped after ${output.elapsed}.` : "The server could not be reached.",
        "bad",
      );
    }
    send.disabled = false;
    stop.hidden = true;
  };
  const form = el(
    "form",
    { class: "try", submit: run, input: draw, change: draw },
    ...inputs.map(({ name, in: place, input }) => field(`${name} (${place})`, input)),
    accept ? field("Accept", accept) : null,
    text ? field("Body", text) : null,
    el("div", { class: "deeds" }, send, stop),
  );
  draw();
  const box = el(
    "div",
    { class: "box" },
    el("div", { class: "box-head" }, el("span", {}, "Try it")),
    form,
    output.node,
  );
  return [curl.box, box];
}

async function show(response, output) {
  const type = (response.headers.get("content-type") ?? "").split(";")[0];
  const line = `${response.status} ${response.statusText} · ${type || "no body"}`;
  const state = response.ok ? "good" : "bad";
  output.tell(`${line} · ${output.elapsed}`, state);
  if (!streams(type)) {
    const text = await response.text();
    output.whole(type.endsWith("json") && text ? pretty(text) : text);
    return output.tell(`${line} · ${output.elapsed}`, state);
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const one of lines) output.line(one);
  }
  if (rest) output.line(rest);
  output.tell(`${line} · ended after ${output.elapsed}`, state);
}

export function tryGrpc(service, method, example, streamsIn) {
  const grpcurl = location.protocol === "http:" ? "grpcurl -plaintext" : "grpcurl";
  const target = location.host;
  const call = codeBox("grpcurl", "");
  if (streamsIn) {
    call.code.textContent = `${grpcurl} -d @ ${target} ${service}/${method} <<'EOF'\n${JSON.stringify(example)}\nEOF`;
    return [
      call.box,
      el(
        "p",
        { class: "note" },
        "A browser has no way to send a stream over gRPC; the other methods can be tried here.",
      ),
    ];
  }
  const text = el("textarea", { spellcheck: "false", rows: 4 }, JSON.stringify(example, null, 2));
  const send = el("button", { type: "submit", class: "primary" }, "Send");
  const stop = el("button", { type: "button", hidden: true, click: () => controller?.abort() }, "Stop");
  const output = new Output();
  let controller = null;
  const needed = Object.keys(example).filter((name) => example[name] === "");
  const draw = () => {
    const names = Object.fromEntries(needed.map((name) => [name, `{${name}}`]));
    const data = squeezed(text.value, (name, value) => (value === "" && names[name]) || value);
    call.code.textContent = `${grpcurl} -d ${quoted(data)} \\\n  ${target} ${service}/${method}`;
  };
  const run = async (submit) => {
    submit.preventDefault();
    let message;
    try {
      message = JSON.parse(text.value || "{}");
    } catch {
      output.start("");
      return output.tell("The message is not valid JSON.", "bad");
    }
    const missing = needed.find((name) => !message?.[name]);
    if (missing) return output.miss(missing, text);
    controller = new AbortController();
    send.disabled = true;
    stop.hidden = false;
    output.start("Asked.");
    try {
      let first = true;
      for await (const response of new GrpcWeb(untapped, { json: true }).call(method, message, controller.signal)) {
        if (first) output.tell(`OK so far · ${output.elapsed}`, "good");
        first = false;
        output.line(JSON.stringify(response));
      }
      output.tell(`OK · ended after ${output.elapsed}`, "good");
    } catch (problem) {
      output.tell(
        controller.signal.aborted
          ? `Stopped after ${output.elapsed}.`
          : `${problem.code ?? "error"}: ${problem.message}`,
        "bad",
      );
    }
    send.disabled = false;
    stop.hidden = true;
  };
  const form = el(
    "form",
    { class: "try", submit: run, input: draw },
    field("Message", text),
    el("div", { class: "deeds" }, send, stop),
  );
  draw();
  return [
    call.box,
    el(
      "div",
      { class: "box" },
      el("div", { class: "box-head" }, el("span", {}, "Try it, over gRPC-Web")),
      form,
      output.node,
    ),
  ];
}

export function tryWebSocket(path, messages) {
  const url = address(path.slice(1)).replace(/^http/, "ws");
  const kinds = el("select", {}, ...messages.map(({ type }) => el("option", {}, type)));
  const text = el("textarea", { spellcheck: "false", rows: 4 });
  const connect = el("button", { type: "button", class: "primary" }, "Connect");
  const send = el("button", { type: "submit", disabled: true }, "Send");
  const output = new Output();
  let socket = null;
  const fill = () => (text.value = JSON.stringify(messages.find(({ type }) => type === kinds.value).example, null, 2));
  connect.addEventListener("click", () => {
    if (socket) return socket.close(1000);
    socket = new WebSocket(url);
    output.start("Connecting.");
    socket.onopen = () => {
      output.tell("Connected.", "good");
      connect.textContent = "Close";
      send.disabled = false;
    };
    socket.onmessage = ({ data }) => output.line(data);
    socket.onclose = ({ code, reason }) => {
      output.tell(`Closed: ${code} ${reason}`.trim(), code === 1000 ? "" : "bad");
      connect.textContent = "Connect";
      send.disabled = true;
      socket = null;
    };
  });
  const run = (submit) => {
    submit.preventDefault();
    if (socket?.readyState !== WebSocket.OPEN) return;
    const data = squeezed(text.value);
    socket.send(data);
    output.line(data, "out");
  };
  kinds.addEventListener("change", fill);
  fill();
  const command = codeBox("websocat", `websocat ${url}`);
  const form = el(
    "form",
    { class: "try", submit: run },
    field("Message", kinds),
    field("Frame", text),
    el("div", { class: "deeds" }, connect, send),
  );
  return [
    command.box,
    el("div", { class: "box" }, el("div", { class: "box-head" }, el("span", {}, "Try it")), form, output.node),
  ];
}

function streams(type) {
  return type === "application/x-ndjson" || type === "text/event-stream";
}

function quoted(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

function squeezed(text, change) {
  try {
    return JSON.stringify(JSON.parse(text, change));
  } catch {
    return text;
  }
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
