// The topics: the busiest ones as they are, and all of them by name.

import { sparkline } from "./charts.js";
import { h, show } from "./dom.js";
import * as format from "./format.js";
import { now, state } from "./state.js";
import { getJson } from "./api.js";

export const title = "Topics";

const KEPT = 60;

let search, table, note;
/** What each topic had delivered, as often as it was looked at: the newest last. */
const history = new Map();
let shown = "";
let answer = 0;

export function mount(root) {
  search = h("input", { type: "search", id: "topics-search", placeholder: "Name, or how it begins", "aria-label": "Search topics", oninput: load, autocomplete: "off", spellcheck: "false" });
  note = h("p", { class: "hint" });
  table = h("div", { class: "scroll" });
  root.append(h("section", { class: "panel" }, h("div", { class: "tools" }, h("h2", {}, "Topics"), search), note, table));
  load();
}

export function refresh() {
  return search.value ? undefined : load();
}

export function key(name) {
  if (name !== "/") return false;
  search.focus();
  search.select();
  return true;
}

async function load() {
  const wanted = search.value.trim();
  const mine = ++answer;
  try {
    const rows = wanted ? await byName(wanted) : await busiest();
    if (mine !== answer) return;
    shown = wanted;
    show(note, wanted
      ? (rows.length ? `The first ${rows.length} topics that begin with “${wanted}”.` : `No topic begins with “${wanted}”.`)
      : rows.length ? `The ${rows.length} with most deliveries, of ${format.count(state.stats?.topics_total ?? rows.length)}. Search finds all.` : "No topic has been counted yet.");
    show(table, rows.length ? topicsTable(rows) : "");
  } catch (error) {
    if (mine === answer) show(table, h("p", { class: "notice" }, error.message));
  }
}

async function busiest() {
  const insight = await getJson("/insight?limit=200");
  const byTopic = new Map();
  for (const of of insight.streams) {
    const topic = byTopic.get(of.topic) ?? { topic: of.topic, stored: 0, duplicates: 0, conflicts: 0, last: "" };
    topic.stored += of.stored;
    topic.duplicates += of.duplicates;
    topic.conflicts += of.conflicts;
    if (of.last_at > topic.last) topic.last = of.last_at;
    byTopic.set(of.topic, topic);
  }
  const rows = [...byTopic.values()].sort((a, b) => b.stored + b.duplicates - a.stored - a.duplicates).slice(0, 20);
  for (const row of rows) {
    const values = history.get(row.topic) ?? [];
    values.push({ at: performance.now(), total: row.stored + row.duplicates + row.conflicts });
    history.set(row.topic, values.slice(-KEPT - 1));
  }
  for (const topic of history.keys()) if (!byTopic.has(topic)) history.delete(topic);
  return rows;
}

/** Topics are listed from any name on; those that begin with it come first. */
async function byName(begin) {
  const exact = await getJson(`/topics?topic=${encodeURIComponent(begin)}`).catch(() => ({ topics: [] }));
  const page = await getJson(`/topics?limit=50&after=${encodeURIComponent(begin)}`);
  const topics = [...exact.topics, ...page.topics].filter((of) => of.topic.startsWith(begin));
  return topics.map((of) => ({ topic: of.topic, stored: of.last_seq, duplicates: of.duplicates, conflicts: of.conflicts, last: of.last_processed_at }));
}

function topicsTable(rows) {
  const columns = ["Topic", ...(shown ? [] : ["Last minutes"]), "Stored", "Repeats", "Share", "Conflicts", "Last"];
  return h("table", { class: "plain", id: "topics" },
    h("thead", {}, h("tr", {}, columns.map((name, at) => h("th", { scope: "col", class: at > 0 ? "figure" : "" }, name)))),
    h("tbody", {}, rows.map((of) => {
      const all = of.stored + of.duplicates + of.conflicts;
      return h("tr", { "data-row": true, tabindex: 0 },
        h("th", { scope: "row", class: "name" }, h("a", { href: `#events?topic=${encodeURIComponent(of.topic)}` }, of.topic)),
        !shown && h("td", { class: "spark-cell" }, rates(of.topic)),
        h("td", { class: "figure" }, format.count(of.stored)), h("td", { class: "figure" }, format.count(of.duplicates)),
        h("td", { class: "figure" }, all ? format.percent(of.duplicates / all) : "–"),
        h("td", { class: `figure ${of.conflicts ? "bad" : ""}` }, format.count(of.conflicts)),
        h("td", { class: "figure" }, format.ago(of.last, now())));
    })));
}

function rates(topic) {
  const values = history.get(topic) ?? [];
  const steps = values.slice(1).map(({ at, total }, n) => (total - values[n].total) / Math.max((at - values[n].at) / 1000, 0.1));
  const newest = steps.at(-1) ?? 0;
  return [sparkline(steps.length ? steps : [null], `Deliveries per second to ${topic}`), h("span", { class: "hint" }, `${format.rate(newest)}/s`)];
}
