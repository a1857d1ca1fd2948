// The line below the conversation: what just happened, and when that has passed, who else types.

import { byId } from "./dom.js";

const NOTICE_MILLISECONDS = 5_000;

const typists = new Set(); // the connections of those who type in this room
let said = "";
let timer;

// A passing notice goes by itself; an urgent one stays until something else is said.
export function notice(text, urgent = false) {
  said = text;
  byId("presence").classList.toggle("urgent", urgent);
  clearTimeout(timer);
  if (text && !urgent) timer = setTimeout(() => notice(""), NOTICE_MILLISECONDS);
  draw();
}

export function typist(connection_id, types) {
  if (types) typists.add(connection_id);
  else typists.delete(connection_id);
  draw();
}

// Another room, or none that can be heard: who typed is not known here.
export function forgetTypists() {
  typists.clear();
  draw();
}

function draw() {
  const typing = typists.size > 1 ? `${typists.size} others are typing …` : "Somebody else is typing …";
  const text = said || (typists.size ? typing : "");
  const line = byId("presence");
  if (line.textContent !== text) line.textContent = text; // a screen reader would say it again
}
