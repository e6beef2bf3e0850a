/**
 * The page: which runs are asked, what is typed, and a panel for each run.
 */

import { ClassesPanel } from "./classes.js";
import { connect, Refused } from "./client.js";
import { ContinuationPanel } from "./continuation.js";
import { el, segments, visible } from "./dom.js";
import { TranslationPanel } from "./translation.js";

const $ = (id) => document.getElementById(id);
const VIEWS = {
  translate: { label: "Translate", input: "Sentence" },
  summarize: { label: "Summarize", input: "Text" },
  generate: { label: "Continue", input: "Beginning" },
  classify: { label: "Classify", input: "Text" },
};
const EXAMPLES = 5;
const RECORDED =
  "These answers were recorded: choose an example. With a run of yours, multihead show run=RUN answers what you type.";

let client,
  runs,
  panels = [],
  verb = "",
  typed = false;

async function start() {
  try {
    client ??= await connect();
    runs = (await client.runs()).filter((run) => viewsOf(run).length);
  } catch (error) {
    return error instanceof Refused && error.status === 401 ? askForToken() : notice(error.message);
  }
  if (!runs.length) return notice("No run of this server translates, summarizes, continues or classifies.");
  notice(client.recorded ? RECORDED : "");
  $("run").replaceChildren(...runs.map(optionOf));
  $("run").onchange = chooseRun;
  $("beside").onchange = build;
  $("text").oninput = () => {
    typed = $("text").value !== "";
    update();
  };
  $("text").readOnly = client.recorded;
  document.querySelector(".input").hidden = false;
  chooseRun();
}

const viewsOf = (run) => run.verbs.filter((each) => each in VIEWS);
const runNamed = (name) => runs.find((run) => run.name === name);
const optionOf = (run) => el("option", { value: run.name }, visible(run.name));

function notice(text) {
  $("notice").replaceChildren(visible(text));
  $("notice").hidden = !text;
}

function askForToken() {
  notice(sessionStorage.getItem("token") ? "The server refused this token." : "");
  $("token-form").hidden = false;
  $("token").focus();
  $("token-form").onsubmit = (event) => {
    event.preventDefault();
    sessionStorage.setItem("token", $("token").value);
    $("token-form").hidden = true;
    start();
  };
}

/** Shows what the chosen run can do, and which runs can stand beside it. */
function chooseRun() {
  const run = runNamed($("run").value),
    views = viewsOf(run);
  verb = views.includes(verb) ? verb : views[0];
  $("verbs").hidden = views.length < 2;
  $("verbs").replaceChildren(
    segments(
      "What the model does",
      views.map((each) => [each, VIEWS[each].label]),
      verb,
      (chosen) => {
        verb = chosen;
        chooseBeside(run);
      },
    ),
  );
  chooseBeside(run);
}

function chooseBeside(run) {
  const chosen = $("beside").value;
  const others = runs.filter((other) => other !== run && other.verbs.includes(verb));
  $("beside").replaceChildren(el("option", { value: "" }, "none"), ...others.map(optionOf));
  $("beside").value = others.some((other) => other.name === chosen) ? chosen : "";
  $("beside-label").hidden = others.length === 0;
  build();
}

/** Makes the panels, and fills the text with the run's first example if it is empty. */
function build() {
  const chosen = [runNamed($("run").value), runNamed($("beside").value)].filter(Boolean);
  const answers = chosen.map(() => "");
  const made = chosen.map((run, i) =>
    panelOf(run, (answer) => {
      if (!answer && !answers[i]) return;
      answers[i] = answer; // "" while there is none of the text: answers to different texts are not compared
      if (made.length !== 2) return;
      made.forEach((panel, j) => panel.compareWith(answers.every(Boolean) ? answers[1 - j] : ""));
    }),
  );
  panels = made; // those before may still get an answer, and compare it among themselves
  $("panels").classList.toggle("two", panels.length === 2);
  $("panels").replaceChildren(...panels.map((panel, i) => frame(chosen[i], panel.parts)));
  $("input-label").replaceChildren(VIEWS[verb].input);
  showExamples(chosen[0].examples);
  update();
}

function panelOf(run, onanswer) {
  if (verb === "generate") return new ContinuationPanel(run, client);
  if (verb === "classify") return new ClassesPanel(run, client);
  return new TranslationPanel(run, client, verb, onanswer);
}

function frame(run, parts) {
  const sizes = [
    counted(run.num_layers, "layer"),
    counted(run.num_heads, "head"),
    `${millions(run.parameters)} parameters`,
  ];
  return el(
    "section",
    { class: "panel" },
    el("h2", {}, el("bdi", {}, visible(run.name)), el("span", { class: "facts" }, sizes.join(" · "))),
    ...parts,
  );
}

function counted(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

function millions(count) {
  return count >= 1e6 ? `${(count / 1e6).toFixed(1)} million` : count.toLocaleString("en");
}

function showExamples(examples) {
  const shown = examples.slice(0, EXAMPLES);
  $("examples").hidden = shown.length === 0;
  $("examples").replaceChildren(
    ...shown.map((example) =>
      el(
        "button",
        { type: "button", class: "example", onclick: () => choose(example) },
        el("bdi", {}, visible(example)),
      ),
    ),
  );
  if (shown.length && !typed) $("text").value = shown[0];
}

function choose(example) {
  typed = false;
  $("text").value = example;
  update();
}

function update() {
  for (const panel of panels) panel.update($("text").value);
}

/** Light or dark: what the system says, until somebody chooses. */
function colours() {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const chosen = () => localStorage.getItem("theme") ?? (system.matches ? "dark" : "light");
  const show = () => {
    document.documentElement.dataset.theme = chosen();
    $("theme").setAttribute("aria-pressed", String(chosen() === "dark"));
  };
  system.addEventListener("change", show);
  $("theme").onclick = () => {
    localStorage.setItem("theme", chosen() === "dark" ? "light" : "dark");
    show();
  };
  show();
}

start();
colours();
