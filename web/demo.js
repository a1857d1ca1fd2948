// The demo page: puts the parts together and holds what is chosen.

import { byId, el } from "./dom.js";
import { advice } from "./failures.js";
import { json, untapped } from "./http.js";
import { tab, titles } from "./kept.js";
import { forgetTypists, notice, typist } from "./presence.js";
import { PROTOCOLS } from "./protocols.js";
import { Race } from "./race.js";
import { Room } from "./room.js";
import { SessionList, titleOf } from "./sessions.js";
import { Link, WebSocketTransport } from "./transports/websocket.js";
import { Wire } from "./wire.js";

const SUGGESTIONS = [
  "Hello, who are you?",
  "How does an answer survive a lost connection?",
  "What do you know of our conversation?",
];
const TYPING_MILLISECONDS = 3_000;

const wire = new Wire();
const link = new Link(wire.tap("websocket"));
const transports = Object.fromEntries(
  Object.entries(PROTOCOLS).map(([name, { make: Transport }]) => [
    name,
    name === "websocket" ? new WebSocketTransport(wire.tap(name), link) : new Transport(wire.tap(name)),
  ]),
);
const rooms = new Map();
const sessions = new SessionList((session_id) => enter(session_id));
let protocol = tab.protocol in PROTOCOLS ? tab.protocol : "ndjson";
let room = null;
let preparing = false;
let standard = byId("model").placeholder; // the server's own model

const chosen = () => ({ name: protocol, transport: transports[protocol], begin: (name) => wire.begin(name) });

// --- sessions ---

function roomOf(session_id) {
  if (rooms.has(session_id)) return rooms.get(session_id);
  const made = new Room(session_id, chosen);
  rooms.set(session_id, made);
  made.addEventListener("added", () => made === room && showRoom());
  made.addEventListener("grown", () => made === room && follow());
  made.addEventListener("state", () => {
    if (made === room) {
      showState();
      follow();
    } else if (!made.busy) forget(made);
    if (!made.busy) sessions.refresh();
  });
  made.addEventListener("stale", () => load(made));
  made.addEventListener("retry", ({ detail }) => send(detail));
  return made;
}

function forget(left) {
  left.close();
  if (rooms.get(left.session_id) === left) rooms.delete(left.session_id);
}

// Into another room, or none. The old one is kept only while an answer grows there.
function move(to) {
  const from = room;
  if (from === to) return;
  room = to;
  forgetTypists();
  if (from && !from.busy) forget(from);
}

function enter(session_id) {
  move(roomOf(session_id));
  tab.session = session_id;
  link.join(session_id);
  notice("");
  showRoom();
  pane("conversation");
  if (room.loaded) showModel();
  if (!room.busy) load(room);
}

// For the first time, or again: then nothing moves but what has changed.
async function load(entered) {
  const { session_id, loaded: again } = entered;
  try {
    const detail = await entered.load();
    const first = detail.messages.find(({ role }) => role === "user");
    if (first && !titles.of(session_id)) titles.keep(session_id, first.text);
    if (room !== entered) return;
    sessions.show(detail);
    if (!again) {
      notice("");
      showModel();
    }
    showRoom(again);
  } catch (problem) {
    if (problem.code === "not_found") forget(entered);
    if (room !== entered) return;
    if (problem.code !== "not_found") return tell(problem);
    leave();
    notice("The server no longer has this session.", true);
  }
}

// To a session that does not exist yet: it is made by the first message.
function leave() {
  move(null);
  tab.session = null;
  link.join(null);
  sessions.current = null;
  showRoom();
  sessions.refresh();
}

async function send(message) {
  if (preparing || room?.busy) return;
  const wanted = byId("model").value.trim();
  const model_id = wanted || undefined; // also the session's own: another member may have changed that
  tab.model = wanted;
  stopTyping();
  notice("");
  if (!room) {
    preparing = true;
    showState();
    try {
      wire.begin(protocol);
      const session_id = await transports[protocol].create(model_id);
      move(roomOf(session_id));
      Object.assign(room, { model: wanted, loaded: true });
      tab.session = session_id;
      link.join(session_id);
    } catch (problem) {
      const field = byId("message");
      field.value = field.value ? `${message}\n\n${field.value}` : message; // something may have been typed meanwhile
      grow();
      tell(problem);
      return;
    } finally {
      preparing = false;
      showState();
    }
  }
  if (!titles.of(room.session_id)) titles.keep(room.session_id, message);
  sessions.current = room.session_id;
  room.send(message, model_id);
  showRoom();
}

