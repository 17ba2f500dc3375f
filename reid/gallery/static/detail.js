// The ranked lists of one crop, or of a picture from outside, one column a model.

import { $, activationOf, ask, attempt, count, describe, el, newest, percent, picture, pictureOf, step } from "/static/page.js";

const SIGNS = { right: "✓", wrong: "✗", junk: "–", unknown: "·" };
const WORDS = { right: "the same person", wrong: "another person", junk: "same person and camera: does not count", unknown: "not labelled" };
const LENGTH = 40;

const root = $("#detail");
const latest = newest();
let shown = null; // the query and its lists
let chosen = -1; // the hit with the focus
let activated = false;
let summary = null;
let listeners = [];

export function prepare(found) {
  summary = found;
}

/** Calls `listener(answer)` whenever another list is shown. */
export const onList = (listener) => listeners.push(listener);
export const current = () => shown;

/** Shows the lists of crop `number`. */
export function open(number) {
  if (shown?.query?.crop === number) return Promise.resolve();
  return attempt(async () => {
    const found = await latest(ask(`/api/list/${number}?count=${LENGTH}`));
    if (!found) return;
    activated = false;
    draw(found);
  });
}

/** Shows lists that the server has given; `preview` is the address of a picture from outside. */
export function draw(found, preview = null) {
  shown = { ...found, preview };
  chosen = -1;
  root.replaceChildren(head(), el("div", { className: `lists of-${found.lists.length}` }, found.lists.map(column)));
  root.hidden = document.body.dataset.view === "labels";
  root.scrollTop = 0;
  listeners.forEach((listener) => listener(shown));
}

export function clear(words) {
  shown = null;
  root.replaceChildren(el("p", { className: "empty" }, words));
}

function head() {
  const { query, preview, lists } = shown;
  const image = el("img", {
    src: preview ?? pictureOf(query.crop, "large"),
    alt: preview ? "the picture that you dropped in" : `query ${query.name}: ${describe(query)}`,
    id: "query-picture",
  });
  const facts = [];
  if (query) {
    facts.push(el("h2", {}, describe(query)), el("p", { className: "name" }, query.name));
    if (query.kind) facts.push(el("p", { className: "pill", "data-kind": query.kind }, query.kind));
  } else {
    facts.push(el("h2", {}, "Your picture"), el("p", {}, `${shown.size[0]} × ${shown.size[1]} pixels`));
  }
  const buttons = el("div", { className: "buttons" });
  if (query) {
    if (summary.models[0].activates)
      buttons.append(el("button", { type: "button", id: "activation", onclick: toggleActivation, title: "a", ariaPressed: "false" }, "Activation map"));
    buttons.append(
      el("button", { type: "button", id: "to-map", onclick: toMap, title: "m" }, "On the map"),
      el("button", { type: "button", id: "to-original", onclick: () => enlarge(query), title: "o" }, "Original"),
    );
  }
  const legend = el(
    "ul",
    { className: "legend", ariaLabel: "Borders" },
    ["right", "wrong", "junk"].map((mark) => el("li", { className: mark }, `${SIGNS[mark]} ${mark === "junk" ? "junk (same camera)" : WORDS[mark]}`)),
  );
  const marked = lists[0].items.some((item) => item.mark !== "unknown");
  return el("div", { className: "head" }, el("figure", { id: "query-figure" }, image), el("div", { className: "facts" }, ...facts, buttons, marked ? legend : null));
}

function column(list, model) {
  const first = list.first === null ? null : `first right at ${count(list.first)}`;
  const scores = [list.ap === null ? null : `AP ${percent(list.ap)} %`, first, list.matches ? `${count(list.matches)} matches` : null];
  const items = el("div", { className: "hits" });
  const node = el(
    "section",
    { className: "list", "data-model": model },
    el("h3", { title: summary.models[model]?.space ?? "" }, list.model),
    el("p", { className: "scores" }, scores.filter(Boolean).join(" · ") || (list.items.some((item) => item.mark === "wrong") ? "no right match in the gallery" : "")),
    items,
  );
  fill(items, list, 0);
  const seen = list.items.length;
  if (list.first_item && list.first_item.place >= seen)
    node.append(el("p", { className: "gap" }, `… the first right one, at rank ${count(list.first)}:`), el("div", { className: "hits" }, hit(list.first_item)));
  if (seen < list.total && shown.query)
    node.append(el("button", { type: "button", className: "more", onclick: (event) => attempt(() => more(event.target, items, list, model)) }, "Show more"));
  if (list.threshold === null && list.note) node.append(el("p", { className: "note" }, list.note));
  else if (list.within > items.querySelectorAll(".hit").length)
    node.append(el("p", { className: "note" }, `The threshold ${list.threshold.toFixed(3)} lies further down: ${list.at_least ? "at least " : ""}${count(list.within)} images are within it.`));
  return node;
}

