// Small drawings. Each has its figures as text, too: for screen readers, and where there is no colour.

import { h, svg } from "./dom.js";

const WIDTH = 240, HEIGHT = 44;

/** A line over time. `values` may have holes (`null`). `describe` says the values in words. */
export function sparkline(values, describe, tone = "accent") {
  const known = values.filter((value) => value !== null);
  const top = Math.max(...known, 0) || 1;
  const x = (at) => (values.length < 2 ? WIDTH : (at / (values.length - 1)) * WIDTH);
  const y = (value) => HEIGHT - 3 - (value / top) * (HEIGHT - 8);
  let line = "", area = "", start = null;
  values.forEach((value, at) => {
    if (value === null) {
      start = null;
      return;
    }
    const point = `${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
    line += `${start === null ? "M" : "L"}${point}`;
    if (start === null) start = at;
    if (at === values.length - 1 || values[at + 1] === null) {
      const points = values.slice(start, at + 1).map((v, n) => `L${x(start + n).toFixed(1)} ${y(v).toFixed(1)}`).join("");
      area += `M${x(start).toFixed(1)} ${HEIGHT}${points}L${x(at).toFixed(1)} ${HEIGHT}Z`;
    }
  });
  return svg("svg", {
    class: `spark ${tone}`, viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img",
    "aria-label": describe,
  },
  svg("path", { class: "area", d: area || "M0 0" }),
  svg("path", { class: "line", d: line || "M0 0", "vector-effect": "non-scaling-stroke" }));
}

/** Rows of a label, a bar and a figure. Each row is `[label, value, text, tone]`. */
export function bars(rows, title) {
  const top = Math.max(...rows.map(([, value]) => value), 0) || 1;
  return h("table", { class: "bars" },
    h("caption", { class: "hidden" }, title),
    h("tbody", {}, rows.map(([label, value, text, tone]) => h("tr", {},
      h("th", { scope: "row" }, label),
      h("td", { class: "bar-cell" }, bar(value / top, tone)),
      h("td", { class: "figure" }, text)))));
}

/** A bar that is so full, 0 to 1. */
export function bar(share, tone = "accent") {
  const width = share > 0 ? Math.max(share * 100, 1) : 0;
  return svg("svg", { class: `barline ${tone}`, viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: "track", width: 100, height: 8, rx: 1 }),
    svg("rect", { class: "fill", width: width.toFixed(1), height: 8, rx: 1 }));
}
