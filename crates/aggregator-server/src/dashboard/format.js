// Figures for people.

const whole = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en-GB", { notation: "compact", maximumFractionDigits: 1 });

/** 1,234,567. A text, such as a number with too many digits for this page, stays as it is. */
export function count(value) {
  return typeof value === "number" ? whole.format(value) : String(value ?? "–");
}

/** 1.2M */
export function compact(value) {
  return value < 10_000 ? whole.format(value) : short.format(value);
}

/** 0.5/s, 12.3k/s */
export function rate(value) {
  return value > 0 && value < 10 ? value.toFixed(1) : compact(Math.round(value));
}

/** 20.1 % */
export function percent(share) {
  if (!Number.isFinite(share)) return "–";
  const hundred = share * 100;
  return `${hundred === 0 || hundred >= 99.95 ? hundred.toFixed(0) : hundred < 0.1 ? "< 0.1" : hundred.toFixed(1)} %`;
}

/** 1.5 GB */
export function bytes(value) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? value.toFixed(0) : value.toFixed(1)} ${units[unit]}`;
}

/** 350 µs, 12 ms, 3.4 s, 5 min, 2 h, 3 d */
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 0.001) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 1) return `${(seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0)} ms`;
  if (seconds < 60) return `${trim(seconds)} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  if (seconds < 86_400) return `${trim(seconds / 3600)} h`;
  return `${trim(seconds / 86_400)} d`;
}

function trim(value) {
  return value < 10 ? value.toFixed(1).replace(/\.0$/, "") : value.toFixed(0);
}

/** 2 minutes, 1 hour, 7 days */
export function period(seconds) {
  for (const [unit, length] of [["day", 86_400], ["hour", 3600], ["minute", 60]]) {
    if (seconds >= length) {
      const value = seconds / length;
      return `${value} ${unit}${value === 1 ? "" : "s"}`;
    }
  }
  return `${seconds} second${seconds === 1 ? "" : "s"}`;
}

/** How long ago, by the server's clock. */
export function ago(time, now) {
  if (!time) return "–";
  const seconds = Math.max(0, (now - Date.parse(time)) / 1000);
  return seconds < 2 ? "now" : `${duration(Math.floor(seconds))} ago`;
}

/** 14:03:12.345, and the day if it is another one. */
export function clock(time) {
  const date = new Date(time);
  if (Number.isNaN(date.getTime())) return String(time);
  const two = (value) => String(value).padStart(2, "0");
  const ms = String(date.getMilliseconds()).padStart(3, "0");
  const day = date.toDateString() === new Date().toDateString() ? "" : `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} `;
  return `${day}${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${ms}`;
}