async function stop() {
  try {
    await room?.stop();
  } catch (problem) {
    tell(problem);
  }
}

// --- what is shown ---

function showRoom(still = false) {
  const log = byId("log");
  const turns = log.querySelector(".turns");
  const empty = !room || (room.loaded && room.node.childNodes.length === 0);
  byId("welcome").hidden = !empty;
  if (turns !== (room?.node ?? null)) {
    turns?.remove();
    grown.disconnect();
    if (room) {
      log.append(room.node);
      grown.observe(room.node);
    }
  }
  byId("conversation-title").textContent = room ? titleOf(room.session_id) : "New session";
  document.title = room ? `${titleOf(room.session_id)} · fivewire` : "fivewire: one chat, five wires";
  byId("session-actions").hidden = !room;
  sessions.current = room?.session_id ?? null;
  showState();
  if (empty) log.scrollTop = 0;
  else follow(!still);
}

function showModel() {
  byId("model").value = room?.model ?? "";
}

function showState() {
  const busy = Boolean(room?.busy);
  const focused = document.activeElement;
  byId("stop").hidden = !busy;
  byId("send").hidden = busy;
  byId("send").disabled = preparing;
  byId("log").classList.toggle("busy", busy);
  byId("model").placeholder = room?.model || standard;
  if (focused !== document.body && !focused.getClientRects().length) byId("message").focus(); // it was on what is gone
}

let atEnd = true;
function follow(always = false) {
  const log = byId("log");
  if (always || atEnd) log.scrollTop = log.scrollHeight;
}

// How high a turn is, is a guess until it comes near: the end moves away from who has just come to it.
const grown = new ResizeObserver(() => follow());

function tell(problem) {
  notice(`${problem.message} ${advice(problem.code)}`, true);
}

function choose(name) {
  protocol = name;
  tab.protocol = name;
  byId("protocol").value = name;
  byId("composer").dataset.protocol = name;
  wire.show(name);
  room?.switched();
}

function pane(name) {
  document.body.dataset.pane = name;
  for (const button of document.querySelectorAll(".panes button"))
    button.setAttribute("aria-pressed", String(button.dataset.pane === name));
}

function view() {
  const name = location.hash.startsWith("#race") ? "race" : "chat";
  document.body.dataset.view = name;
  byId("chat").hidden = name !== "chat";
  byId("race").hidden = name !== "race";
  for (const anchor of document.querySelectorAll(".views a[data-view]")) {
    if (anchor.dataset.view === name) anchor.setAttribute("aria-current", "page");
    else anchor.removeAttribute("aria-current");
  }
}

// --- the others ---

function onFrame(frame) {
  if (frame.type === "session_joined") rooms.get(frame.session_id)?.joined(frame);
  if (frame.type === "error" && frame.code === "not_found") rooms.get(frame.session_id)?.reread(); // not joined
  if (frame.type !== "session_update") {
    rooms.forEach((one) => one.saw(frame)); // it may be of a room that was left since it was sent
    return;
  }
  const { update_type, session_id, connection_id } = frame;
  if (update_type === "session_deleted" && rooms.has(session_id)) {
    forget(rooms.get(session_id));
    if (room?.session_id === session_id) {
      leave();
      notice("This session was deleted.");
    }
  }
  if (update_type === "session_cleared") rooms.get(session_id)?.cleared();
  if (update_type !== "user_typing") sessions.refresh();
  if (session_id !== room?.session_id) return;
  if (connection_id) typist(connection_id, update_type === "user_typing" && frame.typing);
  if (update_type === "user_joined") notice("Somebody joined this session.");
  else if (update_type === "user_disconnected") notice("Somebody left this session.");
}

let typing = null;
function typed() {
  if (!room) return;
  if (!typing) link.send({ type: "typing_start", session_id: link.session_id });
  clearTimeout(typing);
  typing = setTimeout(stopTyping, TYPING_MILLISECONDS);
}

