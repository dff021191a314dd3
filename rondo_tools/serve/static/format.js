// Formats numbers, durations and times. A missing value is a dash.

const NONE = "–";
const STEPS = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
const BINARY = [[2 ** 40, "TiB"], [2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]];
const DURATIONS = [[86400e3, "d"], [3600e3, "h"], [60e3, "min"]];

const digits = (x) => (Math.abs(x) >= 100 || Number.isInteger(x) ? x.toFixed(0) : x.toFixed(Math.abs(x) >= 10 ? 1 : 2));

export function count(x) {
  if (x == null) return NONE;
  const step = STEPS.find(([size]) => Math.abs(x) >= size);
  return step ? digits(x / step[0]) + " " + step[1] : digits(x);
}

export function bytes(x) {
  if (x == null) return NONE;
  const step = BINARY.find(([size]) => Math.abs(x) >= size);
  return step ? digits(x / step[0]) + " " + step[1] : digits(x) + " B";
}

// A share of one processor's time.
export const percent = (x) => (x == null ? NONE : digits(100 * x) + " %");

export function nanoseconds(x) {
  if (x == null) return NONE;
  if (x >= 1e9) return digits(x / 1e9) + " s";
  if (x >= 1e6) return digits(x / 1e6) + " ms";
  return x >= 1e3 ? digits(x / 1e3) + " µs" : digits(x) + " ns";
}

export function duration(ms) {
  const step = DURATIONS.find(([size]) => ms >= 2 * size);
  return step ? Math.floor(ms / step[0]) + " " + step[1] : Math.max(0, ms / 1000).toFixed(ms < 10e3 ? 1 : 0) + " s";
}

const two = (x) => String(x).padStart(2, "0");

export function clock(ms, seconds = true) {
  const d = new Date(ms);
  return `${two(d.getHours())}:${two(d.getMinutes())}` + (seconds ? `:${two(d.getSeconds())}` : "");
}

export function date(ms) {
  const d = new Date(ms);
  return `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())}`;
}

export const moment = (ms) => `${date(ms)} ${clock(ms)}`;
export const iso = (ms) => new Date(ms).toISOString();
