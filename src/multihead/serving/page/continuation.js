/**
 * The panel of a language model: it writes token by token, and shows from which distribution each token is drawn.
 */

import { Attention } from "./attention.js";
import { latest } from "./client.js";
import { block, cutAt, el, labelled, lines, piece, roving, visible } from "./dom.js";
import { distribution, merged, tokenButton } from "./tokens.js";

const TOKENS_AT_ONCE = 24;
const MOST_TOKENS = 512; // of a continuation; the server answers no request for more
const PLAIN = { temperature: 1, top_p: 1 };

export class ContinuationPanel {
  #text = "";
  #tokens = [];
  #ended = false; // whether the last token is the end mark, after which nothing may come
  #selected = -1; // a place among the tokens; -1 is the next token, which is not written yet
  #shownPlace = 0; // the place to which the candidates on the page belong
  #writing = null;
  #settings = { temperature: 1, top_p: 1, seed: 1 };

  constructor(run, client) {
    Object.assign(this, { run, client });
    this.prompt = el("span", { class: "prompt" });
    this.strip = el("span", { class: "written", role: "group", "aria-label": "Tokens that the model wrote" });
    this.enter = roving(this.strip);
    this.error = el("p", { class: "error", role: "status" });
    this.title = el("p", { class: "hint" });
    this.candidates = el("div", {});
    roving(this.candidates);
    this.attention = new Attention(run, client);
    this.#next = latest(
      (signal, failed) => this.#askNext(signal, failed),
      (error) => this.#failNext(error),
    );
    this.#attend = latest(
      async (signal, none) => this.attention.update(none ? "" : this.#text + (await this.#written(signal)), "", signal),
      (error) => this.#fail(error),
    );
    this.parts = [
      block(
        "Continuation",
        el("p", { class: "output", dir: "auto" }, this.prompt, this.strip),
        this.#buttons(),
        this.error,
      ),
      block("Next token", this.#sliders(), this.title, this.candidates),
      this.attention.element,
    ];
  }

  #next;
  #attend;

  update(text) {
    this.#text = text;
    this.#restart();
  }

  compareWith() {}

  // The controls

