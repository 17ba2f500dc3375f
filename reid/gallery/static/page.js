// What all views share: elements, questions to the server, pictures, words.

export const $ = (css, root = document) => root.querySelector(css);

/** An element. Strings become text, never markup: names of files may hold anything. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key in node) node[key] = value;
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

export async function ask(path, options = {}) {
  const answer = await fetch(path, options);
  const found = answer.headers.get("content-type")?.includes("json") ? await answer.json() : {};
  if (!answer.ok) {
    const detail = typeof found.detail === "string" ? found.detail : `the server answered ${answer.status}`;
    throw new Error(detail);
  }
  return found;
}

let fading;
/** A line at the bottom of the page for some seconds. */
export function say(words) {
  const line = $("#message");
  line.textContent = words;
  line.hidden = false;
  clearTimeout(fading);
  fading = setTimeout(() => (line.hidden = true), 6000);
}

/** Runs `work` and shows what goes wrong with it. */
export const attempt = (work) => work().catch((error) => say(error.message));

const version = document.body.dataset.version;
export const pictureOf = (crop, size = "small") => `/crop/${crop}?size=${size}&v=${version}`;
export const activationOf = (crop, model) => `/activation/${crop}?model=${model}&v=${version}`;

export const percent = (value) => (value === null || value === undefined ? "–" : (100 * value).toFixed(1));
export const signed = (value) => `${value >= 0 ? "+" : "−"}${Math.abs(100 * value).toFixed(1)}`;
export const count = (value) => value.toLocaleString("en");

/** Who is on a crop, in words: for captions and for readers of the screen. */
export function describe(crop) {
  const who = crop.pid === null ? "" : `id ${crop.pid}`;
  const where = crop.camera === null ? "" : `camera ${crop.camera}`;
  return [who, where].filter(Boolean).join(", ") || crop.name;
}

export const picture = (crop, more = {}) =>
  el("img", { src: pictureOf(crop.crop), alt: `${crop.name}: ${describe(crop)}`, loading: "lazy", ...more });

/** What was asked first may be answered last: only the newest answer of a place counts. */
export function newest() {
  let number = 0;
  return async (question) => {
    const mine = ++number;
    const answer = await question;
    return mine === number ? answer : null;
  };
}

/** Moves a choice through the children of a grid; columns are counted on the screen. */
export function step(items, at, key) {
  if (!items.length) return -1;
  const top = items[0].offsetTop;
  let columns = items.findIndex((item) => item.offsetTop !== top);
  if (columns < 1) columns = items.length;
  const by = { ArrowRight: 1, j: 1, ArrowLeft: -1, k: -1, ArrowDown: columns, ArrowUp: -columns }[key];
  const next = at < 0 ? 0 : at + by;
  return next >= 0 && next < items.length ? next : at;
}
