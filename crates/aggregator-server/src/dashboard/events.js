// The stored events: search, page, and watch them come. Payloads are shown as they were sent.

import { getEvents, getLines } from "./api.js";
import { copy, h, setText, show } from "./dom.js";
import * as format from "./format.js";
import { indent } from "./json.js";

export const title = "Events";

const PAGE = 50;
/** The most events that a tail shows. */
const KEPT = 200;
/** The most events of a file. */
const EXPORTED = 100_000;

let topic, id, order, table, note, details, pause, more;
let events, next, following, timer, asking, skipped;

export function mount(root, params) {
  events = [];
  next = undefined;
  following = false;
  skipped = false;
  topic = h("input", { type: "search", id: "events-topic", placeholder: "Topic or pattern: orders.*", "aria-label": "Topic", value: params.get("topic") ?? "", autocomplete: "off", spellcheck: "false" });
  id = h("input", { type: "search", id: "events-id", placeholder: "Event id", "aria-label": "Event id", value: params.get("event_id") ?? "", autocomplete: "off", spellcheck: "false" });
  order = h("select", { "aria-label": "Order" }, h("option", { value: "desc" }, "newest first"), h("option", { value: "asc" }, "oldest first"));
  pause = h("button", { type: "button", id: "tail", onclick: toggle, "aria-pressed": "false" }, "Live tail");
  more = h("button", { type: "button", class: "quiet", onclick: () => page(next), hidden: true }, "More");
  note = h("p", { class: "hint", "aria-live": "polite" });
  table = h("tbody", { id: "events" });
  details = h("section", { class: "panel details", id: "details", hidden: true });
  const form = h("form", { class: "tools", onsubmit: (event) => { event.preventDefault(); search(); } },
    h("h2", {}, "Events"), topic, id, order, h("button", { type: "submit", class: "quiet" }, "Search"), pause);
  root.append(h("div", { class: "split" },
    h("section", { class: "panel" }, form, note,
      h("div", { class: "scroll" }, h("table", { class: "plain events" },
        h("thead", {}, h("tr", {}, ["Stored at", "Topic", "Seq", "Event id", "Source", "Payload"].map((name) => h("th", { scope: "col", class: name === "Seq" ? "figure" : "" }, name)))), table)),
      h("div", { class: "tools" }, more, h("button", { type: "button", class: "quiet", id: "copy-curl", onclick: (event) => copy(event.target, curl()) }, "Copy as curl"),
        h("button", { type: "button", class: "quiet", onclick: exportLines }, "Export"))),
    details));
  search();
}

export function unmount() {
  stop();
  asking?.abort();
}

export function key(name) {
  if (name === "/") topic.focus();
  else if (name === " ") toggle();
  else if (name === "Escape" && !details.hidden) details.hidden = true;
  else return false;
  return true;
}

function query(changes) {
  const wanted = { topic: topic.value.trim(), event_id: id.value.trim(), ...changes };
  return new URLSearchParams(Object.entries(wanted).filter(([, value]) => value !== "" && value !== undefined));
}

function curl() {
  const asked = query({ order: order.value, limit: 1000 });
  const key = sessionStorage.getItem("aggregator-key") ? " -H \"authorization: Bearer $AGGREGATOR_KEY\"" : "";
  return `curl '${location.origin}/events?${asked}' -H 'accept: application/x-ndjson'${key}`;
}

function search() {
  stop();
  asking?.abort();
  events = [];
  render();
  const parts = query({});
  history.replaceState(null, "", parts.size ? `#events?${parts}` : "#events");
  page(undefined);
}

async function page(after) {
  const answer = await ask(query({ order: order.value, limit: PAGE, after }));
  if (!answer) return;
  events.push(...answer.events);
  next = answer.next;
  more.hidden = answer.caughtUp;
  setText(note, events.length ? `${format.count(events.length)} event${events.length === 1 ? "" : "s"}.` : answer.known ? "No event yet." : "There is no such topic, or none below the pattern.");
  render();
}

