/**
 * The panel of a run that classifies: the classes with their probabilities, the words that moved them, the attention.
 */

import { Attention } from "./attention.js";
import { latest } from "./client.js";
import { bar, block, cutAt, el, lines, percent, visible } from "./dom.js";

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
      (error) => this.#fail(error),
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
    const body = { inputs: this.#text, run: this.run.name, occlusion: true };
    const [output, why] = this.#text.trim() ? await this.#withWords(body, signal) : [NOTHING, ""];
    const which = this.#text.includes("\t") ? "A text" : "The text"; // of a pair, each is cut by itself
    this.error.replaceChildren(...lines(why, output.truncated && cutAt("end", which)));
    this.#show(output);
    await this.attention.update(this.#text, "", signal);
  }

  /** The output, and why it has no words: the question is repeated without them if the text has too many. */
  async #withWords(body, signal) {
    try {
      return [(await this.client.ask("classify", body, signal)).outputs[0], ""];
    } catch (error) {
      if (error.status !== 422) throw error;
      const { outputs } = await this.client.ask("classify", { ...body, occlusion: false }, signal);
      return [outputs[0], error.message];
    }
  }

  /** Nothing stays that belongs to another text. */
  #fail(error) {
    this.#show(NOTHING);
    this.attention.hide();
    this.error.replaceChildren(visible(error.message));
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
