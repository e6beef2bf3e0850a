/**
 * One head as a map: a row for each token that looks, a column for each token that is looked at.
 */

import { el, svg } from "./dom.js";

const CELL = 26; // pixels
const ROOM = 92; // pixels for the tokens beside and above the map
const LONGEST = 12; // characters of a token

export class AttentionMap {
  #size = [0, 0];
  #cursor = null;

  /** `onread` is called with the row and the column of a cell; both are null if none is pointed at. */
  constructor(onread) {
    this.onread = onread;
    this.cursor = svg("rect", { class: "cursor", width: CELL, height: CELL, visibility: "hidden" });
    this.drawing = svg("svg", { role: "img" });
    this.element = el(
      "div",
      {
        class: "map",
        tabindex: 0,
        role: "application",
        "aria-label": "Attention map: the arrow keys move from cell to cell",
        onkeydown: (event) => this.#key(event),
        onblur: () => this.#move(null),
        onpointermove: (event) => this.#point(event),
        onpointerleave: () => this.#move(null),
        onpointerdown: (event) => this.#point(event),
      },
      this.drawing,
    );
  }

  show(weights, rows, columns, name) {
    const [height, width] = (this.#size = [rows.length, columns.length]);
    const box = [ROOM + width * CELL, ROOM + height * CELL];
    this.drawing.setAttribute("viewBox", `0 0 ${box[0]} ${box[1]}`);
    this.drawing.setAttribute("aria-label", `${name}, ${height} by ${width} tokens`);
    this.drawing.style.inlineSize = `${box[0]}px`;
    this.drawing.style.minInlineSize = `${ROOM + width * CELL * 0.5}px`;
    const cells = svg(
      "g",
      { transform: `translate(${ROOM} ${ROOM}) scale(${CELL})` },
      svg("rect", { class: "ground", width, height }),
      ...shades(weights, 12),
    );
    const label = (token) => (token.length > LONGEST ? `${token.slice(0, LONGEST - 1)}…` : token);
    const beside = rows.map((token, i) =>
      svg("text", { x: ROOM - 8, y: ROOM + (i + 0.5) * CELL, class: "row" }, label(token)),
    );
    const above = columns.map((token, j) =>
      svg(
        "text",
        { transform: `translate(${ROOM + (j + 0.5) * CELL} ${ROOM - 8}) rotate(-90)`, class: "column" },
        label(token),
      ),
    );
    this.drawing.replaceChildren(cells, ...beside, ...above, this.cursor);
    this.#cursor = null;
    this.cursor.setAttribute("visibility", "hidden");
  }

  #key(event) {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    const [row, column] = this.#cursor ? this.#cursor.map((place, i) => place + step[i]) : [0, 0];
    const within = (place, size) => Math.max(0, Math.min(size - 1, place));
    this.#move([within(row, this.#size[0]), within(column, this.#size[1])]);
  }

  #point(event) {
    const box = this.drawing.getBoundingClientRect();
    const scale = (ROOM + this.#size[1] * CELL) / box.width;
    const place = (pixels) => Math.floor((pixels * scale - ROOM) / CELL);
    const cell = [place(event.clientY - box.top), place(event.clientX - box.left)];
    const inside = cell.every((at, i) => at >= 0 && at < this.#size[i]);
    this.#move(inside ? cell : null);
  }

  #move(cell) {
    if (cell?.join() === this.#cursor?.join()) return;
    this.#cursor = cell;
    this.cursor.setAttribute("visibility", cell ? "visible" : "hidden");
    if (cell) {
      this.cursor.setAttribute("x", ROOM + cell[1] * CELL);
      this.cursor.setAttribute("y", ROOM + cell[0] * CELL);
    }
    this.onread(...(cell ?? [null, null]));
  }
}

/** Weights as shapes of a unit a cell, one path for each of `steps` shades, so that long texts stay quick to draw. */
export function shades(weights, steps) {
  const cells = Array.from({ length: steps + 1 }, () => []);
  weights.forEach((row, y) =>
    row.forEach((weight, x) => {
      cells[Math.round(Math.min(1, weight) * steps)].push(`M${x} ${y}h1v1h-1z`);
    }),
  );
  return cells.flatMap((paths, step) =>
    step && paths.length
      ? [svg("path", { class: "shade", d: paths.join(""), "fill-opacity": (step / steps).toFixed(3) })]
      : [],
  );
}
