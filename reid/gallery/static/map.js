// The map of the features: a canvas that is dragged, zoomed and clicked.

import { $, ask, count, describe, el, newest, picture } from "/static/page.js";
import * as detail from "/static/detail.js";

const root = $("#map");
const latest = newest();
let summary, canvas, status, points, tip;
let method = "pca";
let colouring = "identity";
let zoom = { scale: 1, x: 0, y: 0 };
let lit = new Map(); // crop -> how it stands in the open list

export function prepare(found) {
  summary = found;
  canvas = el("canvas", { role: "img", ariaLabel: "Map of the features, one point a crop", tabIndex: 0 });
  tip = el("div", { className: "tip", hidden: true });
  status = el("p", { className: "total", role: "status" });
  const options = (name, entries, now, change) =>
    el("fieldset", { className: "field" }, el("legend", {}, name), entries.map(([value, words]) => el("label", {}, el("input", { type: "radio", name, value, checked: value === now, onchange: () => change(value) }), words)));
  const colours = [["identity", "identity"], ...(found.cameras.length > 1 ? [["camera", "camera"]] : [])];
  root.replaceChildren(
    el(
      "div",
      { className: "filters" },
      options("Map", [["pca", "PCA"], ["tsne", "t-SNE"]], method, (value) => ((method = value), loaded())),
      options("Colour", colours, colouring, (value) => ((colouring = value), draw())),
      el("button", { type: "button", onclick: () => ((zoom = { scale: 1, x: 0, y: 0 }), draw()) }, "Whole map"),
    ),
    status,
    el("div", { className: "plane" }, canvas, tip),
  );
  new ResizeObserver(draw).observe(canvas);
  canvas.addEventListener("wheel", wheel, { passive: false });
  canvas.addEventListener("pointerdown", down);
  canvas.addEventListener("pointermove", hover);
  canvas.addEventListener("pointerleave", () => (tip.hidden = true));
  detail.onList(light);
}

export function show(crop) {
  if (!points) loaded();
  if (crop !== null && detail.current()?.query?.crop !== crop) return detail.open(crop);
  draw();
  return null;
}

export function leave() {
  tip.hidden = true;
}

/** Why there is no map stands where the count would. */
const loaded = () => load().catch((error) => (status.textContent = error.message));

async function load() {
  const mine = method;
  status.textContent = mine === "pca" ? "projecting …" : "t-SNE is being computed; the PCA stays until it is there …";
  const found = await latest(ask(`/api/map/${mine}`));
  if (!found || mine !== method) return;
  if (!found.ready) {
    setTimeout(() => mine === method && loaded(), 700);
    return;
  }
  points = found;
  zoom = { scale: 1, x: 0, y: 0 };
  const part = found.crops.length < found.of ? `${count(found.crops.length)} of ${count(found.of)} crops` : `${count(found.of)} crops`;
  status.textContent = `${part}${found.queries ? ", queries as squares" : ""}. Click a point for its list.`;
  status.dataset.method = mine;
  light(detail.current());
}

/** Marks the crop whose list is open, and its nearest. */
function light(shown) {
  lit = new Map();
  for (const item of shown?.lists[0].items.slice(0, 20) ?? []) lit.set(item.crop, item.mark);
  if (shown?.query) lit.set(shown.query.crop, "query");
  draw();
}

// Twelve hues of equal lightness, dealt out so that numbers that follow each other look apart.
const hue = (number) => `hsl(${(number * 137.5) % 360} 62% ${number % 2 ? 42 : 56}%)`;
const MARKS = { query: "#1457a8", right: "#1a7f45", wrong: "#c0392b", junk: "#666", unknown: "#333" };

const place = (number, box) => [
  (points.x[number] - 0.5) * (box.width - 40) * zoom.scale + box.width / 2 + zoom.x,
  (points.y[number] - 0.5) * (box.height - 40) * zoom.scale + box.height / 2 + zoom.y,
];