/** Asks, and says what went wrong. Only the newest question counts. */
async function ask(asked) {
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  try {
    return await getEvents(asked, signal);
  } catch (error) {
    if (!signal.aborted) setText(note, error.message);
    return undefined;
  }
}

function toggle() {
  if (following) {
    stop();
    setText(note, "The live tail is paused.");
  } else start();
}

async function start() {
  following = true;
  skipped = false;
  pause.setAttribute("aria-pressed", "true");
  setText(pause, "Pause");
  more.hidden = true;
  order.value = "desc";
  setText(note, "Waiting for events …");
  const answer = await ask(query({ after: "latest", limit: 1 }));
  next = answer?.next;
  timer = setTimeout(follow, 0);
}

function stop() {
  following = false;
  clearTimeout(timer);
  pause?.setAttribute("aria-pressed", "false");
  if (pause) setText(pause, "Live tail");
}

/** Asks for what has come since. A page that nobody looks at asks for nothing. */
async function follow() {
  if (!following) return;
  if (!document.hidden) {
    const answer = await ask(query({ after: next ?? "latest", limit: KEPT }));
    if (!following) return;
    if (answer) {
      next = answer.next;
      if (answer.events.length) {
        events = [...answer.events.toReversed(), ...events].slice(0, KEPT);
        render();
      }
      if (!answer.caughtUp) {
        // More comes than anybody can read. The newest are what one wants to see.
        skipped = true;
        next = undefined;
      }
      setText(note, skipped ? "Live. More comes than this page shows: some events are left out." : "Live. Every event is shown, the newest first.");
    }
  }
  timer = setTimeout(follow, 500);
}

function render() {
  show(table, ...events.slice(0, 1000).map((event) => h("tr", {
    "data-row": true, tabindex: 0,
    onclick: () => open(event), onkeydown: (pressed) => { if (pressed.key === "Enter") open(event); },
  },
  h("td", { class: "time" }, format.clock(event.processed_at)), h("td", { class: "name" }, event.topic), h("td", { class: "figure" }, event.seq),
  h("td", { class: "name" }, event.event_id), h("td", { class: "name" }, event.source), h("td", { class: "payload" }, event.payload.slice(0, 160)))));
}

function open(event) {
  const fact = (name, value) => value !== undefined && [h("dt", {}, name), h("dd", {}, value)];
  const button = (text, what) => h("button", { type: "button", class: "quiet", onclick: (click) => copy(click.target, what) }, text);
  const same = new URLSearchParams({ topic: event.topic, event_id: event.event_id });
  details.hidden = false;
  details.replaceChildren(
    h("div", { class: "tools" }, h("h2", {}, event.event_id), h("button", { type: "button", class: "quiet", onclick: () => { details.hidden = true; } }, "Close")),
    h("dl", { class: "facts" }, [
      fact("topic", event.topic), fact("seq", event.seq), fact("source", event.source), fact("timestamp", event.timestamp),
      fact("stored at", event.processed_at), fact("sequence", event.sequence), fact("content type", event.content_type),
    ].flat()),
    h("h3", {}, "Payload, as it was sent"), h("pre", { id: "payload" }, indent(event.payload)),
    event.attributes && [h("h3", {}, "Attributes"), h("pre", {}, indent(event.attributes))],
    h("div", { class: "tools" }, button("Copy payload", event.payload), button("Copy event", event.line),
      button("Copy as curl", `curl '${location.origin}/events?${same}'`), h("a", { href: `#duplicates?${same}` }, "Its repeats")));
}

async function exportLines(click) {
  const button = click.target;
  setText(button, "Reading …");
  try {
    const lines = await getLines(query({ order: "asc", limit: EXPORTED }));
    const url = URL.createObjectURL(new Blob([lines], { type: "application/x-ndjson" }));
    h("a", { href: url, download: "events.ndjson" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
    setText(button, "Export");
    setText(note, `At most ${format.count(EXPORTED)} events are in the file; its last line says where to go on.`);
  } catch (error) {
    setText(button, "Export");
    setText(note, error.message);
  }
}
