// What the views share: the key, and what was asked last. Nothing of it leaves this tab.

const NAME = "aggregator-key";

let key = sessionStorage.getItem(NAME) ?? "";

export function theKey() {
  return key;
}

export function setKey(value) {
  key = value.trim();
  if (key) sessionStorage.setItem(NAME, key);
  else sessionStorage.removeItem(NAME);
}

/** The newest answers, for whichever view is shown. */
export const state = {
  ready: undefined,
  health: undefined,
  stats: undefined,
  seconds: undefined,
  today: undefined,
  insight: undefined,
  metrics: undefined,
  /** What went wrong with each of them, by name. */
  errors: {},
  /** How far the server's clock is ahead of this one, in milliseconds. */
  ahead: 0,
  /** Whether the server took events, at the times when that changed: the newest last, at most 50. */
  changes: [],
};

/** The time by the server's clock. */
export function now() {
  return Date.now() + state.ahead;
}