/** Appends hits, and the threshold where the distances pass it. */
function fill(items, list, before) {
  let within = before;
  for (const item of list.items) {
    if (list.threshold !== null && item.distance > list.threshold && !$(".threshold", items)) {
      items.append(
        el("p", { className: "threshold", title: list.note }, el("span", {}, within || item.place ? `threshold ${list.threshold.toFixed(3)}: beyond this, another person` : `nobody within the threshold ${list.threshold.toFixed(3)}`)),
      );
    }
    within += 1;
    items.append(hit(item));
  }
}

async function more(button, items, list, model) {
  const offset = items.querySelectorAll(".hit").length;
  button.disabled = true; // a second click would append the same again
  try {
    const found = await ask(`/api/list/${shown.query.crop}?offset=${offset}&count=${LENGTH}`);
    fill(items, found.lists[model], offset);
  } finally {
    button.disabled = false;
  }
  if (offset + LENGTH >= list.total - 1) button.remove();
}

function hit(item) {
  const words = `${item.rank === null ? "" : `rank ${item.rank}, `}${WORDS[item.mark]}, ${describe(item)}, distance ${item.distance.toFixed(3)}${item.probability ? `, one person with ${item.probability}` : ""}, ${item.name}`;
  return el(
    "button",
    { type: "button", className: `hit ${item.mark}`, title: words, ariaLabel: words, "data-crop": item.crop, onclick: () => (location.hash = `#queries/${item.crop}`) },
    picture(item, { alt: "" }),
    el("span", { className: "sign", ariaHidden: "true" }, SIGNS[item.mark]),
    el("span", { className: "caption" }, el("b", {}, item.rank === null ? "–" : count(item.rank)), item.camera === null ? "" : `c${item.camera}`, el("i", {}, item.probability ?? item.distance.toFixed(3))),
  );
}

function toggleActivation() {
  const button = $("#activation", root);
  if (!button) return;
  activated = !activated;
  button.ariaPressed = String(activated);
  const figure = $("#query-figure", root);
  figure.querySelectorAll(".activation").forEach((node) => node.remove());
  if (!activated) return;
  shown.lists.forEach((list, model) => {
    figure.append(el("img", { className: "activation", src: activationOf(shown.query.crop, model), alt: `activation map of ${list.model}`, title: list.model }));
  });
}

function toMap() {
  if (shown?.query) location.hash = `#map/${shown.query.crop}`;
}

/** The original, alone; what is wrong with it where it cannot be read. */
export function enlarge(crop) {
  const dialog = $("#original");
  dialog.replaceChildren(
    el("img", { src: pictureOf(crop.crop, "large"), alt: `${crop.name}: ${describe(crop)}` }),
    el("p", {}, `${crop.name} · ${describe(crop)}`),
    el("form", { method: "dialog" }, el("button", { onclick: (event) => (event.preventDefault(), dialog.close()) }, "Close")),
  );
  dialog.showModal();
}

/** Keys of the ranked list, while one of its hits has the focus. */
export function key(event) {
  const hits = [...root.querySelectorAll(".hit")];
  if (event.key === "a") toggleActivation();
  else if (event.key === "m") toMap();
  else if (event.key === "o" && shown?.query) enlarge(shown.query);
  else if (root.contains(document.activeElement) && /^Arrow|^[jk]$/.test(event.key)) {
    const list = [...(document.activeElement.closest(".list") ?? root).querySelectorAll(".hit")];
    chosen = step(list, list.indexOf(document.activeElement), event.key);
    list[chosen]?.focus();
  } else if (event.key === "Enter" && !root.contains(document.activeElement) && hits.length) hits[0].focus();
  else return false;
  return true;
}
