/**
 * One head as lines: at the left the tokens that look, at the right those that are looked at.
 */

import { el, roving, svg } from "./dom.js";

const ROW = 26; // height of a token in pixels; style.css has the same
const FAINT = 0.04; // a weight below is not drawn

export class AttentionLines {
  #weights = [];
  #pinned = null;

  /** `onread` is called with a row or a column, the other of which is null; both are null if nothing is pointed at. */
  constructor(onread) {
    this.onread = onread;
    this.left = el("div", { class: "ends left", role: "group", "aria-label": "Tokens that look" });
    this.right = el("div", { class: "ends right", role: "group", "aria-label": "Tokens that are looked at" });
    this.enter = [roving(this.left), roving(this.right)];
    this.drawing = svg("svg", { "aria-hidden": "true", preserveAspectRatio: "none" });
    this.element = el(
      "div",
      { class: "lines" },
      el("span", { class: "hint" }, "token"),
      el("span"),
      el("span", { class: "hint" }, "looks at"),
      this.left,
      this.drawing,
      this.right,
    );
  }

  show(weights, rows, columns) {
    this.#weights = weights;
    this.#pinned = null;
    const height = ROW * Math.max(rows.length, columns.length);
    this.drawing.setAttribute("viewBox", `0 0 100 ${height}`);
    this.drawing.style.blockSize = `${height}px`;
    this.left.replaceChildren(...rows.map((token, i) => this.#end(token, i, null)));
    this.right.replaceChildren(...columns.map((token, i) => this.#end(token, null, i)));
    this.enter.forEach((enter) => enter());
    this.#draw(null, null);
  }

  #end(token, row, column) {
    const point = () => this.#point(row, column);
    const leave = () => (this.#pinned ? this.#point(...this.#pinned) : this.#point(null, null));
    return el(
      "button",
      {
        type: "button",
        "aria-pressed": "false",
        onpointerenter: point,
        onpointerleave: leave,
        onfocus: point,
        onblur: leave,
        onclick: (event) => this.#pin(event.currentTarget, row, column),
      },
      el("bdi", {}, token),
    );
  }

  #pin(button, row, column) {
    const same = this.#pinned && this.#pinned[0] === row && this.#pinned[1] === column;
    this.#pinned = same ? null : [row, column];
    for (const each of this.element.querySelectorAll("button")) each.setAttribute("aria-pressed", "false");
    button.setAttribute("aria-pressed", String(!same));
    this.#point(row, column);
  }

  #point(row, column) {
    this.#draw(row, column);
    this.onread(row, column);
  }

  /** Draws the lines of a row or of a column, or all of them; the tokens at their ends are shaded. */
  #draw(row, column) {
    const paths = [];
    const shade = (buttons, weight) =>
      [...buttons.children].forEach((button, i) =>
        button.style.setProperty("--weight", `${Math.round(weight(i) * 100)}%`),
      );
    this.#weights.forEach((weights, i) =>
      weights.forEach((weight, j) => {
        if (weight < FAINT || (row !== null && row !== i) || (column !== null && column !== j)) return;
        const [from, to] = [(i + 0.5) * ROW, (j + 0.5) * ROW];
        paths.push(
          svg("path", {
            d: `M0 ${from}C45 ${from} 55 ${to} 100 ${to}`,
            "stroke-opacity": (0.1 + 0.9 * weight).toFixed(3),
            "stroke-width": (0.75 + 2.5 * weight).toFixed(2),
          }),
        );
      }),
    );
    this.drawing.replaceChildren(...paths);
    shade(this.left, (i) => (column !== null ? this.#weights[i][column] : Number(row === i)));
    shade(this.right, (j) => (row !== null ? this.#weights[row][j] : Number(column === j)));
  }
}
