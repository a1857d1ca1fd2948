// What outlives a reload: in sessionStorage what belongs to this tab, in localStorage what belongs to the reader.

const PREFIX = "fivewire.";
const MOST_TITLES = 200;

function read(storage, key, otherwise) {
  try {
    return JSON.parse(storage.getItem(PREFIX + key)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

function write(storage, key, value) {
  try {
    if (value === null) storage.removeItem(PREFIX + key);
    else storage.setItem(PREFIX + key, JSON.stringify(value));
  } catch {
    // Full or forbidden: the page works without.
  }
}

export const tab = {
  get session() {
    return read(sessionStorage, "session", null);
  },
  set session(id) {
    write(sessionStorage, "session", id);
  },
  get protocol() {
    return read(sessionStorage, "protocol", null) ?? read(localStorage, "protocol", "ndjson");
  },
  set protocol(name) {
    write(sessionStorage, "protocol", name);
    write(localStorage, "protocol", name);
  },
  get model() {
    return read(sessionStorage, "model", "");
  },
  set model(id) {
    write(sessionStorage, "model", id);
  },
};

// A turn that is running: {message, model_id, idempotency_key, turn_id, seq, text}, by session.
export const running = {
  of(session_id) {
    return read(sessionStorage, `turn.${session_id}`, null);
  },
  keep(session_id, turn) {
    write(sessionStorage, `turn.${session_id}`, turn);
  },
  drop(session_id) {
    write(sessionStorage, `turn.${session_id}`, null);
  },
};

// The server does not name sessions; the page remembers their first words.
export const titles = {
  of(session_id) {
    return read(localStorage, "titles", {})[session_id] ?? null;
  },
  keep(session_id, title) {
    const all = Object.entries(read(localStorage, "titles", {}))
      .filter(([id]) => id !== session_id)
      .slice(-MOST_TITLES);
    write(localStorage, "titles", Object.fromEntries([...all, [session_id, title.slice(0, 120)]]));
  },
};
