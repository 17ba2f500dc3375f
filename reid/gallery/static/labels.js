// The labels that the model doubts: pair by pair, to confirm or to reject.

import { $, ask, attempt, count, describe, el, picture, pictureOf } from "/static/page.js";

const RIGHT = "labels right";

const root = $("#labels");
let items = null;
let file = "";
let where = "";
let places = [];
let at = 0;
let chosen = "";
let list, pane, counts, filters;

export function prepare(found) {
  places = found.labels;
  where = places[0];
  list = el("div", { className: "rows", role: "listbox", ariaLabel: "Doubted pairs", tabIndex: 0 });
  pane = el("div", { className: "pair" });
  counts = el("p", { className: "total", role: "status" });
  filters = el("div", { className: "choices" });
  root.replaceChildren(el("div", { className: "left" }, counts, filters, list), pane);
}

export function show() {
  if (!where) pane.replaceChildren(el("p", { className: "empty" }, "Nothing here has labels."));
  else if (!items) loaded();
}

/** Why there is nothing to show stands where the count would. */
const loaded = () => load().catch((error) => (counts.textContent = error.message));

async function load() {
  const mine = where;
  const found = await ask(`/api/suspects?where=${encodeURIComponent(where)}`);
  if (mine !== where) return;
  if (!found.ready) {
    counts.textContent = `looking for labels that the model doubts … ${found.state}`;
    setTimeout(() => mine === where && loaded(), 700);
    return;
  }
  [items, file, at] = [found.items, found.file, 0];
  tell();
  draw();
}

function tell() {
  const rejected = items.filter((item) => item.verdict === RIGHT).length;
  const confirmed = items.filter((item) => item.verdict).length - rejected;
  counts.textContent = `${count(items.length)} pairs: ${count(confirmed)} confirmed, ${count(rejected)} rejected, ${count(items.length - confirmed - rejected)} to look at`;
  Object.assign(counts.dataset, { confirmed, rejected });
}

const state = (item) => (!item.verdict ? "" : item.verdict === RIGHT ? "rejected" : "confirmed");
const sign = (item) => ({ confirmed: "⚑", rejected: "✓" })[state(item)] ?? "";

function choice(name, words, entries, now, change) {
  const select = el("select", { name, onchange: (event) => change(event.target.value) }, entries.map(([value, text]) => el("option", { value, selected: value === now }, text)));
  return el("label", { className: "field" }, el("span", {}, words), select);
}

const kinds = () => [...new Set((items ?? []).map((item) => item.kind))];
const listed = () => (items ?? []).filter((item) => !chosen || item.kind === chosen);

function draw() {
  const some = listed();
  filters.replaceChildren(
    places.length > 1 ? choice("where", "Among", places.map((place) => [place, place]), where, (value) => ((where = value), (items = null), list.replaceChildren(), pane.replaceChildren(), loaded())) : "",
    choice("suspect", "What is in question", [["", "everything"], ...kinds().map((kind) => [kind, kind])], chosen, (value) => ((chosen = value), (at = 0), draw())),
  );
  list.replaceChildren(
    ...some.map((item, number) =>
      el(
        "div",
        { className: "row", role: "option", "data-pair": item.pair, "data-state": state(item), onclick: () => look(number) },
        picture(item.first, { alt: "" }),
        picture(item.second, { alt: "" }),
        el("span", {}, `${describe(item.first)} — ${describe(item.second)}`),
        el("b", { className: "state", title: item.verdict }, sign(item)),
      ),
    ),
  );
  if (some.length) look(Math.min(at, some.length - 1));
  else pane.replaceChildren(el("p", { className: "empty" }, "The model doubts no label here."));
}

function look(number) {
  at = number;
  const item = listed()[number];
  list.querySelector("[aria-selected=true]")?.setAttribute("aria-selected", "false");
  const row = list.querySelectorAll(".row")[number];
  row?.setAttribute("aria-selected", "true");
  row?.scrollIntoView({ block: "nearest" });
  const side = (crop) =>
    el("figure", {}, el("button", { type: "button", title: "its ranked list", onclick: () => (location.hash = `#queries/${crop.crop}`) }, el("img", { src: pictureOf(crop.crop, "large"), alt: `${crop.name}: ${describe(crop)}` })), el("figcaption", {}, el("b", {}, describe(crop)), el("span", { className: "name" }, crop.name)));
  pane.replaceChildren(
    el("h2", {}, item.kind),
    el("p", {}, `distance ${item.distance.toFixed(3)}`),
    el("div", { className: "two" }, side(item.first), side(item.second)),
    el(
      "div",
      { className: "buttons" },
      el("button", { type: "button", id: "confirm", title: "c", ariaPressed: String(state(item) === "confirmed"), onclick: () => give("confirm") }, `⚑ Confirm: ${item.confirmed}`),
      el("button", { type: "button", id: "reject", title: "r", ariaPressed: String(state(item) === "rejected"), onclick: () => give("reject") }, `✓ Reject: ${RIGHT}`),
      item.verdict ? el("button", { type: "button", id: "undo", title: "u", onclick: () => give("undo") }, "Undo") : null,
    ),
    el("p", { className: "note" }, `Verdicts are written to ${file}; dataset.corrections=<that file> applies them in training and in reid.data.check.`),
  );
}

function give(answer) {
  const item = listed()[at];
  const row = list.querySelectorAll(".row")[at];
  return attempt(async () => {
    const body = JSON.stringify({ where, pair: item.pair, answer });
    const found = await ask("/api/verdicts", { method: "POST", headers: { "Content-Type": "application/json" }, body });
    item.verdict = found.verdict;
    tell();
    row.dataset.state = state(item);
    $(".state", row).textContent = sign(item);
    // Whoever is faster than the disk looks at another pair by now.
    if (item === listed()[at]) look(answer === "undo" ? at : Math.min(at + 1, listed().length - 1));
  });
}

export function key(event) {
  const by = { j: 1, ArrowDown: 1, ArrowRight: 1, k: -1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
  const some = listed();
  if (!some.length) return false;
  if (by) look(Math.max(0, Math.min(some.length - 1, at + by)));
  else if (event.key === "c") give("confirm");
  else if (event.key === "r") give("reject");
  else if (event.key === "u") give("undo");
  else if (event.key === "Enter") location.hash = `#queries/${some[at].first.crop}`;
  else return false;
  return true;
}
