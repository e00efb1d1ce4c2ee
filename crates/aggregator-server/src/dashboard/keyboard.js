// Keys of the whole page. A view adds its own while it is shown.

import { h } from "./dom.js";

const always = [
  ["1 … 5", "show a view"],
  ["/", "search"],
  ["j, k", "next, previous row"],
  ["Enter", "open the row"],
  ["space", "pause or go on with the live tail"],
  ["Esc", "close"],
  ["?", "this help"],
];

/** `actions` maps a key to what it does. A key in a field of text belongs to the field. */
export function listen(actions) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const inField = event.target.matches?.("input, textarea, select");
    if (inField && event.key === "Escape") {
      event.target.blur();
      return;
    }
    const onControl = event.target.matches?.("button, a, summary") && (event.key === " " || event.key === "Enter");
    if (inField || onControl || document.querySelector("dialog[open]")) return;
    if (actions(event.key)) event.preventDefault();
  });
}

export function helpKeys() {
  return always.flatMap(([keys, meaning]) => [h("dt", {}, h("kbd", {}, keys)), h("dd", {}, meaning)]);
}

/** Moves the selection among the rows `[data-row]` of a table. */
export function moveRow(root, step) {
  const rows = [...root.querySelectorAll("[data-row]")];
  if (rows.length === 0) return;
  const at = rows.indexOf(document.activeElement);
  const next = rows[at < 0 ? (step > 0 ? 0 : rows.length - 1) : Math.min(Math.max(at + step, 0), rows.length - 1)];
  next.focus();
}
