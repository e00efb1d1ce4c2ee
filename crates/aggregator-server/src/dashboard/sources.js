// Who delivers what, who repeats, and what never arrived.

import { bar } from "./charts.js";
import { h, show } from "./dom.js";
import * as format from "./format.js";
import { now, state } from "./state.js";
import { getJson } from "./api.js";

export const title = "Sources";

let table, note, order, numbers, often;
let found;
let answer = 0;

export function mount(root) {
  order = h("select", { id: "sources-order", onchange: load },
    [["events", "most deliveries"], ["duplicates", "most repeats"], ["conflicts", "most conflicts"], ["missing", "most missing"], ["newest", "newest"]]
      .map(([value, text]) => h("option", { value }, text)));
  note = h("p", { class: "hint" });
  numbers = h("div", {});
  table = h("div", { class: "scroll" });
  often = h("div", {});
  root.append(
    h("div", { class: "grid" },
      h("section", { class: "panel" }, h("h2", {}, "Lost before it arrived"), numbers),
      h("section", { class: "panel" }, h("h2", {}, "Repeated most"), often)),
    h("section", { class: "panel" },
      h("div", { class: "tools" }, h("h2", {}, "Sources"), h("label", { class: "hint" }, "Order: ", order)), note, table));
  load();
}

export function refresh() {
  return load();
}

export function key() {
  return false;
}

async function load() {
  const mine = ++answer;
  try {
    const told = await getJson(`/insight?limit=50&order=${order.value}`);
    if (mine !== answer) return;
    found = told;
  } catch (error) {
    if (mine === answer) show(table, h("p", { class: "notice" }, error.message));
    return;
  }
  const since = format.clock(found.since);
  show(note, `Since ${since}. ${format.count(found.streams_total)} sources in topics are counted one by one`
    + (found.nodes > 1 ? `, by ${found.nodes} nodes together.` : "."));
  show(table, found.streams.length ? sourcesTable() : h("p", { class: "hint" }, "No source has sent anything since then."));
  showNumbers();
  showOften();
}

function sourcesTable() {
  const columns = ["Source", "Topic", "Stored", "Repeats", "", "Conflicts", "Past 2 min", "Missing", "Out of order", "Last"];
  return h("table", { class: "plain", id: "sources" },
    h("thead", {}, h("tr", {}, columns.map((name, at) => h("th", { scope: "col", class: at > 1 ? "figure" : "" }, name)))),
    h("tbody", {}, found.streams.map((of) => {
      const { sequence } = of;
      const gaps = sequence?.gaps.map(([from, to]) => (from === to ? from : `${from}–${to}`)).join(", ");
      return h("tr", { "data-row": true, tabindex: 0 },
        h("th", { scope: "row", class: "name" }, of.source), h("td", { class: "name" }, of.topic),
        figure(of.stored), figure(of.duplicates),
        h("td", { class: "share" }, bar(of.duplicate_rate, "second"), h("span", {}, format.percent(of.duplicate_rate))),
        figure(of.conflicts, of.conflicts > 0 && "bad"), figure(of.let_through[0].repeats),
        sequence ? h("td", { class: `figure ${sequence.missing > 0 ? "bad" : ""}`, title: gaps ? `The newest gaps: ${gaps}` : null }, format.count(sequence.missing)) : h("td", { class: "figure hint" }, "–"),
        sequence ? figure(sequence.reordered) : h("td", { class: "figure hint" }, "–"),
        h("td", { class: "figure" }, format.ago(of.last_at, now())));
    })));
}

function figure(value, tone) {
  return h("td", { class: `figure ${tone || ""}` }, format.count(value));
}

function showNumbers() {
  const { streams, missing, reordered, restarts } = found.numbers;
  if (streams === 0) {
    show(numbers, h("p", {}, "No source numbers its events. With ", h("code", {}, "sequence"), ": 1, 2, 3 in each topic this page shows what never arrived."));
    return;
  }
  const rows = [["Numbers that never came", missing, missing > 0 ? "bad" : "good"], ["Came after a higher one", reordered, ""], ["Began to count again", restarts, ""]];
  show(numbers, h("dl", { class: "facts" }, rows.flatMap(([name, value, tone]) => [h("dt", {}, name), h("dd", { class: tone }, format.count(value))])),
    gapList());
}

function gapList() {
  const with_gaps = found.streams.filter((of) => of.sequence?.gaps.length).slice(0, 5);
  if (with_gaps.length === 0) return null;
  return h("ul", { class: "gaps" }, with_gaps.map((of) => h("li", {},
    h("span", { class: "name" }, `${of.source} in ${of.topic}`), ": ",
    of.sequence.gaps.slice(-6).map(([from, to]) => (from === to ? `${from}` : `${from}–${to}`)).join(", "))));
}

function showOften() {
  const list = found.most_repeated;
  if (!list || list.length === 0) {
    show(often, h("p", { class: "hint" }, list ? "No event was repeated yet." : "Shown to those who may read all topics."));
    return;
  }
  show(often, h("table", { class: "plain" }, h("tbody", {}, list.slice(0, 5).map((of) => h("tr", {},
    h("td", { class: "name" }, of.event_id), h("td", { class: "name" }, of.topic),
    h("td", { class: "figure" }, `${format.count(of.repeats_at_least)} ×`))))));
}
