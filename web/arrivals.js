// Events that arrive by callback, taken by an async iterator.
export class Arrivals {
  #events = [];
  #wake = null;
  #over = null;

  put(event) {
    this.#events.push(event);
    this.#wake?.();
  }

  end() {
    this.#over ??= { problem: null };
    this.#wake?.();
  }

  fail(problem) {
    this.#over ??= { problem };
    this.#wake?.();
  }

  async *[Symbol.asyncIterator]() {
    for (;;) {
      while (this.#events.length) yield this.#events.shift();
      if (this.#over?.problem) throw this.#over.problem;
      if (this.#over) return;
      await new Promise((resolve) => (this.#wake = resolve));
    }
  }
}
