/**
 * Asks the server, or looks answers up among recorded ones. Both have `runs`, `ask`, `stream`, and `knows`: whether
 * there can be an answer.
 */

const PACE = 80; // milliseconds between two recorded tokens

/** An answer of the server that is not a result. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** The client that the page's `<meta name="answers">` names. */
export async function connect() {
  const mode = document.querySelector('meta[name="answers"]').content;
  if (mode !== "recorded") return new Live();
  return new Recorded(await (await fetch("recorded.json")).json());
}

class Live {
  recorded = false;
  limits = {};

  knows() {
    return true;
  }

  async runs() {
    return (await (await this.#fetch("v1/runs", {})).json()).runs;
  }

  async ask(verb, body, signal) {
    return reached((await this.#post(verb, body, signal)).json());
  }

  /** Yields the tokens of a continuation as they come, without those of the prefix. */
  async *stream(verb, body, signal) {
    let known = body.prefix?.length ?? 0;
    for await (const event of this.#events(verb, body, signal)) {
      if (event.error) throw new Refused(200, event.error);
      if (event.token && known-- <= 0) yield event.token;
    }
  }

  async *#events(verb, body, signal) {
    const answer = await this.#post(verb, { ...body, stream: true }, signal);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reached(reader.read());
      if (done) return;
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) yield JSON.parse(event.slice("data:".length));
    }
  }

  #post(verb, body, signal) {
    const headers = { "Content-Type": "application/json" };
    return this.#fetch(`v1/${verb}`, { method: "POST", headers, body: JSON.stringify(body), signal });
  }

  async #fetch(address, options) {
    const typed = sessionStorage.getItem("token") ?? "";
    const token = String.fromCharCode(...new TextEncoder().encode(typed)); // a header holds bytes
    const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
    const answer = await reached(fetch(address, { ...options, headers }));
    if (!answer.ok) throw new Refused(answer.status, await reason(answer));
    return answer;
  }
}

/** What needs the server; if the server is gone, an error that says so. */
async function reached(promise) {
  try {
    return await promise;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The server does not answer. Is it still running?");
  }
}

/** The server's own sentence about a refusal. */
async function reason(answer) {
  try {
    return (await answer.json()).detail;
  } catch {
    return `The server answered with status ${answer.status}.`;
  }
}

/** Answers that `benchmarks/record_page.py` wrote: {runs, limits, answers: [[verb, body, answer]]}. */
class Recorded {
  recorded = true;

  constructor({ runs, limits, answers }) {
    this.limits = limits;
    this.#runs = runs;
    this.#answers = new Map(answers.map(([verb, body, answer]) => [key(verb, body), answer]));
  }

  #runs;
  #answers;

  knows(verb, body) {
    return this.#answers.has(key(verb, body));
  }

  async runs() {
    return this.#runs;
  }

  async ask(verb, body) {
    const found = this.#answers.get(key(verb, body));
    if (!found) throw new Refused(404, "This was not recorded. With a run of your own, the model answers.");
    return found;
  }

  async *stream(verb, body, signal) {
    const {
      outputs: [output],
    } = await this.ask(verb, body);
    for (const token of output.tokens.slice(body.prefix?.length ?? 0)) {
      await new Promise((resolve) => setTimeout(resolve, PACE));
      signal.throwIfAborted();
      yield token;
    }
  }
}

function key(verb, body) {
  return JSON.stringify([
    verb,
    ...Object.keys(body)
      .sort()
      .map((name) => [name, body[name]]),
  ]);
}

/**
 * Delays work until nobody has typed for `wait` milliseconds, and gives up what is still under way.
 *
 * The work gets a signal and then the arguments. It must not show anything once the signal is aborted: fetches that
 * were given the signal see to that, since they end with an error that `onerror` never gets.
 */
export function latest(work, onerror, wait = 200) {
  let timer, controller;
  return (...values) => {
    clearTimeout(timer);
    controller?.abort();
    const own = (controller = new AbortController());
    timer = setTimeout(async () => {
      try {
        await work(own.signal, ...values);
      } catch (error) {
        if (!own.signal.aborted) onerror(error);
      }
    }, wait);
  };
}
