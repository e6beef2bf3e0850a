/**
 * Tokens with their probabilities. Each is a button that shows which tokens could stand in its place.
 */

import { bar, el, percent, piece, roving } from "./dom.js";

/**
 * A row of tokens and, below it, the candidates for the selected one.
 *
 * `onforce` is called with the ids of the output up to the place, with the chosen candidate in it.
 */
export class TokenStrip {
  #tokens = [];
  #forced = 0;
  #selected = -1;
  #strip = el("div", { class: "strip", role: "group", "aria-label": "Tokens and their probabilities" });
  #candidates = el("div", { class: "candidates", "aria-live": "polite" });
  #enter = roving(this.#strip);

  /** `canForce` says whether a list of ids can be forced, which only the page with recorded answers restricts. */
  constructor(onforce, canForce) {
    Object.assign(this, { onforce, canForce });
    roving(this.#candidates);
    this.element = el("div", { class: "tokens" }, this.#strip, this.#candidates);
  }

  /** Shows tokens, of which the first `forced` were forced. The selected place stays selected if it still exists. */
  show(tokens, forced = 0) {
    this.#tokens = tokens ?? [];
    this.#forced = forced;
    if (this.#selected >= this.#tokens.length) this.#selected = -1;
    const focused = this.element.contains(document.activeElement);
    this.#strip.replaceChildren(...this.#tokens.map((token, place) => this.#token(token, place)));
    this.#enter(this.#strip.children[Math.max(0, this.#selected)]);
    this.#showCandidates();
    if (focused) this.#strip.children[Math.max(0, this.#selected)]?.focus();
  }

  #token(token, place) {
    return tokenButton(token, place === this.#selected, place < this.#forced, () => this.#select(place));
  }

  #select(place) {
    this.#selected = this.#selected === place ? -1 : place;
    [...this.#strip.children].forEach((button, i) => button.setAttribute("aria-pressed", String(i === this.#selected)));
    this.#showCandidates();
  }

  #showCandidates() {
    const token = this.#tokens[this.#selected];
    if (!token) {
      const hint = "Select a token to see what else the model considered.";
      this.#candidates.replaceChildren(el("p", { class: "hint" }, this.#tokens.length ? hint : ""));
      return;
    }
    const before = this.#tokens.slice(0, this.#selected).map((each) => each.id);
    this.#candidates.replaceChildren(
      el(
        "p",
        { class: "hint" },
        "Instead of “",
        el("bdi", { class: "piece" }, piece(token.text).text),
        "” the model could write one of these. Choose one to force it.",
      ),
      distribution(
        token.next ?? [],
        token,
        (id) => this.onforce([...before, id]),
        (id) => this.canForce([...before, id]),
      ),
    );
  }
}

/** A token as a button, with a bar for its probability. Its name is its text, also what only screen readers say. */
export function tokenButton(token, selected, forced, onclick) {
  const { begins, text } = piece(token.text);
  const kind = ["token", begins && "begins", forced && "forced", token.probability < 0.5 && "unsure"];
  return el(
    "button",
    {
      type: "button",
      class: kind.filter(Boolean).join(" "),
      "aria-pressed": String(selected),
      onclick,
    },
    el("bdi", { class: "piece" }, text),
    bar(token.probability),
    el("span", { class: "share" }, " ", percent(token.probability)),
    forced ? el("span", { class: "unseen" }, " forced") : null,
  );
}

/**
 * Candidates with bars. A candidate with `drawn` has a second bar: its probability after all options.
 *
 * Args: candidates `[{id, text, probability, drawn?}]`; the token that was chosen, which comes last if it is not among
 * them; what happens when one is clicked; whether the candidate of an id can be clicked, which only the page with
 * recorded answers restricts.
 */
export function distribution(candidates, chosen, onchoose, possible) {
  const missing = chosen && !candidates.some(({ id }) => id === chosen.id);
  const buttons = (missing ? [...candidates, chosen] : candidates).map((candidate) => {
    const button = candidateButton(candidate, candidate.id === chosen?.id, () => onchoose(candidate.id));
    button.disabled = !possible(candidate.id);
    return el("li", {}, button);
  });
  return el("ol", { class: "distribution" }, ...buttons);
}

/**
 * The model's own candidates, each with its probability after all options as `drawn`. A candidate that is not among
 * those that may be drawn has 0, if these are all.
 */
export function merged(plain, drawn) {
  const after = new Map(drawn.map(({ id, probability }) => [id, probability]));
  const rest = drawn.length < plain.length ? 0 : undefined;
  return plain.map((candidate) => ({ ...candidate, drawn: after.get(candidate.id) ?? rest }));
}

function candidateButton({ text, probability, drawn }, chosen, onclick) {
  const after = drawn === undefined ? "" : ` → ${drawn === 0 ? "never" : percent(drawn)}`;
  return el(
    "button",
    {
      type: "button",
      class: chosen ? "candidate chosen" : "candidate",
      onclick,
    },
    el("bdi", { class: "piece" }, piece(text).text),
    el("span", { class: "bars" }, bar(probability, after ? "model" : ""), after ? bar(drawn) : null),
    el("span", { class: "share" }, " ", percent(probability), after),
    chosen ? el("span", { class: "unseen" }, " chosen") : null,
  );
}
