/**
 * Where the heads look: all heads as small maps to choose from, the chosen one as lines and as a map.
 */

import { AttentionLines } from "./attention_lines.js";
import { AttentionMap, shades } from "./attention_map.js";
import { block, el, percent, piece, roving, segments, svg, visible } from "./dom.js";

const KINDS = {
  cross: { label: "decoder to encoder", rows: "target_tokens", columns: "source_tokens" },
  encoder: { label: "encoder", rows: "source_tokens", columns: "source_tokens" },
  decoder: { label: "decoder", rows: "target_tokens", columns: "target_tokens" },
};
const MOST_TOKENS = 64;
const WIDE = 20; // tokens from which on the map gets more room
const NAMED = 3; // tokens that the readout names

export class Attention {
  #answer = null;
  #kind = "";
  #layer = 0;
  #head = 0;

  constructor(run, client) {
    Object.assign(this, { run, client });
    this.kinds = el("div", {});
    this.heads = el("div", { class: "heads", role: "group", "aria-label": "Layers and heads" });
    this.enter = roving(this.heads);
    this.note = el("p", { class: "hint" });
    this.failure = el("p", { class: "error", role: "status" });
    this.readout = el("p", { class: "readout", role: "status" });
    this.lines = new AttentionLines((row, column) => this.#read(row, column));
    this.map = new AttentionMap((row, column) => this.#read(row, column));
    this.table = el("tbody");
    this.words = el(
      "details",
      {},
      el("summary", {}, "The same in words"),
      el(
        "table",
        {},
        el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "token"), el("th", { scope: "col" }, "looks at"))),
        this.table,
      ),
    );
    this.drawings = el(
      "div",
      { class: "attention" },
      el("div", { class: "pick" }, this.kinds, this.heads, this.readout, this.note),
      this.lines.element,
      this.map.element,
    );
    this.element = block("Where the heads look", this.failure, this.drawings, this.words);
    this.element.hidden = true;
  }

  /** Asks for the maps of a text and, of a model that writes one text for another, of its output. */
  async update(text, target, signal) {
    if (!text.trim()) return this.hide();
    const body = { input: text, run: this.run.name };
    if (target) body.target = target;
    try {
      this.#answer = await this.client.ask("attention", body, signal);
    } catch (error) {
      if (!signal.aborted) this.#fail(error.message);
      return;
    }
    const kinds = Object.keys(KINDS).filter((kind) => this.#answer[kind]);
    if (!kinds.length) return this.#fail("A plugin has replaced the attention of this run.");
    this.element.hidden = this.drawings.hidden = this.words.hidden = false;
    this.failure.replaceChildren();
    if (!kinds.includes(this.#kind)) this.#kind = kinds[0];
    this.kinds.replaceChildren(
      kinds.length > 1
        ? segments(
            "Which attention",
            kinds.map((kind) => [kind, KINDS[kind].label]),
            this.#kind,
            (kind) => this.#choose(kind, this.#layer, this.#head),
          )
        : el("p", { class: "hint" }, KINDS[kinds[0]].label),
    );
    this.#show();
  }

  hide() {
    this.element.hidden = true;
  }

  #fail(message) {
    this.failure.replaceChildren(visible(message));
    this.element.hidden = false;
    this.drawings.hidden = this.words.hidden = true;
  }

  #choose(kind, layer, head) {
    [this.#kind, this.#layer, this.#head] = [kind, layer, head];
    this.#show();
  }

  #show() {
    const layers = this.#answer[this.#kind];
    this.#layer = Math.min(this.#layer, layers.length - 1);
    this.#head = Math.min(this.#head, layers[0].length - 1);
    const { weights, rows, columns, cut } = this.#chosen();
    this.rows = rows;
    this.columns = columns;
    this.weights = weights;
    const about = this.#kind === "encoder" ? "" : "A token of the decoder looks where the next token comes from. ";
    this.note.replaceChildren(about, cut ? `The first ${MOST_TOKENS} tokens are drawn.` : "");
    this.drawings.classList.toggle("long", Math.max(rows.length, columns.length) > WIDE);
    this.#showHeads(layers);
    this.lines.show(weights, rows, columns);
    this.map.show(weights, rows, columns, `Layer ${this.#layer + 1}, head ${this.#head + 1}`);
    this.#read(null, null);
    this.table.replaceChildren(
      ...rows.map((token, row) =>
        el("tr", {}, el("th", { scope: "row" }, el("bdi", {}, token)), el("td", {}, el("bdi", {}, this.#looksAt(row)))),
      ),
    );
  }

  /** The weights of the chosen head, with its tokens as people read them. */
  #chosen() {
    const all = this.#answer[this.#kind][this.#layer][this.#head];
    const weights = all.slice(0, MOST_TOKENS).map((row) => row.slice(0, MOST_TOKENS));
    const cut = weights.length < all.length || weights[0].length < all[0].length;
    const named = (role, other, count) => {
      const tokens = [this.#answer[role], this.#answer[other]].find((each) => each?.length >= count) ?? [];
      return Array.from({ length: count }, (_, i) => piece(tokens[i] ?? "").text);
    };
    const { rows, columns } = KINDS[this.#kind];
    const swapped = (role) => (role === "source_tokens" ? "target_tokens" : "source_tokens");
    return {
      weights,
      cut,
      rows: named(rows, swapped(rows), weights.length),
      columns: named(columns, swapped(columns), weights[0].length),
    };
  }

  #showHeads(layers) {
    const focused = this.heads.contains(document.activeElement);
    const buttons = layers.map((heads, layer) =>
      heads.map((weights, head) => {
        const [height, width] = [Math.min(weights.length, MOST_TOKENS), Math.min(weights[0].length, MOST_TOKENS)];
        const thumb = svg(
          "svg",
          { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" },
          ...shades(
            weights.slice(0, height).map((row) => row.slice(0, width)),
            4,
          ),
        );
        return el(
          "button",
          {
            type: "button",
            "aria-label": `Layer ${layer + 1}, head ${head + 1}`,
            title: `Layer ${layer + 1}, head ${head + 1}`,
            "aria-pressed": String(layer === this.#layer && head === this.#head),
            onclick: () => this.#choose(this.#kind, layer, head),
          },
          thumb,
        );
      }),
    );
    const heads = Math.max(...buttons.map((row) => row.length));
    this.heads.style.setProperty("--heads", heads);
    const corner = el("span", { class: "corner", "aria-hidden": "true" }, "layer");
    const top = Array.from({ length: heads }, (_, i) =>
      el("span", { "aria-hidden": "true" }, i ? String(i + 1) : `head 1`),
    );
    this.heads.replaceChildren(
      corner,
      ...top,
      ...buttons.flatMap((row, layer) => [el("span", { "aria-hidden": "true" }, String(layer + 1)), ...row]),
    );
    const pressed = this.heads.querySelector('[aria-pressed="true"]');
    this.enter(pressed);
    if (focused) pressed.focus();
  }

  /** Says in words what is under the pointer or has the focus: a row, a column, or a cell. */
  #read(row, column) {
    if (row !== null && column !== null) {
      this.readout.replaceChildren(
        el("bdi", {}, this.rows[row]),
        " looks at ",
        el("bdi", {}, this.columns[column]),
        `: ${percent(this.weights[row][column])}`,
      );
    } else if (row !== null) {
      this.readout.replaceChildren(el("bdi", {}, this.rows[row]), " looks at ", el("bdi", {}, this.#looksAt(row)));
    } else if (column !== null) {
      const found = top(
        this.weights.map((weights) => weights[column]),
        this.rows,
      );
      this.readout.replaceChildren(el("bdi", {}, this.columns[column]), " is looked at by ", el("bdi", {}, found));
    } else {
      this.readout.replaceChildren(
        `Layer ${this.#layer + 1}, head ${this.#head + 1}. Point at a token or a cell to read its weights.`,
      );
    }
  }

  #looksAt(row) {
    return top(this.weights[row], this.columns);
  }
}

/** The largest weights with their tokens, as one text. */
function top(weights, tokens) {
  const order = weights
    .map((weight, i) => [weight, i])
    .sort(([a], [b]) => b - a)
    .slice(0, NAMED);
  return order
    .filter(([weight]) => weight >= 0.005)
    .map(([weight, i]) => `${visible(tokens[i])} ${percent(weight)}`)
    .join(", ");
}
