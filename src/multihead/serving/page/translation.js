/**
 * The panel of a run that translates or summarizes: the output, the other candidates, the tokens, the attention.
 */

import { Attention } from "./attention.js";
import { latest } from "./client.js";
import { differing } from "./difference.js";
import { bar, block, cutAt, el, labelled, lines, visible } from "./dom.js";
import { TokenStrip } from "./tokens.js";

const BEAMS = [1, 2, 4, 8];

const NOTHING = { text: "", candidates: [], tokens: [] };

export class TranslationPanel {
  #text = "";
  #prefix = [];
  #beams = 4;
  #answer = "";

  /** `onanswer` is called with each new output, and with "" while there is none of the text. */
  constructor(run, client, verb, onanswer) {
    Object.assign(this, { run, client, verb, onanswer });
    this.output = el("p", { class: "output", dir: "auto", "aria-live": "polite" });
    this.error = el("p", { class: "error", role: "status" });
    this.release = el(
      "button",
      { type: "button", class: "quiet", hidden: true, onclick: () => this.#force([]) },
      "Let the model choose again",
    );
    this.list = el("ol", { class: "candidates-list" });
    this.strip = new TokenStrip(
      (prefix) => this.#force(prefix),
      (prefix) => client.knows(verb, this.#body(this.#beams, prefix)),
    );
    this.attention = new Attention(run, client);
    this.#ask = latest(
      (signal) => this.#answerText(signal),
      (error) => this.#fail(error),
    );
    this.beams = el(
      "select",
      { onchange: (event) => this.#search(Number(event.target.value)) },
      ...BEAMS.map((count) => el("option", { value: count, selected: count === this.#beams }, String(count))),
    );
    this.parts = [
      block(verb === "translate" ? "Translation" : "Summary", this.output, this.release, this.error),
      block(
        "Best candidates",
        this.list,
        el(
          "div",
          { class: "below" },
          labelled("Beams", this.beams),
          el("span", { class: "hint" }, "Score: log probability, normalised by length"),
        ),
      ),
      block("Token by token", this.strip.element),
      this.attention.element,
    ];
  }

  #ask;

  /** Answers a new text. */
  update(text) {
    this.#text = text;
    this.#prefix = [];
    this.onanswer("");
    this.#ask();
  }

  /** Marks the words of the output that the other panel's output does not have. */
  compareWith(other) {
    const words = differing(this.#answer, other);
    this.output.replaceChildren(
      ...words.map(({ text, differs }) => (differs ? el("mark", {}, visible(text)) : visible(text))),
    );
  }

  #force(prefix) {
    this.#prefix = prefix;
    this.#ask();
  }

  #search(beams) {
    this.#beams = beams;
    this.#ask();
  }

  #body(beams, prefix) {
    const body = {
      inputs: this.#text,
      run: this.run.name,
      num_beams: beams,
      num_return_sequences: beams,
      details: true,
    };
    return prefix.length ? { ...body, prefix } : body;
  }

  async #answerText(signal) {
    this.output.setAttribute("aria-busy", "true");
    const body = this.#body(this.#beams, this.#prefix);
    const { outputs } = this.#text.trim() ? await this.client.ask(this.verb, body, signal) : { outputs: [NOTHING] };
    const output = outputs[0];
    this.#show(output);
    if (!output.text) return this.attention.hide(); // without a target, the server takes another output
    await this.attention.update(this.#text, output.text, signal);
  }

  #show({ text, candidates, tokens, truncated }) {
    this.output.removeAttribute("aria-busy");
    this.error.replaceChildren(...lines(truncated && cutAt("end")));
    this.#answer = text;
    this.output.replaceChildren(visible(text));
    this.release.hidden = this.#prefix.length === 0;
    for (const option of this.beams.options)
      option.disabled = !this.client.knows(this.verb, this.#body(Number(option.value), this.#prefix));
    const best = Math.max(...candidates.map(({ score }) => score));
    this.list.replaceChildren(
      ...candidates.map((candidate) =>
        el(
          "li",
          {},
          el("bdi", {}, visible(candidate.text)),
          bar(Math.exp(candidate.score - best), "thin"),
          el("span", { class: "share" }, candidate.score.toFixed(3)),
        ),
      ),
    );
    this.strip.show(tokens, this.#prefix.length);
    this.onanswer(text);
  }

  #fail(error) {
    this.#show(NOTHING);
    this.attention.hide();
    this.error.replaceChildren(visible(error.message));
  }
}
