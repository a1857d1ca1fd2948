// What can go wrong, as two kinds: the server said no (Failure), or the connection broke (Cut). And what to do about it.

export class Failure extends Error {
  constructor(code, message, { turn_id = null } = {}) {
    super(message);
    this.code = code;
    this.turn_id = turn_id;
  }
}

export class Cut extends Error {
  code = "connection";
}

// What to do about it, and no more: the message has said what happened. Retry is a button of turns, so only the codes
// with which nothing but a turn can end speak of it.
const ADVICE = {
  connection: "Check that the server is running, then try again.",
  invalid_request: "Change the message or the model and send it again.",
  unauthorized: "Reload the page to log in.",
  forbidden: "Open this page at the server's own address.",
  not_found: "Start a new session.",
  session_busy: "Try again when it has ended.",
  conflict: "Send it again as a new message.",
  too_large: "Send a shorter message.",
  rate_limited: "Wait a moment, then try again.",
  model_error: "Press Retry, or choose another model.",
  model_timeout: "Press Retry, or choose another model.",
  interrupted: "Press Retry.",
};

export function advice(code) {
  return ADVICE[code] ?? "";
}

// From the status and body of a response that is not what was asked for.
export function failureOf(status, text) {
  let problem = {};
  try {
    problem = JSON.parse(text) ?? {};
  } catch {
    // A proxy's error page: the status must do.
  }
  const code =
    typeof problem.code === "string" ? problem.code : ({ 404: "not_found", 503: "unavailable" }[status] ?? "internal");
  const message = typeof problem.detail === "string" ? problem.detail : `The server answered ${status}.`;
  return new Failure(code, message, { turn_id: problem.turn_id ?? null });
}
