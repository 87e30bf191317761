// The page: what is typed, what the server said about it, and what the dial makes of that.
import { models, rewards } from "./api.js";
import { rangeOf, rewardChart, text } from "./draw.js";
import { EXAMPLES } from "./examples.js";
import { MEASURES } from "./risk.js";

const LETTERS = "ABCDEFGH";
const NOTHING = "nothing";
const find = (id) => document.getElementById(id);
const colourOf = (index) => `var(--series-${index + 1})`;
let panels = []; // {choice, responses, rows, wins} of the last scoring
let choices = [];

function made(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function letter(index) {
  return made("span", { class: "letter", style: `color:${colourOf(index)}` }, LETTERS[index]);
}

// ── what is typed

function addResponse(content = "") {
  const area = made("textarea", { rows: 3 });
  area.value = content;
  const remove = made("button", { type: "button" }, "Remove");
  const item = made("li", {}, made("div", { class: "head" }, made("label"), remove), area);
  remove.addEventListener("click", () => {
    const next = item.nextElementSibling ?? item.previousElementSibling;
    item.remove();
    renumber();
    (next?.querySelector("textarea") ?? find("add")).focus();
  });
  find("responses").append(item);
  renumber();
  return area;
}

function renumber() {
  const items = [...find("responses").children];
  items.forEach((item, index) => {
    const [label, area, remove] = ["label", "textarea", "button"].map((name) => item.querySelector(name));
    area.id = `response-${index}`;
    label.htmlFor = area.id;
    label.replaceChildren("Response ", letter(index));
    remove.setAttribute("aria-label", `Remove response ${LETTERS[index]}`);
    remove.disabled = items.length <= 1;
  });
  find("add").disabled = items.length >= LETTERS.length;
}

function showExample(number) {
  const example = EXAMPLES[number];
  find("prompt").value = example.prompt;
  find("responses").replaceChildren();
  example.responses.forEach((each) => addResponse(each));
}

// ── which models

async function readModels() {
  const served = await models(find("key").value);
  choices = served.flatMap((one) => [
    { model: one.name, raw: false, label: one.name },
    ...(one.calibration ? [{ model: one.name, raw: true, label: `${one.name}, uncalibrated` }] : []),
  ]);
  const options = () => choices.map((one, index) => made("option", { value: index }, one.label));
  find("model").replaceChildren(...options());
  find("second").replaceChildren(made("option", { value: NOTHING }, "nothing"), ...options());
  find("second-line").hidden = choices.length < 2;
  find("access").open = false;
}

// ── scoring

async function score() {
  const responses = [...find("responses").querySelectorAll("textarea")].map((area) => area.value);
  const prompt = find("prompt").value;
  const empty = prompt.trim() ? responses.findIndex((each) => !each.trim()) : -2;
  if (empty !== -1) {
    problem(empty === -2 ? "The prompt is empty." : `Response ${LETTERS[empty]} is empty; write one or remove it.`);
    find(empty === -2 ? "prompt" : `response-${empty}`).focus();
    return;
  }
  problem("");
  find("score").disabled = true;
  find("summary").textContent = "Scoring…";
  try {
    if (!choices.length) await readModels();
    const asked = [find("model").value, find("second").value].filter((value) => value !== NOTHING && value !== "");
    const distinct = [...new Set(asked)].map((value) => choices[Number(value)]);
    const key = find("key").value;
    panels = await Promise.all(
      distinct.map(async (choice) => ({ choice, responses, ...(await rewards(choice, prompt, responses, key)) })),
    );
    find("results").hidden = false;
    show();
  } catch (error) {
    find("summary").textContent = "";
    problem(error.message);
  } finally {
    find("score").disabled = false;
  }
}

function problem(words) {
  find("problem").textContent = words;
}

// ── what is shown

function measured() {
  const measure = MEASURES[document.querySelector("input[name=measure]:checked").value];
  const setting = measure.setting(Number(find("dial").value) / 100);
  return { value: (row) => measure.value(row, setting), words: measure.words(setting) };
}

function show() {
  const { value, words } = measured();
  find("dial-value").textContent = words;
  find("dial").setAttribute("aria-valuetext", `A response is worth ${words}`);
  if (!panels.length) return;
  const flat = panels.filter((panel) => panel.rows.every((row) => row.std === 0));
  find("blind").hidden = !flat.length;
  find("blind").textContent = `${flat.map((panel) => panel.choice.label).join(" and ")} gives a number without a spread: caution changes nothing there.`;
  find("panels").replaceChildren(...panels.map((panel) => panelOf(panel, value, words)));
  find("summary").textContent = panels
    .map((panel) => `${panels.length > 1 ? `${panel.choice.label}: ` : ""}${LETTERS[ranked(panel, value)[0].row.index]} ranks first by ${words}.`)
    .join(" ");
}

function ranked(panel, value) {
  return panel.rows.map((row) => ({ row, worth: value(row) })).sort((a, b) => b.worth - a.worth);
}

function panelOf(panel, value, words) {
  const order = ranked(panel, value);
  const range = rangeOf(panel.rows, order.map(({ worth }) => worth));
  const items = order.map(({ row, worth }, place) => {
    const [low, high] = [row.quantiles[10], row.quantiles.at(-11)];
    const spread = row.std > 0 ? ` · mean ${text(row.mean)} ± ${text(row.std)} · 90 % within ${text(low)} … ${text(high)}` : "";
    const label = `Response ${LETTERS[row.index]}: mean ${text(row.mean)}, standard deviation ${text(row.std)}; worth ${text(worth)}, ${words}`;
    return made(
      "li",
      { "data-response": LETTERS[row.index] },
      made("div", { class: "head" }, made("span", { class: "rank" }, `${place + 1}.`), letter(row.index),
        made("span", { class: "text", title: panel.responses[row.index] }, panel.responses[row.index]),
        made("span", { class: "value" }, text(worth))),
      rewardChart(row, worth, range, colourOf(row.index), label),
      made("p", { class: "facts" }, `${row.tokens} tokens${row.truncated ? ", not all read" : ""}${spread}`),
    );
  });
  const parts = [made("h3", {}, panel.choice.label), made("ol", { class: "ranking", "aria-label": `Ranking by ${panel.choice.label}` }, ...items)];
  if (panel.rows.length > 1) parts.push(matrixOf(panel));
  return made("div", { class: "panel" }, ...parts);
}

function matrixOf({ wins, choice }) {
  const heads = wins.map((_, index) => made("th", { scope: "col" }, letter(index)));
  const body = wins.map((row, i) =>
    made("tr", {}, made("th", { scope: "row" }, letter(i)), ...row.map((p) => {
      if (p === null) return made("td", { class: "same" }, "–");
      const strength = Math.round(140 * Math.max(0, p - 0.5));
      return made("td", { style: `background:color-mix(in srgb, var(--win) ${strength}%, transparent)${p > 0.8 ? ";font-weight:600" : ""}` }, `${Math.round(100 * p)} %`);
    })),
  );
  const caption = made("caption", {}, "P(row is better than column)");
  const table = made("table", {}, caption, made("thead", {}, made("tr", {}, made("td", { class: "same" }), ...heads)), made("tbody", {}, ...body));
  return made("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Win probabilities by ${choice.label}` }, table);
}

// ── events

find("form").addEventListener("submit", (event) => {
  event.preventDefault();
  score();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) score();
});
find("add").addEventListener("click", () => addResponse().focus());
find("example").addEventListener("change", (event) => showExample(Number(event.target.value)));
find("dial").addEventListener("input", show);
for (const each of document.querySelectorAll("input[name=measure]")) each.addEventListener("change", show);
find("key").addEventListener("change", () => readModels().then(() => problem(""), (error) => problem(error.message)));

find("example").append(...EXAMPLES.map((each, index) => made("option", { value: index }, each.name)));
showExample(0);
show();
readModels().catch((error) => {
  problem(error.message);
  find("access").open = true;
});