  #buttons() {
    const button = (text, onclick, kind = "") => el("button", { type: "button", class: kind, onclick }, text);
    this.write = button("Write", () => (this.#writing ? this.#halt() : this.#write()), "main");
    this.one = button("One token", () => this.#one());
    const seed = el("input", {
      type: "number",
      min: 0,
      max: 999999,
      value: this.#settings.seed,
      disabled: this.client.recorded,
      onchange: (event) => {
        this.#settings.seed = Math.max(0, Math.round(Number(event.target.value)) || 0);
      },
    });
    return el(
      "div",
      { class: "buttons" },
      this.write,
      this.one,
      button("Start again", () => this.#restart(), "quiet"),
      labelled("Seed", seed),
    );
  }

  #sliders() {
    return el(
      "div",
      { class: "controls" },
      this.#slider("Temperature", "temperature", { min: 0.1, max: 2, step: 0.1 }),
      this.#slider("Top-p", "top_p", { min: 0.05, max: 1, step: 0.05 }),
    );
  }

  #slider(name, key, range) {
    const shown = el("span", { class: "value" }, this.#settings[key].toFixed(2));
    const slider = el("input", {
      type: "range",
      ...range,
      ...this.client.limits[key],
      value: this.#settings[key],
      oninput: (event) => {
        this.#settings[key] = Number(event.target.value);
        shown.replaceChildren(this.#settings[key].toFixed(2));
        this.#next();
      },
    });
    return el("label", { class: "control" }, el("span", {}, name, " ", shown), slider);
  }

  // What is written

  #body(prefix, tokens) {
    const body = { inputs: this.#text, run: this.run.name, ...this.#settings, max_new_tokens: tokens, details: true };
    if (prefix.length) body.prefix = prefix;
    return body;
  }

  /** The text of the tokens, as the server writes it. */
  async #written(signal) {
    const prefix = this.#ids();
    if (!prefix.length) return "";
    const { outputs } = await this.client.ask("generate", this.#body(prefix, prefix.length), signal);
    return outputs[0].text;
  }

  #ids(end = this.#tokens.length) {
    return this.#tokens.slice(0, end).map(({ id }) => id);
  }

  #restart() {
    this.#stop();
    this.#selected = -1;
    this.prompt.replaceChildren(visible(this.#text));
    this.#showTokens([]);
    this.#next();
  }

  #stop() {
    this.#writing?.abort();
    this.#writing = null;
    this.write.replaceChildren("Write");
    this.strip.removeAttribute("aria-busy");
  }

  #halt() {
    this.#stop();
    this.#next();
  }

  /** Writes on until the end mark, the limit or a click. */
  #write() {
    this.write.replaceChildren("Stop");
    this.strip.setAttribute("aria-busy", "true");
    this.#showNone("While the model writes, select one of its tokens to see its candidates.");
    return this.#add(TOKENS_AT_ONCE, async (body, signal) => {
      for await (const token of this.client.stream("generate", body, signal)) {
        signal.throwIfAborted();
        this.#showTokens([...this.#tokens, token]);
      }
    });
  }

  /** Draws one token more. */
  #one() {
    this.#stop();
    return this.#add(1, async (body, signal) => {
      const {
        outputs: [output],
      } = await this.client.ask("generate", body, signal);
      this.#showTokens([...this.#tokens, ...output.tokens.slice(this.#tokens.length)]);
    });
  }

  async #add(count, work) {
    const own = (this.#writing = new AbortController());
    this.#selected = -1;
    let failed = "";
    try {
      await work(this.#body(this.#ids(), this.#count(count)), own.signal);
    } catch (error) {
      failed = error.message;
    }
    if (own.signal.aborted) return;
    this.#stop();
    this.#next(failed);
  }

  /** The number of tokens after `more`, at most the limit of the server. */
  #count(more) {
    return Math.min(this.#tokens.length + more, MOST_TOKENS);
  }

  /** Puts a candidate at the place whose distribution is shown; what stood there and behind it is gone. */
  #force(candidate) {
    this.#stop();
    this.#selected = -1;
    this.#showTokens([...this.#tokens.slice(0, this.#shownPlace), { ...candidate, forced: true }]);
    this.#next();
  }

  // What is shown

  #showTokens(tokens) {
    this.#tokens = tokens;
    this.#ended = false;
    const blank = (token) => (piece(token.text).begins ? " " : "");
    this.strip.replaceChildren(...tokens.flatMap((token, place) => [blank(token), this.#token(token, place)]));
    this.enter();
  }

  #token(token, place) {
    return tokenButton(token, place === this.#selected, token.forced, () => this.#select(place));
  }

  #select(place) {
    this.#selected = this.#selected === place ? -1 : place;
    [...this.strip.children].forEach((button, i) => button.setAttribute("aria-pressed", String(i === this.#selected)));
    this.#next();
  }

  /** Whether the next token is one that the model is about to write; nobody can choose it now. */
  #running() {
    return this.#writing !== null && this.#selected < 0;
  }

  /**
   * Shows the distribution of the selected token's place, or of the next one, and what has `failed` before.
   * The model's own distribution is asked for if temperature, top-p or other options of the run change it.
   */
  async #askNext(signal, failed = "") {
    if (this.#running()) return;
    const place = this.#selected < 0 ? this.#tokens.length : this.#selected;
    if ((!this.#text.trim() && !place) || place === MOST_TOKENS) {
      this.error.replaceChildren(...lines(failed));
      this.#showNext([], place);
      return this.#attend();
    }
    const changed = Object.keys(PLAIN).some((key) => this.#settings[key] !== PLAIN[key]);
    const own = this.run.filtered ? [{ ...PLAIN, plain: true }] : changed ? [PLAIN] : [];
    const asked = [{}, ...own].map((settings) =>
      this.client.ask("generate", { ...this.#body(this.#ids(place), place + 1), ...settings }, signal),
    );
    const outputs = (await Promise.all(asked)).map((answer) => answer.outputs[0]);
    if (this.#running()) return;
    this.error.replaceChildren(...lines(failed, outputs[0].truncated && cutAt("beginning")));
    const [drawn, plain] = outputs.map((output) => output.tokens[place]?.next ?? []);
    this.#showNext(drawn.length ? merged(plain ?? drawn, drawn) : [], place);
    this.#attend();
  }

  #showNone(why) {
    this.title.replaceChildren(why);
    this.candidates.replaceChildren();
  }

  #showNext(next, place) {
    this.#shownPlace = place;
    const chosen = this.#tokens[this.#selected];
    if (!chosen) this.#ended = this.#tokens.length > 0 && next.length === 0;
    const which = chosen ? ["In place of “", el("bdi", { class: "piece" }, piece(chosen.text).text), "”"] : ["Next"];
    const options = this.run.filtered ? "temperature, top-p and the run's other options" : "temperature and top-p";
    const about = [...which, `: the model's probability → after ${options}. Choose one to write it.`];
    const full = `A continuation has at most ${MOST_TOKENS} tokens.`;
    const why = place === MOST_TOKENS ? full : this.#ended ? "The text has ended." : "";
    this.title.replaceChildren(...(next.length ? about : [why]));
    const focused = this.candidates.contains(document.activeElement);
    const choose = (id) => this.#force(next.find((candidate) => candidate.id === id) ?? chosen);
    this.candidates.replaceChildren(distribution(next, chosen, choose, (id) => this.#canForce(id)));
    if (focused) this.candidates.querySelector("button")?.focus();
    this.write.disabled = !this.#writing && (this.#ended || !this.#known(this.#ids(), this.#count(TOKENS_AT_ONCE)));
    this.one.disabled = this.#ended || !this.#known(this.#ids(), this.#count(1));
    [...this.strip.children].forEach((button, i) => (button.disabled = !this.#known(this.#ids(i), i + 1)));
  }

  #canForce(id) {
    const prefix = [...this.#ids(this.#shownPlace), id];
    return this.#known(prefix, prefix.length + 1);
  }

  /** Whether there can be an answer, which only the page with recorded answers restricts. */
  #known(prefix, tokens) {
    return this.client.knows("generate", this.#body(prefix, tokens));
  }

  /** No candidates stay that belong to another text or another place. */
  #failNext(error) {
    this.#showNone("");
    this.#fail(error);
    this.#attend(true); // and no answer comes late
  }

  #fail(error) {
    this.error.replaceChildren(visible(error.message));
    this.attention.hide();
  }
}
