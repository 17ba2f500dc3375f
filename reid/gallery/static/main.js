// Which view is open, by the address after #, and what the keys do.

import { $, ask, attempt, count, el, percent } from "/static/page.js";
import * as detail from "/static/detail.js";
import * as labels from "/static/labels.js";
import * as map from "/static/map.js";
import * as queries from "/static/queries.js";
import * as search from "/static/search.js";

const VIEWS = { queries, map, labels, search };
const KEYS = [
  ["1 2 3 4", "queries, map, labels, search"],
  ["← ↑ → ↓  j k", "the next or the previous one"],
  ["/", "filter by name or id"],
  ["Enter", "into the ranked list; on a picture: its own list"],
  ["+ −", "on the map: nearer, farther; arrows move it"],
  ["Esc", "back to the queries, out of a field"],
  ["a", "activation map of the query"],
  ["m", "the query on the map"],
  ["o", "the original picture"],
  ["c  r  u", "labels: confirm, reject, undo"],
  ["?", "this help"],
];
let view = "queries";

function route() {
  const [name, crop] = location.hash.slice(1).split("/");
  const number = /^\d+$/.test(crop ?? "") ? Number(crop) : null;
  if (view === "map") map.leave();
  view = name in VIEWS ? name : "queries";
  document.body.dataset.view = view;
  for (const each of Object.keys(VIEWS)) $(`#${each}`).hidden = each !== view;
  $("#detail").hidden = view === "labels";
  document.querySelectorAll("nav a").forEach((link) => link.setAttribute("aria-current", link.dataset.view === view ? "page" : "false"));
  if (view === "queries" && number === null) return;
  attempt(async () => VIEWS[view].show(number));
}

/** What each model is, in the words of its card. */
function cards(models) {
  const dialog = $("#cards");
  dialog.replaceChildren(
    ...models.map((model) => el("pre", {}, model.card || `${model.name}: the model itself is not here.`)),
    el("button", { type: "button", onclick: () => dialog.close() }, "Close"),
  );
  dialog.showModal();
  dialog.scrollTop = 0; // the button, which has the focus, stands below
}

function help() {
  const dialog = $("#keys");
  if (!dialog.children.length)
    dialog.append(
      el("h2", {}, "Keys"),
      el("dl", {}, KEYS.flatMap(([keys, words]) => [el("dt", {}, keys), el("dd", {}, words)])),
      el("button", { type: "button", onclick: () => dialog.close() }, "Close"),
    );
  dialog.showModal();
}

function key(event) {
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.key === "Escape") {
    document.activeElement?.blur();
    if (view === "queries") $("#queries .grid")?.focus({ preventScroll: true });
    return;
  }
  if (typing) {
    if (event.key === "Enter" && event.target.name === "text") $("#queries .grid").focus({ preventScroll: true });
    return;
  }
  const number = "1234".indexOf(event.key);
  let done = true;
  if (event.key === "?") help();
  else if (number >= 0) location.hash = `#${Object.keys(VIEWS)[number]}`;
  else if (event.key === "Enter" && /^(BUTTON|A|SUMMARY)$/.test(event.target.tagName)) return;
  else done = (view !== "labels" && detail.key(event)) || VIEWS[view].key(event);
  if (done) event.preventDefault();
}

attempt(async () => {
  const summary = await ask("/api/summary");
  const { models } = summary;
  const scores = Object.entries(models[0].scores).map(([name, value]) => `${name} ${percent(value)} %`);
  const sizes = summary.judged ? `${count(summary.queries)} queries in ${count(summary.gallery)} images` : `${count(summary.gallery)} images`;
  $("#title").title = `${summary.title}: ${models[0].space}`;
  $("#title").append(el("span", {}, [sizes, ...scores].join(" · ")));
  $("#notes").hidden = !summary.notes.length;
  $("#notes").textContent = summary.notes.join(" ");
  detail.prepare(summary);
  for (const each of [map, labels, search]) each.prepare(summary);
  $("#help").addEventListener("click", help);
  $("#about").addEventListener("click", () => cards(models));
  addEventListener("keydown", key);
  addEventListener("hashchange", route);
  const listed = queries.prepare(summary);
  route();
  await listed;
  document.body.dataset.ready = "yes";
});
