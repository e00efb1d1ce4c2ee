// Asks the public routes of this server, and no other.

import { members, parse } from "./json.js";
import { theKey } from "./state.js";

/** An answer that is not a good one, in the words of the server. */
export class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail ?? problem.title ?? `the server answered ${status}`);
    this.status = status;
    this.kind = (problem.type ?? "").split(":").pop();
    this.title = problem.title ?? "";
  }
}

/** The server could not be reached, or did not answer in time. */
export class Unreachable extends Error {}

const TIMEOUT_MS = 12_000;

async function ask(path, accept, signal) {
  const headers = { accept };
  if (theKey()) headers.authorization = `Bearer ${theKey()}`;
  const limit = AbortSignal.timeout(TIMEOUT_MS);
  let response;
  try {
    response = await fetch(path, {
      headers, cache: "no-store", credentials: "omit", redirect: "error",
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Unreachable("the server does not answer");
  }
  let text;
  try {
    text = await response.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Unreachable("the answer of the server was cut off");
  }
  if (!response.ok) {
    let problem = {};
    try {
      problem = JSON.parse(text);
    } catch {
      // A proxy answered.
    }
    throw new Refused(response.status, problem);
  }
  return text;
}

export async function getJson(path, signal) {
  return parse(await ask(path, "application/json", signal));
}

/** The value of each metric, by name and labels. */
export async function getMetrics(signal) {
  const text = await ask("/metrics", "text/plain", signal);
  const metrics = new Map();
  for (const line of text.split("\n")) {
    const space = line.lastIndexOf(" ");
    if (line && !line.startsWith("#") && space > 0) metrics.set(line.slice(0, space), Number(line.slice(space + 1)));
  }
  return metrics;
}

/**
 * Events, each with its payload as the text that was sent. `query` is a URLSearchParams.
 * Returns `{ events, next, caughtUp, known }`.
 */
export async function getEvents(query, signal) {
  const lines = (await ask(`/events?${query}`, "application/x-ndjson", signal)).split("\n").filter(Boolean);
  const last = parse(lines.pop() ?? "{}");
  return { events: lines.map(event), next: last.next, caughtUp: last.caught_up, known: last.known !== false };
}

/** The events as the lines that were sent, for a file. */
export async function getLines(query, signal) {
  return ask(`/events?${query}`, "application/x-ndjson", signal);
}

function event(line) {
  const found = members(line);
  const text = (name) => (found.has(name) ? JSON.parse(found.get(name)) : undefined);
  return {
    topic: text("topic"), event_id: text("event_id"), source: text("source"), timestamp: text("timestamp"),
    processed_at: text("processed_at"), content_type: text("content_type"),
    // As they are written: numbers may have more digits than this page can count with.
    seq: found.get("seq"), sequence: found.get("sequence"), payload: found.get("payload"),
    attributes: found.get("attributes"), line,
  };
}
