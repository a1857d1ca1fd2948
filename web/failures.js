// What can go wrong, as two kinds: the server said no (Failure), or the connection broke (Cut). And what to do about it.

export class Failure extends Error {
  constructor(code, message, { retryable = false, turn_id = null } = {}) {
    super(message);
    this.code = code;
    this.retryable = retryable;
    this.turn_id = turn_id;
  }
}

export class Cut extends Error {
  code = "connection";
  retryable = true;
}

const ADVICE = {
  connection: "The server cannot be reached. Check that it is running, then press Retry.",
  invalid_request: "Change the message or the model and send it again.",
  unauthorized: "This server wants credentials that the page does not have.",
  forbidden: "This server does not serve pages of this origin.",
  not_found: "It no longer exists. Start a new session.",
  session_busy: "Wait for the running answer, or stop it, then press Retry.",
  conflict: "The same request was sent with another text. Send it again as a new message.",
  too_large: "Send a shorter message.",
  rate_limited: "Too many requests. Wait a moment, then press Retry.",
  model_error: "Press Retry, or choose another model.",
  model_timeout: "The model took too long. Press Retry.",
  unavailable: "The server takes no new turns now. Wait a moment, then press Retry.",
  interrupted: "The server stopped while answering. Press Retry to ask again.",
  internal: "This is a fault of the server; its log has the details.",
};

export function advice(code) {
  return ADVICE[code] ?? "Press Retry to try again.";
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
  return new Failure(code, message, { retryable: problem.retryable === true, turn_id: problem.turn_id ?? null });
}
