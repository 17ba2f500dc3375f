// The grid of queries, worst first, and the filters above it.

import { $, ask, attempt, count, describe, el, newest, percent, picture, signed, step } from "/static/page.js";
import * as detail from "/static/detail.js";

const PAGE = 60;
const SIGNS = { found: "✓", "label suspect": "⚑", "occluded or tiny": "◐", "no match near": "∅", "look-alike first": "≈", "not judged": "–" };
const ORDERS = { worst: "worst first", best: "best first", gained: "gained most first", lost: "lost most first", name: "by name" };

const root = $("#queries");
const latest = newest();
let summary, grid, total, form;
let items = [];
let at = -1;

export function prepare(found) {
  summary = found;
  const cameras = found.cameras.map((camera) => [camera, `camera ${camera + 1}`]);
  const orders = Object.entries(ORDERS).filter(([order]) => (found.judged || order === "name") && (found.comparison || !/gained|lost/.test(order)));
  form = el(
    "form",
    { className: "filters", onsubmit: (event) => (event.preventDefault(), list()) },
    field("text", "Name or id", el("input", { type: "search", placeholder: "/  name, or “id 12”", autocomplete: "off", spellcheck: false })),
    cameras.length > 1 ? field("camera", "Query's camera", choice([["", "any camera"], ...cameras])) : null,
    cameras.length > 1 && found.pairs.length ? field("other", "Gallery's camera", choice([["", "any camera"], ...cameras])) : null,
    found.judged ? field("kind", "How it went", choice([["", "any"], ...Object.entries(found.kinds).map(([kind, number]) => [kind, `${SIGNS[kind] ?? ""} ${kind} (${count(number)})`])])) : null,
    field("order", "Order", choice(orders)),
    found.judged ? range() : null,
  );
  form.addEventListener("input", soon);
  total = el("p", { className: "total", role: "status" });
  grid = el("div", { className: "grid", role: "listbox", ariaLabel: "Queries", tabIndex: 0 });
  const end = el("div", { className: "end" });
  root.replaceChildren(
    ...[found.comparison ? comparison(found) : null, form, found.pairs.length > 1 ? cameraPairs(found) : null, total, grid, end].filter(Boolean),
  );
  new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && items.length && attempt(append), { root, rootMargin: "400px" }).observe(end);
  return list();
}

const choice = (pairs) => el("select", {}, pairs.map(([value, words]) => el("option", { value }, words)));

function field(name, words, control) {
  control.name = name;
  return el("label", { className: `field ${name}` }, el("span", {}, words), control);
}

function range() {
  const bound = (name, value, words) => el("input", { type: "number", name, min: 0, max: 100, step: "any", value, ariaLabel: words });
  return el("fieldset", { className: "field range" }, el("legend", {}, "AP in %"), bound("low", 0, "AP from, in percent"), "to", bound("high", 100, "AP up to, in percent"), el("button", { type: "button", id: "clear", onclick: () => set({}) }, "Clear filters"));
}

let waiting;
function soon() {
  clearTimeout(waiting);
  waiting = setTimeout(() => attempt(list), 120);
}

function wanted() {
  const values = new FormData(form);
  const query = new URLSearchParams();
  for (const [name, value] of values) {
    if (value === "") continue;
    query.set(name, name === "low" || name === "high" ? Number(value) / 100 : value);
  }
  return query;
}

/** The list from its beginning, as the filters are set. */
async function list() {
  const query = wanted();
  query.set("count", PAGE);
  const found = await latest(ask(`/api/queries?${query}`));
  if (!found) return;
  items = [];
  at = -1;
  grid.replaceChildren();
  total.textContent = `${count(found.total)} of ${count(summary.queries)} ${summary.judged ? "queries" : "images"}`;
  total.dataset.total = found.total;
  add(found.items);
  const open = detail.current()?.query;
  const number = open ? items.findIndex((item) => item.crop === open.crop) : -1;
  if (number >= 0) mark(number);
  else if (items.length && !open && !/\/\d+$/.test(location.hash)) choose(0, false);
  if (!items.length) grid.append(el("p", { className: "empty" }, "No query is left by these filters."));
}

let appending = false;
async function append() {
  if (appending || items.length >= Number(total.dataset.total)) return;
  appending = true;
  try {
    const query = wanted();
    query.set("count", PAGE);
    query.set("offset", items.length);
    const asked = items;
    const found = await ask(`/api/queries?${query}`);
    if (asked === items) add(found.items);
  } finally {
    appending = false;
  }
}

