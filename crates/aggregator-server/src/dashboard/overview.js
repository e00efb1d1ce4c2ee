// The first view: is it well, is it fast, and what are my duplicates?

import { bars, sparkline } from "./charts.js";
import { copy, h, show } from "./dom.js";
import * as format from "./format.js";
import { now, state } from "./state.js";

export const title = "Overview";

let strip, cards, sentence, windows, lateness, topics, changes, empty, full;

export function mount(root) {
  strip = h("dl", { class: "strip", "aria-label": "State of the server" });
  cards = h("div", { class: "cards" });
  sentence = h("p", { class: "lead" });
  windows = h("div", {});
  lateness = h("div", {});
  topics = h("div", {});
  changes = h("div", {});
  empty = h("section", { class: "panel empty", hidden: true });
  full = h("div", { class: "grid" },
    h("section", { class: "panel wide" }, h("h2", {}, "What a window would have cost"), sentence, windows),
    h("section", { class: "panel" }, h("h2", {}, "How late repeats come"), lateness),
    h("section", { class: "panel" }, h("h2", {}, "Busiest sources"), topics),
    h("section", { class: "panel" }, h("h2", {}, "Health, as seen by this page"), changes));
  root.append(strip, cards, empty, full);
  showEmpty();
  update();
}

export function update() {
  show(strip, ...stripItems());
  show(cards, ...fourCards());
  const { insight, stats } = state;
  const isEmpty = stats && stats.received === 0;
  empty.hidden = !isEmpty;
  full.hidden = Boolean(isEmpty);
  showWindows();
  if (insight) {
    show(lateness, lateBars(insight));
    show(topics, busiest(insight));
  } else {
    const why = state.errors.insight ?? "…";
    [lateness, topics].forEach((node) => show(node, h("p", { class: "hint" }, why)));
  }
  show(changes, changeList());
}

export function key() {
  return false;
}

function stripItems() {
  const { ready, stats, metrics, health, errors } = state;
  const items = [];
  const item = (name, value, tone, more) => items.push(h("div", { class: `item ${tone ?? ""}` }, h("dt", {}, name), h("dd", { title: more ?? null }, value)));
  item("Events", ready?.ok ? "taken" : ready ? "not taken" : "unknown", ready?.ok ? "good" : ready ? "bad" : "", ready?.detail);
  item("Durability", health?.durability ?? "–", health?.durability === "volatile" ? "warn" : health ? "good" : "",
    health?.durability === "volatile" ? "Everything is gone when the process ends" : "What a 202 survives");
  if (!stats) {
    item("Figures", errors.stats ?? "…", errors.stats ? "warn" : "");
    return items;
  }
  item("Stored", format.count(stats.unique_processed), "", "Events, over the store's life");
  item("Store", `${stats.store.kind}, ${format.bytes(stats.store.bytes)}`);
  const log = metrics?.get("aggregator_wal_bytes");
  if (log !== undefined) item("Log", format.bytes(log), "", "Bytes of the log that are in use");
  const full = Math.max(stats.queue.events / stats.queue.capacity_events, stats.queue.bytes / stats.queue.capacity_bytes);
  item("Queue", format.percent(full), full > 0.8 ? "warn" : "", `${format.count(stats.queue.events)} events wait for their commit; ${stats.queue.waiting} requests wait for room`);
  if (stats.queue.lost > 0) item("Lost from the queue", format.count(stats.queue.lost), "bad", "Events that were answered as queued and never stored");
  if (stats.clock.ahead_seconds > 60) item("Clock", `store is ${format.duration(stats.clock.ahead_seconds)} ahead`, "bad");
  return items;
}

/** The newest 60 whole seconds, with zeros where nothing happened. */
function lastMinute() {
  const { seconds } = state;
  if (!seconds) return [];
  const newest = Math.floor(Date.parse(seconds.now) / 1000) - 1;
  const found = new Map(seconds.buckets.map((bucket) => [Math.floor(Date.parse(bucket.at) / 1000), bucket]));
  return Array.from({ length: 60 }, (_, n) => found.get(newest - 59 + n) ?? null);
}

