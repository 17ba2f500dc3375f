// Search by a picture: chosen, pasted, or dropped anywhere on the page.

import { $, ask, attempt, el, say } from "/static/page.js";
import * as detail from "/static/detail.js";

const MOST = 20 * 2 ** 20;
const root = $("#search");
let preview = null;
let status;

export function prepare(found) {
  const can = found.models.some((model) => model.searches);
  status = el("p", { className: "total", role: "status" });
  const input = el("input", { type: "file", accept: "image/*", id: "picture", onchange: (event) => send(event.target.files[0]) });
  root.replaceChildren(
    can
      ? el("label", { className: "drop" }, el("b", {}, "Drop in a picture of one person"), el("span", {}, "or paste it, or choose a file. It stays on this machine."), input)
      : el("p", { className: "empty" }, "The index is open without its model: give the checkpoint too, and pictures can be searched for."),
    status,
  );
  if (!can) return;
  for (const kind of ["dragenter", "dragover"]) addEventListener(kind, (event) => (event.preventDefault(), document.body.classList.add("dragged")));
  addEventListener("dragleave", (event) => event.relatedTarget === null && document.body.classList.remove("dragged"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dragged");
    send(event.dataTransfer.files[0]);
  });
  addEventListener("paste", (event) => send([...event.clipboardData.files][0]));
}

function send(file) {
  if (!file) return;
  location.hash = "#search";
  if (file.size > MOST) {
    say("more than 20 MiB: too large for a picture of a person");
    return;
  }
  status.textContent = "searching …";
  attempt(async () => {
    try {
      const found = await ask("/api/search", { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } });
      if (preview) URL.revokeObjectURL(preview);
      preview = URL.createObjectURL(file);
      detail.draw(found, preview);
      status.textContent = verdict(found.lists[0]);
    } catch (error) {
      status.textContent = `${file.name}: ${error.message}`;
    }
  });
}

function verdict(list) {
  if (list.threshold === null) return "";
  if (!list.within) return "Nobody in this gallery, says the threshold.";
  return `${list.at_least ? "At least " : ""}${list.within} images are within the threshold.`;
}

export function show() {
  if (detail.current()?.query) detail.clear("The list of your picture will stand here.");
}

export const key = (event) => {
  if (event.key !== "/" && event.key !== "Enter") return false;
  $("#picture")?.click();
  return true;
};
