// The page: asks the server now and then, and shows one of the views.

import { Refused, getJson, getMetrics } from "./api.js";
import { h, setText } from "./dom.js";
import * as duplicates from "./duplicates.js";
import * as events from "./events.js";
import * as format from "./format.js";
import { helpKeys, listen, moveRow } from "./keyboard.js";
import * as overview from "./overview.js";
import * as sources from "./sources.js";
import { setKey, state, theKey } from "./state.js";
import * as topics from "./topics.js";

const views = { overview, topics, events, duplicates, sources };
const names = Object.keys(views);
const root = document.getElementById("view");
const find = (id) => document.getElementById(id);

let current;

/**
 * What is asked, how often in milliseconds, and where the answer goes. Nothing is asked while nobody looks. A view shows the
 * answers in its `update`; what it asks for itself, it asks in its `refresh`.
 */
const questions = [
  [2000, readiness],
  [2000, () => answer("stats", () => getJson("/stats"))],
  [2000, () => answer("seconds", () => getJson("/stats/series?step=second&limit=62"))],
  [5000, () => answer("insight", () => getJson("/insight?limit=20"))],
  [5000, () => answer("metrics", getMetrics)],
  [5000, async () => current?.view.refresh?.()],
  [10_000, () => answer("health", () => getJson("/health"))],
  [5000, () => answer("today", () => getJson("/stats/series?step=hour&limit=24"))],
];

async function answer(name, get) {
  try {
    state[name] = await get();
    delete state.errors[name];
    if (name === "seconds") state.ahead = Date.parse(state.seconds.now) - Date.now();
  } catch (error) {
    state.errors[name] = error.message;
    if (error instanceof Refused) state[name] = undefined;
    if (error instanceof Refused && error.status === 401) askForKey(error.message);
  }
}

async function readiness() {
  let ready;
  try {
    await getJson("/readyz");
    ready = { ok: true, state: "good", text: "Ready: events are taken" };
  } catch (error) {
    ready = error instanceof Refused
      ? { ok: false, state: "bad", text: `Not taking events: ${error.title || error.status}`, detail: error.message }
      : { ok: false, state: "unknown", text: "The server does not answer. Trying again …" };
  }
  const before = state.ready;
  state.ready = ready;
  if (!before || before.text !== ready.text || before.detail !== ready.detail) {
    const text = ready.detail ? `${ready.text}: ${ready.detail}` : ready.text;
    state.changes = [...state.changes, { at: Date.now(), state: ready.state, text }].slice(-50);
  }
}

function showHead() {
  const { ready, health, stats } = state;
  if (!ready) return;
  const status = find("status");
  status.dataset.state = ready.state;
  setText(find("status-text"), ready.text);
  status.title = ready.detail ?? "";
  const icon = ready.ok ? "/ui/well.svg" : "/ui/unwell.svg";
  for (const [id, name] of [["icon", "href"], ["logo", "src"]]) {
    if (find(id).getAttribute(name) !== icon) find(id).setAttribute(name, icon);
  }
  document.title = `${ready.ok ? "" : "⚠ "}${stats ? `${format.compact(stats.unique_processed)} stored · ` : ""}Event aggregator`;
  setText(find("meta"), health ? `${health.version} · up ${format.duration(health.uptime)}` : "");
}

/** Asks each question again after its time, one after the other, and later if the server does not answer. */
function ask([every, question]) {
  const again = async () => {
    if (!document.hidden) {
      await question();
      showHead();
      current?.view.update?.();
    }
    setTimeout(again, state.ready?.state === "unknown" ? Math.max(every, 4000) : every);
  };
  again();
}

function askForKey(reason) {
  const dialog = find("key-dialog");
  if (dialog.open || dialog.dataset.put_off) return;
  setText(find("key-reason"), reason);
  dialog.showModal();
}

function route() {
  const [name, query = ""] = location.hash.slice(1).split("?");
  show(names.includes(name) ? name : names[0], new URLSearchParams(query));
}

function show(name, params) {
  current?.view.unmount?.();
  const view = views[name];
  root.replaceChildren();
  current = { name, view };
  view.mount(root, params);
  for (const link of document.querySelectorAll("#tabs a")) {
    if (link.dataset.view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function press(key) {
  const at = Number(key) - 1;
  if (key === "?") find("help").showModal();
  else if (key === "j" || key === "k") moveRow(root, key === "j" ? 1 : -1);
  else if (names[at]) location.hash = names[at];
  else if (current.view.key(key)) return true;
  else if (key === "/") {
    location.hash = "topics";
    setTimeout(() => current.view.key("/"));
  } else return false;
  return true;
}

find("tabs").append(...names.map((name, at) => h("li", {}, h("a", { href: `#${name}`, "data-view": name }, views[name].title, h("kbd", { "aria-hidden": "true" }, at + 1)))));
find("help-keys").append(...helpKeys());
find("help-button").addEventListener("click", () => find("help").showModal());
find("key-button").addEventListener("click", () => {
  setText(find("key-reason"), theKey() ? "This tab uses a key." : "This tab uses no key.");
  find("key-dialog").showModal();
});
find("key-dialog").addEventListener("close", () => { find("key-dialog").dataset.put_off = "yes"; });
find("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(find("key-input").value);
});
find("key-forget").addEventListener("click", () => useKey(""));

function useKey(key) {
  setKey(key);
  find("key-input").value = "";
  find("key-dialog").close();
  delete find("key-dialog").dataset.put_off;
  state.errors = {};
  questions.forEach(([, question]) => question().then(() => current?.view.update?.()));
  route();
}

addEventListener("hashchange", route);
listen(press);
route();
questions.forEach(ask);