function draw() {
  if (!points || root.hidden) return;
  const box = canvas.getBoundingClientRect();
  const ratio = devicePixelRatio || 1;
  canvas.width = Math.round(box.width * ratio);
  canvas.height = Math.round(box.height * ratio);
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  const radius = points.crops.length > 8000 ? 1.8 : 3;
  const colours = colouring === "camera" ? points.cameras : points.pids;
  const dim = lit.size > 0;
  const late = [];
  points.crops.forEach((crop, number) => {
    const [x, y] = place(number, box);
    if (lit.has(crop)) return late.push([crop, x, y]);
    pen.globalAlpha = dim ? 0.45 : 0.8;
    pen.fillStyle = colours[number] === -1 ? "#777" : hue(colours[number]);
    if (crop < points.queries) pen.fillRect(x - radius, y - radius, 2 * radius, 2 * radius);
    else {
      pen.beginPath();
      pen.arc(x, y, radius, 0, 7);
      pen.fill();
    }
  });
  pen.globalAlpha = 1;
  for (const [crop, x, y] of late) {
    const mark = lit.get(crop);
    pen.lineWidth = 2.5;
    pen.strokeStyle = MARKS[mark];
    pen.fillStyle = "#fff";
    pen.beginPath();
    pen.arc(x, y, mark === "query" ? 9 : 6, 0, 7);
    pen.fill();
    pen.stroke();
    if (mark === "wrong") cross(pen, x, y);
    if (mark === "query") {
      pen.fillStyle = MARKS.query;
      pen.beginPath();
      pen.arc(x, y, 4, 0, 7);
      pen.fill();
    }
  }
}

function cross(pen, x, y) {
  pen.beginPath();
  for (const side of [-1, 1]) {
    pen.moveTo(x - 3, y - 3 * side);
    pen.lineTo(x + 3, y + 3 * side);
  }
  pen.stroke();
}

/** The number of the point under the pointer, -1 where there is none. */
function under(event) {
  if (!points) return -1;
  const box = canvas.getBoundingClientRect();
  let best = 12 ** 2;
  let found = -1;
  points.crops.forEach((_, number) => {
    const [x, y] = place(number, box);
    const far = (x - event.clientX + box.left) ** 2 + (y - event.clientY + box.top) ** 2;
    if (far < best) [best, found] = [far, number];
  });
  return found;
}

function wheel(event) {
  event.preventDefault();
  const box = canvas.getBoundingClientRect();
  nearer(Math.exp(-event.deltaY / 300), event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2);
  draw();
}

/** Zooms by `wanted` around a place, counted from the middle. */
function nearer(wanted, x, y) {
  const factor = Math.min(60, Math.max(1, zoom.scale * wanted)) / zoom.scale;
  zoom = { scale: zoom.scale * factor, x: x - (x - zoom.x) * factor, y: y - (y - zoom.y) * factor };
}

function down(event) {
  const begin = { x: event.clientX, y: event.clientY, zoom };
  canvas.setPointerCapture(event.pointerId);
  const drag = (move) => {
    zoom = { ...begin.zoom, x: begin.zoom.x + move.clientX - begin.x, y: begin.zoom.y + move.clientY - begin.y };
    draw();
  };
  const up = (end) => {
    canvas.removeEventListener("pointermove", drag);
    if (Math.hypot(end.clientX - begin.x, end.clientY - begin.y) > 4) return;
    zoom = begin.zoom;
    const number = under(end);
    if (number >= 0) location.hash = `#map/${points.crops[number]}`;
  };
  canvas.addEventListener("pointermove", drag);
  canvas.addEventListener("pointerup", up, { once: true });
}

let over = -1;
function hover(event) {
  const number = event.buttons ? -1 : under(event);
  tip.hidden = number < 0;
  if (number < 0) return;
  if (number !== over) {
    over = number;
    const crop = { crop: points.crops[number], name: "", pid: points.pids[number] === -1 ? null : points.pids[number], camera: points.cameras[number] === -1 ? null : points.cameras[number] + 1 };
    tip.replaceChildren(picture(crop, { alt: "" }), el("span", {}, describe(crop)));
  }
  const box = canvas.getBoundingClientRect();
  tip.style.left = `${Math.min(event.clientX - box.left + 14, box.width - 90)}px`;
  tip.style.top = `${Math.min(event.clientY - box.top + 14, box.height - 150)}px`;
}

/** Arrows move the map, + and - bring it nearer. */
export function key(event) {
  const [x, y] = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] }[event.key] ?? [0, 0];
  if ("+-".includes(event.key)) nearer(event.key === "+" ? 1.4 : 1 / 1.4, 0, 0);
  else if (x || y) zoom = { ...zoom, x: zoom.x + x, y: zoom.y + y };
  else return false;
  draw();
  return true;
}
