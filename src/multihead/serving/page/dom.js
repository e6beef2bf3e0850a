/**
 * Builds elements. Text of users and models enters the page through this file only, and only as text nodes.
 */

const SVG = "http://www.w3.org/2000/svg";

/**
 * An HTML element. A property `onclick` adds a listener; any other is an attribute, left out if it is false or null.
 * Children are nodes or texts.
 */
export function el(tag, properties = {}, ...children) {
  return filled(document.createElement(tag), properties, children);
}

/** An SVG element, with the arguments of `el`. */
export function svg(tag, properties = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), properties, children);
}

function filled(node, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** A part of a panel: a heading, and what stands below it. */
export function block(title, ...children) {
  return el("section", { class: "block" }, el("h3", { class: "eyebrow" }, title), ...children);
}

/** What is not empty of some texts, each on a line of its own. */
export function lines(...texts) {
  return texts.filter(Boolean).flatMap((text, i) => [i ? el("br") : "", visible(text)]);
}

/** What the page says of an input whose end or beginning was cut. */
export function cutAt(end, which = "The text") {
  return `${which} is longer than the model reads, so its ${end} was cut.`;
}

/** A control with its label. */
export function labelled(text, control) {
  return el("label", { class: "control" }, el("span", {}, text), control);
}

/** A group of buttons of which one is pressed: `choices` are [value, label] pairs. */
export function segments(name, choices, chosen, onchoose) {
  const buttons = choices.map(([value, label]) =>
    el("button", { type: "button", "aria-pressed": String(value === chosen), onclick: () => choose(value) }, label),
  );
  function choose(value) {
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(choices[i][0] === value)));
    onchoose(value);
  }
  return el("div", { class: "segments", role: "group", "aria-label": name }, ...buttons);
}

/**
 * Makes a group of buttons one stop of the Tab key: arrow keys, Home and End move inside it.
 * The listener stays; call it once for each group, and `enter` after each change of its buttons.
 */
export function roving(group) {
  const buttons = () => [...group.querySelectorAll("button:not([disabled])")];
  const enter = (current = buttons()[0]) =>
    buttons().forEach((button) => button.setAttribute("tabindex", button === current ? "0" : "-1"));
  group.addEventListener("focusin", (event) => enter(event.target));
  group.addEventListener("keydown", (event) => {
    const all = buttons(),
      at = all.indexOf(document.activeElement);
    const steps = {
      ArrowRight: at + 1,
      ArrowDown: at + 1,
      ArrowLeft: at - 1,
      ArrowUp: at - 1,
      Home: 0,
      End: all.length - 1,
    };
    const next = all[steps[event.key]];
    if (!next) return;
    event.preventDefault();
    next.focus();
  });
  return enter;
}

/** Characters that change what stands around them, or that cannot be seen: controls, and marks of direction. */
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g;

/** A text in which unseen characters have a sign: ESC becomes ␛, a mark of direction becomes ⟨202E⟩. */
export function visible(text) {
  return text.replace(UNSEEN, (character) => {
    const code = character.codePointAt(0);
    return code < 32 ? String.fromCodePoint(0x2400 + code) : `⟨${code.toString(16).toUpperCase().padStart(4, "0")}⟩`;
  });
}

/** A token as people read it, and whether it begins a word. The server writes a blank as ▁. */
export function piece(text) {
  const begins = text.startsWith("▁");
  const rest = text.replace(/^▁/, "").replaceAll("▁", " ");
  return { begins, text: visible(rest) || "␣" };
}

/** A share as a percentage: 0.973 is 97 %; less than half a percent is <1 %. */
export function percent(share) {
  const rounded = Math.round(share * 100);
  return rounded === 0 && share > 0 ? "<1 %" : rounded === 100 && share < 1 ? ">99 %" : `${rounded} %`;
}

/** A thin bar as long as a share. */
export function bar(share, kind = "") {
  const inner = el("span");
  inner.style.inlineSize = `${Math.max(0, Math.min(1, share)) * 100}%`;
  return el("span", { class: `bar ${kind}`, "aria-hidden": "true" }, inner);
}