function fourCards() {
  const minute = lastMinute();
  const why = state.errors.seconds;
  const sum = (name) => minute.reduce((total, bucket) => total + (bucket?.[name] ?? 0), 0);
  const of = (name) => minute.map((bucket) => bucket?.[name] ?? 0);
  const [stored, duplicates, conflicts] = ["stored", "duplicates", "conflicts"].map(sum);
  const all = stored + duplicates + conflicts;
  const latest = of("stored").slice(-5);
  const perSecond = latest.reduce((a, b) => a + b, 0) / Math.max(latest.length, 1);
  const shares = minute.map((bucket) => {
    const total = bucket ? bucket.stored + bucket.duplicates + bucket.conflicts : 0;
    return total ? bucket.duplicates / total : null;
  });
  const p99s = minute.map((bucket) => bucket?.publish_p99_seconds ?? null);
  const known = p99s.filter((value) => value !== null);
  const p99 = known.length ? Math.max(...known.slice(-10)) : NaN;
  const card = (id, name, value, note, values, tone) => h("section", { class: "card", id },
    h("h2", {}, name), h("p", { class: "value" }, why ? "–" : value), h("p", { class: "hint" }, why ?? note),
    sparkline(values.length ? values : [null], `${name} in the last minute`, tone));
  return [
    card("card-stored", "Stored per second", format.rate(perSecond), `${format.count(stored)} in the last minute`, of("stored")),
    card("card-duplicates", "Duplicates", all ? format.percent(duplicates / all) : "–",
      `${format.count(duplicates)} repeats in the last minute, none stored twice`, shares, "second"),
    card("card-conflicts", "Conflicts", format.count(conflicts),
      `${format.count(state.stats?.conflicts ?? 0)} over the store's life`, of("conflicts"), conflicts ? "bad" : "accent"),
    card("card-p99", "Publish, p99", format.duration(p99), known.length ? "slowest of the last ten seconds with requests" : "no request in the last minute", p99s, "third"),
  ];
}

function showWindows() {
  const { today, errors } = state;
  if (!today) {
    show(sentence, errors.today ?? "…");
    show(windows);
    return;
  }
  const totals = new Map();
  let repeats = 0;
  for (const bucket of today.buckets) {
    repeats += bucket.duplicates + bucket.conflicts;
    for (const { window_seconds, repeats: through } of bucket.let_through) {
      totals.set(window_seconds, (totals.get(window_seconds) ?? 0) + through);
    }
  }
  const two = totals.get(120) ?? 0;
  show(sentence, "A 2-minute window would have let ", h("strong", { id: "let-through" }, format.count(two)),
    ` of ${format.count(repeats)} repeats through in the last 24 hours. Here they were `, h("strong", {}, "all recognised"), ".");
  const rows = [...totals].map(([seconds, through]) => [format.period(seconds), through, format.count(through), "bad"]);
  rows.push(["no window: this server", 0, "0", "good"]);
  show(windows, totals.size
    ? bars(rows, "Repeats that each window would have stored again")
    : h("p", { class: "hint" }, "Nothing was published in the last 24 hours."));
}

function lateBars(insight) {
  const last = insight.lateness.findLastIndex((bucket) => bucket.repeats > 0);
  if (last < 0) return h("p", { class: "hint" }, "No repeat has come yet.");
  let before = 0;
  const rows = insight.lateness.map(({ within_seconds: within, repeats }) => {
    const label = within === null ? `later than ${format.duration(before)}` : `within ${format.duration(within)}`;
    before = within;
    return [label, repeats, format.count(repeats), "second"];
  });
  return bars(rows.slice(0, Math.max(last + 1, 4)), "Repeats by how long after the stored event they came");
}

function busiest(insight) {
  if (insight.streams.length === 0) return h("p", { class: "hint" }, "No source has sent anything since counting began.");
  return h("table", { class: "plain" },
    h("thead", {}, h("tr", {}, ["Source", "Topic", "Deliveries", "Repeats", "Last"].map((name, at) => h("th", { scope: "col", class: at > 1 ? "figure" : "" }, name)))),
    h("tbody", {}, insight.streams.slice(0, 7).map((of) => h("tr", {},
      h("td", { class: "name" }, of.source), h("td", { class: "name" }, of.topic),
      h("td", { class: "figure" }, format.compact(of.stored + of.duplicates + of.conflicts)),
      h("td", { class: "figure" }, format.percent(of.duplicate_rate)),
      h("td", { class: "figure" }, format.ago(of.last_at, now()))))));
}

function changeList() {
  const { changes, health } = state;
  return h("ul", { class: "changes" },
    changes.toReversed().slice(0, 8).map(({ at, state: name, text }) => h("li", {},
      h("span", { class: `dot ${name}`, "aria-hidden": "true" }), h("time", {}, format.clock(at)), h("span", {}, text))),
    health && h("li", { class: "hint" }, `The process has run for ${format.duration(health.uptime)}.`));
}

function showEmpty() {
  const command = `curl '${location.origin}/publish' -H 'content-type: application/json' \\\n  -d '{"topic":"hello","event_id":"1","payload":{"n":1}}'`;
  const button = h("button", { type: "button", onclick: () => copy(button, command) }, "Copy");
  empty.append(h("h2", {}, "Nothing was published yet"),
    h("p", {}, "Send the first event. Send it again, and see it recognised."),
    h("pre", { class: "command" }, command), button);
}
