// The newest repeats and conflicts, and the story of one identity.

import { getEvents, getJson } from "./api.js";
import { h, setText, show } from "./dom.js";
import * as format from "./format.js";

export const title = "Duplicates";

let topic, id, outcome, list, note, story;
let answer = 0;

export function mount(root, params) {
  topic = h("input", { type: "search", id: "duplicates-topic", placeholder: "Topic or pattern", "aria-label": "Topic", value: params.get("topic") ?? "", autocomplete: "off", spellcheck: "false" });
  id = h("input", { type: "search", placeholder: "Event id", "aria-label": "Event id", value: params.get("event_id") ?? "", autocomplete: "off", spellcheck: "false" });
  outcome = h("select", { "aria-label": "Outcome", onchange: load },
    h("option", { value: "" }, "repeats and conflicts"), h("option", { value: "conflict" }, "conflicts"), h("option", { value: "duplicate" }, "repeats"));
  outcome.value = params.get("outcome") ?? "";
  note = h("p", { class: "hint" });
  list = h("div", { class: "scroll" });
  story = h("section", { class: "panel", hidden: true });
  const form = h("form", { class: "tools", onsubmit: (event) => { event.preventDefault(); load(); } },
    h("h2", {}, "Newest repeats"), topic, id, outcome, h("button", { type: "submit", class: "quiet" }, "Search"));
  root.append(story, h("section", { class: "panel" }, form, note, list));
  load();
}

export function refresh() {
  return load();
}

export function key(name) {
  if (name !== "/") return false;
  topic.focus();
  return true;
}

async function load() {
  const wanted = { topic: topic.value.trim(), event_id: id.value.trim(), outcome: outcome.value, limit: 100 };
  const asked = new URLSearchParams(Object.entries(wanted).filter(([, value]) => value !== ""));
  const mine = ++answer;
  try {
    const { duplicates } = await getJson(`/duplicates?${asked}`);
    if (mine !== answer) return;
    setText(note, duplicates.length ? "Under load this is a sample: 16 repeats and 16 conflicts of each commit." : "None since this server started counting.");
    show(list, duplicates.length ? table(duplicates) : "");
    await tell(wanted, duplicates);
  } catch (error) {
    if (mine === answer) setText(note, error.message);
  }
}

function table(duplicates) {
  return h("table", { class: "plain", id: "duplicates" },
    h("thead", {}, h("tr", {}, ["Came at", "What", "Topic", "Event id", "Source", "How late"].map((name) => h("th", { scope: "col", class: name === "How late" ? "figure" : "" }, name)))),
    h("tbody", {}, duplicates.flatMap((of) => {
      const link = `#duplicates?${new URLSearchParams({ topic: of.topic, event_id: of.event_id })}`;
      return [
        h("tr", { "data-row": true, tabindex: 0 }, h("td", { class: "time" }, format.clock(of.at)),
          h("td", {}, h("span", { class: `tag ${of.outcome}` }, of.outcome)), h("td", { class: "name" }, of.topic),
          h("td", { class: "name" }, h("a", { href: link }, of.event_id)), h("td", { class: "name" }, of.source),
          h("td", { class: "figure" }, format.duration(of.late_seconds))),
        of.differences?.length > 0 && h("tr", { class: "differences" }, h("td", { colspan: 6 }, differences(of.differences))),
      ];
    })));
}

function differences(list) {
  return h("table", {},
    h("thead", {}, h("tr", {}, ["Field", "Stored", "Sent later"].map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, list.map(({ field, stored, sent }) => h("tr", {},
      h("th", { scope: "row" }, field), h("td", {}, h("code", {}, stored ?? "not there")), h("td", {}, h("code", {}, sent ?? "not there"))))));
}

/** What is known of one identity, in the order it happened. */
async function tell({ topic: name, event_id: event }, duplicates) {
  story.hidden = !(name && event);
  if (story.hidden) return;
  const { events } = await getEvents(new URLSearchParams({ topic: name, event_id: event, limit: 1 })).catch(() => ({ events: [] }));
  const [first] = events;
  const steps = duplicates.toReversed().map((of) => [of.at, of.outcome, `from ${of.source}, ${format.duration(of.late_seconds)} later`]);
  if (first) steps.unshift([first.processed_at, "stored", `from ${first.source}, as seq ${first.seq}`]);
  show(story, h("h2", {}, `${event} in ${name}`),
    steps.length ? h("ol", { class: "timeline" }, steps.map(([at, what, how]) => h("li", {},
      h("time", {}, format.clock(at)), h("span", { class: `tag ${what}` }, what), h("span", {}, how)))) : h("p", { class: "hint" }, "Nothing is known of it."));
}
