/**
 * The panel of a run that classifies: the classes with their probabilities, the words that moved them, the attention.
 */

import { Attention } from "./attention.js";
import { latest } from "./client.js";
import { bar, block, el, percent, visible } from "./dom.js";

const NOTHING = { label: null, probabilities: {}, words: [] };

export class ClassesPanel {
  #text = "";

  constructor(run, client) {
    Object.assign(this, { run, client });
    this.error = el("p", { class: "error", role: "status" });
    this.classes = el("ol", { class: "classes", "aria-live": "polite" });
    this.legend = el("p", { class: "hint" });
    this.words = el("p", { class: "words", dir: "auto" });
    this.attention = new Attention(run, client);
    this.#ask = latest(
      (signal) => this.#classify(signal),
      (error) => this.error.replaceChildren(visible(error.message)),
    );
    this.parts = [
      block("Classes", this.classes, this.error),
      block("Words that moved it", this.words, this.legend),
      this.attention.element,
    ];
  }

  #ask;

  update(text) {
    this.#text = text;
    this.#ask();
  }

  compareWith() {}

  async #classify(signal) {
    this.error.replaceChildren();
    const body = { inputs: this.#text, run: this.run.name, occlusion: true };
    const { outputs } = this.#text.trim() ? await this.#withWords(body, signal) : { outputs: [NOTHING] };
    this.#show(outputs[0]);
    await this.attention.update(this.#text, "", signal);
  }

  /** Asks without the words if the text has too many of them. */
  async #withWords(body, signal) {
    try {
      return await this.client.ask("classify", body, signal);
    } catch (error) {
      if (error.status !== 422) throw error;
      const answer = await this.client.ask("classify", { ...body, occlusion: false }, signal);
      this.error.replaceChildren(visible(error.message));
      return answer;
    }
  }

  #show({ label, labels, probabilities, words }) {
    const ordered = Object.entries(probabilities).sort(([, a], [, b]) => b - a);
    this.classes.replaceChildren(
      ...ordered.map(([name, probability]) =>
        el(
          "li",
          { class: (labels ?? [label]).includes(name) ? "chosen" : "" },
          el("bdi", {}, visible(name)),
          bar(probability),
          el("span", { class: "share" }, exact(probability)),
        ),
      ),
    );
    this.#showWords(label, words ?? []);
  }

  #showWords(label, words) {
    const most = Math.max(1e-9, ...words.map(({ effect }) => Math.abs(effect)));
    this.words.replaceChildren(
      ...words.flatMap(({ text, effect }) => {
        const kind = Math.abs(effect ?? 0) < 0.005 ? "word" : effect > 0 ? "word for" : "word against";
        const word = el(
          "span",
          { class: kind },
          el("bdi", {}, visible(text)),
          el("span", { class: "share" }, signed(effect)),
        );
        word.style.setProperty("--strength", `${Math.round((Math.abs(effect) / most) * 100)}%`);
        return [word, " "];
      }),
    );
    const legend =
      label === null || !words.length
        ? []
        : [
            "Without the word, the probability of ",
            el("bdi", { class: "piece" }, visible(label)),
            " falls by this much (+) or rises (−), in percentage points.",
          ];
    this.legend.replaceChildren(...legend);
  }
}

function exact(probability) {
  return probability > 0.995 || probability < 0.005 ? percent(probability) : `${(probability * 100).toFixed(1)} %`;
}

function signed(effect) {
  if (effect === null) return "–";
  const points = Math.round(effect * 100);
  return points === 0 ? "0" : points > 0 ? `+${points}` : `−${-points}`;
}