function add(found) {
  for (const item of found) {
    const number = items.push(item) - 1;
    const ap = item.ap === null ? "" : `${percent(item.ap)}`;
    const change = item.other_ap !== null && item.ap !== null ? el("i", { className: item.ap >= item.other_ap ? "gain" : "loss" }, signed(item.ap - item.other_ap)) : null;
    const words = [describe(item), item.kind, ap && `AP ${ap} %`, item.first ? `first right at ${item.first}` : "", item.name].filter(Boolean).join(", ");
    grid.append(
      el(
        "div",
        { className: "card", id: `query-${item.crop}`, role: "option", title: words, ariaLabel: words, "data-crop": item.crop, "data-kind": item.kind, onclick: () => choose(number) },
        picture(item, { alt: "" }),
        el("span", { className: "sign", ariaHidden: "true" }, SIGNS[item.kind] ?? ""),
        el("span", { className: "caption" }, ap ? el("b", {}, ap) : el("b", {}, item.pid ?? ""), change ?? ` ${item.camera === null ? "" : `c${item.camera}`}`),
      ),
    );
  }
}

function mark(number, scroll = true) {
  grid.querySelector("[aria-selected=true]")?.setAttribute("aria-selected", "false");
  at = number;
  const card = grid.children[number];
  card?.setAttribute("aria-selected", "true");
  grid.setAttribute("aria-activedescendant", card?.id ?? "");
  if (scroll) card?.scrollIntoView({ block: "nearest" });
}

function choose(number, focus = true) {
  mark(number, focus);
  if (focus) grid.focus({ preventScroll: true });
  if (document.body.dataset.view === "queries") history.replaceState(null, "", `#queries/${items[number].crop}`);
  return detail.open(items[number].crop);
}

/** Shows a crop, wherever it was clicked. */
export function show(crop) {
  const number = items.findIndex((item) => item.crop === crop);
  if (number >= 0) mark(number);
  else grid.querySelector("[aria-selected=true]")?.setAttribute("aria-selected", "false");
  return detail.open(crop);
}

export function key(event) {
  if (event.key === "/") form.elements.text.focus();
  else if (/^Arrow|^[jk]$/.test(event.key)) {
    const number = step([...grid.querySelectorAll(".card")], at, event.key);
    if (number >= 0 && number !== at) choose(number);
    if (number > items.length - 12) attempt(append);
  } else return false;
  return true;
}

function set(values) {
  form.reset();
  for (const [name, value] of Object.entries(values)) form.elements[name].value = value;
  attempt(list);
}

/** Mean average precision by the query's camera and the gallery's: click a cell to see its queries. */
function cameraPairs(found) {
  const cell = new Map(found.pairs.map((pair) => [`${pair.camera},${pair.other}`, pair]));
  const others = [...new Set(found.pairs.map((pair) => pair.other))].sort((a, b) => a - b);
  const rows = [...new Set(found.pairs.map((pair) => pair.camera))].sort((a, b) => a - b);
  const worst = Math.min(...found.pairs.map((pair) => pair.ap));
  const best = Math.max(...found.pairs.map((pair) => pair.ap));
  const drawn = (camera, other) => {
    const pair = cell.get(`${camera},${other}`);
    if (!pair) return el("td", {}, "");
    const shade = best > worst ? Math.round((8 * (best - pair.ap)) / (best - worst)) : 0;
    const words = `from camera ${camera + 1} to camera ${other + 1}: mean AP ${percent(pair.ap)} % of ${pair.queries} queries`;
    return el("td", { className: `shade-${shade}` }, el("button", { type: "button", title: words, ariaLabel: words, onclick: () => set({ camera, other }) }, (100 * pair.ap).toFixed(0)));
  };
  return el(
    "details",
    { className: "pairs" },
    el("summary", {}, "Mean AP by camera pair"),
    el(
      "table",
      {},
      el("thead", {}, el("tr", {}, el("th", {}, "from \\ to"), others.map((other) => el("th", { scope: "col" }, `${other + 1}`)))),
      el("tbody", {}, rows.map((camera) => el("tr", {}, el("th", { scope: "row" }, `${camera + 1}`), others.map((other) => drawn(camera, other))))),
    ),
  );
}

function comparison(found) {
  const { better, worse, equal, mean, low, high, winners, losers } = found.comparison;
  const interval = low === null ? "" : ` (95 %: ${signed(low)} to ${signed(high)})`;
  const strip = (words, some, order) =>
    some.length
      ? el(
          "div",
          { className: "changes" },
          el("button", { type: "button", onclick: () => set({ order }) }, words),
          some.map((one) => el("button", { type: "button", className: "small", title: `${describe(one)}: ${signed(one.change)} points`, onclick: () => (location.hash = `#queries/${one.crop}`) }, picture(one), el("i", { className: one.change > 0 ? "gain" : "loss" }, signed(one.change)))),
        )
      : null;
  return el(
    "section",
    { className: "comparison", ariaLabel: "Two models compared" },
    el("p", {}, el("b", {}, found.models[0].name), " against ", el("b", {}, found.models[1].name)),
    el("p", {}, el("b", { className: mean >= 0 ? "gain" : "loss" }, `${signed(mean)} points of mAP`), interval),
    el("p", {}, `better on ${count(better)} queries, worse on ${count(worse)}, equal on ${count(equal)}`),
    el("details", {}, el("summary", {}, "Biggest gains and losses"), strip("All, most gained first", winners, "gained"), strip("All, most lost first", losers, "lost")),
  );
}