function stopTyping() {
  if (!typing) return;
  clearTimeout(typing);
  typing = null;
  link.send({ type: "typing_stop", session_id: link.session_id });
}

const STATES = { open: "Connected", connecting: "Connecting", closed: "No connection, trying again" };

// --- the start ---

for (const [name, { label }] of Object.entries(PROTOCOLS))
  byId("protocol").append(el("option", { value: name }, label));
byId("suggestions").append(
  ...SUGGESTIONS.map((text) => el("li", {}, el("button", { type: "button", click: () => send(text) }, text))),
);
byId("model").value = tab.model;
choose(protocol);

byId("protocol").addEventListener("change", ({ target }) => choose(target.value));
byId("composer").addEventListener("submit", (submit) => {
  submit.preventDefault();
  const field = byId("message");
  const message = field.value;
  if (!message.trim() || preparing) return;
  if (room?.busy) return notice("Wait for the answer, or press Escape to stop it.");
  if (room && !room.loaded) {
    notice("Wait until the session is there, then send it.");
    return load(room);
  }
  field.value = "";
  grow();
  send(message);
});
byId("message").addEventListener("keydown", (key) => {
  if (key.key !== "Enter" || key.shiftKey || key.isComposing) return;
  key.preventDefault();
  byId("composer").requestSubmit();
});
byId("message").addEventListener("input", () => {
  grow();
  typed();
});
byId("message").addEventListener("blur", stopTyping);
byId("stop").addEventListener("click", stop);
document.addEventListener("keydown", (key) => {
  if (key.key === "Escape" && room?.busy && !byId("confirm").open) stop();
});
byId("log").addEventListener(
  "scroll",
  ({ target }) => (atEnd = target.scrollTop + target.clientHeight > target.scrollHeight - 48),
);
byId("new-session").addEventListener("click", () => {
  leave();
  pane("conversation");
  byId("message").focus();
});
byId("clear-session").addEventListener("click", () =>
  administer("POST", `sessions/${encodeURIComponent(room.session_id)}/clear`, (session_id) =>
    rooms.get(session_id)?.cleared(),
  ),
);
byId("delete-session").addEventListener("click", () => {
  byId("confirm-words").textContent = `Delete “${titleOf(room.session_id)}” with all its messages?`;
  byId("confirm").showModal();
});
byId("confirm-no").addEventListener("click", () => byId("confirm").close());
byId("confirm-yes").addEventListener("click", () => {
  byId("confirm").close();
  administer("DELETE", `sessions/${encodeURIComponent(room.session_id)}`, (session_id) => {
    if (rooms.has(session_id)) forget(rooms.get(session_id));
    if (room?.session_id === session_id) leave();
  });
});
for (const button of document.querySelectorAll(".panes button"))
  button.addEventListener("click", () => pane(button.dataset.pane));
window.addEventListener("hashchange", view);
window.addEventListener("pagehide", () => rooms.forEach((one) => one.leave()));

async function administer(method, path, then) {
  const { session_id } = room;
  try {
    await json(untapped, method, path);
    then(session_id);
    showRoom();
    await sessions.refresh();
  } catch (problem) {
    tell(problem);
  }
}

function grow() {
  const field = byId("message");
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight}px`;
}

async function listModels() {
  try {
    const { default: first, models } = await json(untapped, "GET", "models");
    standard = first;
    showState();
    const ids = [...new Set([standard, ...models.map(({ id }) => id), "demo?chunks=60&rate=30"])];
    byId("models").replaceChildren(...ids.map((id) => el("option", { value: id })));
  } catch {
    // The field takes any id without the list.
  }
}

link.addEventListener("frame", ({ detail }) => onFrame(detail));
link.addEventListener("state", ({ detail }) => {
  byId("connection").dataset.state = detail;
  byId("connection").textContent = STATES[detail];
  if (detail === "open") {
    sessions.refresh();
    if (room && !room.loaded) load(room);
  } else forgetTypists();
});
new Race();
view();
showRoom();
// Not on narrow ones, where it would bring up a keyboard that covers the page.
if (!matchMedia("(max-width: 900px)").matches) byId("message").focus();
if (tab.session) enter(tab.session);
sessions.refresh();
listModels();
link.stay();
