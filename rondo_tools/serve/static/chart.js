// A line chart on a canvas: gaps, a band from minimum to maximum, one cursor for all charts of a group, zoom by
// dragging or by keys. Colours come from the style sheet.
import { bytes, clock, date } from "./format.js";

const LEFT = 64, RIGHT = 6, TOP = 6, BOTTOM = 20;
const TIME_STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800];
const NICE = [1, 2, 2.5, 5, 10];

// The step of a scale for about this number of lines; of bytes, a power of two.
export function niceStep(span, lines, isBytes = false) {
  if (isBytes) return 2 ** Math.ceil(Math.log2(span / lines));
  const power = 10 ** Math.floor(Math.log10(span / lines));
  return power * NICE.find((one) => one * power >= span / lines);
}

// Whether the windows of two rows are not adjacent: a row of a coarse tier has the time of its last tick, so the
// distance of two rows is not enough.
export function isGap(beforeMs, ms, intervalMs) {
  return Math.floor((ms - 1) / intervalMs) - Math.floor((beforeMs - 1) / intervalMs) > 1;
}

// The colour of a custom property, for the canvas.
export function color(element, name) {
  return getComputedStyle(element).getPropertyValue(name).trim();
}

// Charts that share a cursor.
export class Group {
  constructor() {
    this.charts = new Set();
    this.cursorMs = null;
  }

  point(ms) {
    this.cursorMs = ms;
    for (const chart of this.charts) chart.redraw();
  }
}

export class Chart {
  // `format` turns a value into text; `onZoom(startMs, endMs)`, if given, is called after a drag.
  constructor(place, { title, format, height = 120, group = new Group(), onZoom = null }) {
    Object.assign(this, { title, format, height, group, onZoom });
    this.times = [];
    this.lines = [];
    this.marks = [];
    this.canvas = document.createElement("canvas");
    this.canvas.className = "chart";
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", title);
    this.values = document.createElement("output");
    this.values.className = "values";
    place.append(this.canvas, this.values);
    group.charts.add(this);
    this.listen();
    this.observer = new ResizeObserver(() => this.redraw());
    this.observer.observe(this.canvas);
  }

  remove() {
    this.observer.disconnect();
    this.group.charts.delete(this);
    this.canvas.remove();
    this.values.remove();
  }

  // `lines` are {name, color, values, low, high}: values for each of `times` (ms), null without a value.
  // `marks` are times at which something happened.
  set(times, lines, { startMs, endMs, intervalMs = 1000, marks = [] }) {
    Object.assign(this, { times, lines, startMs, endMs, intervalMs, marks });
    let low = 0, high = -Infinity;
    for (const line of lines) {
      for (const values of [line.values, line.high]) {
        for (const value of values ?? []) {
          if (value == null) continue;
          if (value > high) high = value;
          if (value < low) low = value;
        }
      }
    }
    this.low = low;
    this.high = high > low ? high : low + 1;
    this.canvas.setAttribute("aria-label", this.summary());
    this.redraw();
  }

  summary() {
    const told = this.lines.slice(0, 8).map((line) => {
      const last = line.values.findLast((value) => value != null);
      return `${line.name} ${this.format(last)}`;
    });
    return `${this.title}: ${told.join(", ") || "no values"}`;
  }

  redraw() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.draw();
    });
  }

  x(ms) {
    return LEFT + ((ms - this.startMs) / (this.endMs - this.startMs || 1)) * (this.canvas.clientWidth - LEFT - RIGHT);
  }

  y(value) {
    return TOP + (1 - (value - this.low) / (this.high - this.low)) * (this.height - TOP - BOTTOM);
  }

  ms(x) {
    return this.startMs + ((x - LEFT) / (this.canvas.clientWidth - LEFT - RIGHT || 1)) * (this.endMs - this.startMs);
  }

  draw() {
    const width = this.canvas.clientWidth, ratio = window.devicePixelRatio || 1;
    if (!width || this.startMs == null) return;
    this.canvas.width = width * ratio;
    this.canvas.height = this.height * ratio;
    const g = this.canvas.getContext("2d");
    g.scale(ratio, ratio);
    g.font = "11px system-ui, sans-serif";
    g.textBaseline = "middle";
    this.drawScales(g, width);
    for (const line of this.lines) this.drawLine(g, line);
    this.drawMarks(g);
    this.drawCursor(g);
  }

  drawScales(g, width) {
    const grid = color(this.canvas, "--grid"), text = color(this.canvas, "--quiet");
    const step = niceStep(this.high - this.low, 3, this.format === bytes);
    g.textAlign = "right";
    for (let value = Math.ceil(this.low / step) * step; value <= this.high; value += step) {
      g.fillStyle = grid;
      g.fillRect(LEFT, Math.round(this.y(value)), width - LEFT - RIGHT, 1);
      g.fillStyle = text;
      g.fillText(this.format(value), LEFT - 6, this.y(value));
    }
    const wanted = (this.endMs - this.startMs) / 1000 / (width / 90);
    const seconds = TIME_STEPS.find((one) => one >= wanted) ?? 604800;
    const offset = new Date(this.endMs).getTimezoneOffset() * 60e3; // steps are at whole local hours and days
    g.textAlign = "center";
    for (let ms = Math.ceil((this.startMs - offset) / seconds / 1000) * seconds * 1000 + offset; ms <= this.endMs; ms += seconds * 1000) {
      g.fillStyle = grid;
      g.fillRect(Math.round(this.x(ms)), TOP, 1, this.height - TOP - BOTTOM);
      g.fillStyle = text;
      const label = seconds >= 43200 ? date(ms).slice(5) : clock(ms, seconds < 60);
      g.fillText(label, Math.min(width - 24, Math.max(LEFT + 16, this.x(ms))), this.height - 9);
    }
  }

  drawLine(g, line) {
    const stroke = color(this.canvas, line.color);
    for (const [first, last] of this.runs(line)) {
      if (line.high && line.low) {
        g.globalAlpha = 0.2;
        g.fillStyle = stroke;
        g.beginPath();
        for (let i = first; i <= last; i++) g.lineTo(this.x(this.times[i]), this.y(line.high[i]));
        for (let i = last; i >= first; i--) g.lineTo(this.x(this.times[i]), this.y(line.low[i]));
        g.fill();
        g.globalAlpha = 1;
      }
      g.strokeStyle = stroke;
      g.lineWidth = 1.5;
      g.beginPath();
      if (first === last) g.arc(this.x(this.times[first]), this.y(line.values[first]), 1, 0, 7);
      for (let i = first; i <= last; i++) g.lineTo(this.x(this.times[i]), this.y(line.values[i]));
      g.stroke();
    }
  }

  // Runs of rows without a gap: the first and the last of each.
  runs(line) {
    const found = [];
    let first = null;
    for (let i = 0; i < this.times.length; i++) {
      const isThere = line.values[i] != null;
      const breaks = i > 0 && isGap(this.times[i - 1], this.times[i], this.intervalMs);
      if (first != null && (!isThere || breaks)) {
        found.push([first, i - 1]);
        first = null;
      }
      if (isThere) first ??= i;
    }
    if (first != null) found.push([first, this.times.length - 1]);
    return found;
  }

  drawMarks(g) {
    g.strokeStyle = g.fillStyle = color(this.canvas, "--mark");
    g.setLineDash([3, 3]);
    for (const ms of this.marks) {
      if (ms < this.startMs || ms > this.endMs) continue;
      g.beginPath();
      g.moveTo(this.x(ms), TOP);
      g.lineTo(this.x(ms), this.height - BOTTOM);
      g.stroke();
    }
    g.setLineDash([]);
  }

  drawCursor(g) {
    const ms = this.group.cursorMs;
    const isIn = ms != null && ms >= this.startMs && ms <= this.endMs && this.times.length;
    this.values.textContent = isIn ? this.told(this.nearest(ms)) : "";
    if (!isIn) return;
    g.fillStyle = color(this.canvas, "--quiet");
    g.fillRect(Math.round(this.x(this.times[this.nearest(ms)])), TOP, 1, this.height - TOP - BOTTOM);
    if (this.dragMs != null) {
      g.globalAlpha = 0.15;
      g.fillRect(Math.min(this.x(this.dragMs), this.x(ms)), TOP, Math.abs(this.x(ms) - this.x(this.dragMs)), this.height - TOP - BOTTOM);
      g.globalAlpha = 1;
    }
  }

  told(i) {
    const values = this.lines.map((line) => `${line.name} ${this.format(line.values[i])}`);
    return `${date(this.times[i])} ${clock(this.times[i])}  ${values.join("  ")}`;
  }

  nearest(ms) {
    let low = 0, high = this.times.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.times[middle] < ms) low = middle + 1;
      else high = middle;
    }
    return low > 0 && ms - this.times[low - 1] < this.times[low] - ms ? low - 1 : low;
  }

  listen() {
    const canvas = this.canvas;
    canvas.addEventListener("pointermove", (event) => this.group.point(this.ms(event.offsetX)));
    canvas.addEventListener("pointerleave", () => this.group.point(null));
    canvas.addEventListener("pointerdown", (event) => {
      if (!this.onZoom) return;
      this.dragMs = this.ms(event.offsetX);
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointerup", (event) => {
      const from = this.dragMs, to = this.ms(event.offsetX);
      this.dragMs = null;
      if (from != null && Math.abs(to - from) > 0.015 * (this.endMs - this.startMs)) this.onZoom(Math.min(from, to), Math.max(from, to));
    });
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("blur", () => this.group.point(null));
  }

  // Left and right move the cursor; + and - zoom around it.
  key(event) {
    if (!this.times.length) return;
    const at = this.nearest(this.group.cursorMs ?? this.endMs), last = this.times.length - 1;
    const step = event.shiftKey ? 10 : 1;
    const to = { ArrowLeft: Math.max(0, at - step), ArrowRight: Math.min(last, at + step), Home: 0, End: last }[event.key];
    if (to != null) {
      this.group.point(this.times[to]);
      event.preventDefault();
    } else if (this.onZoom && ["+", "=", "-"].includes(event.key)) {
      const half = ((this.endMs - this.startMs) / 2) * (event.key === "-" ? 2 : 0.5);
      this.onZoom(this.times[at] - half, this.times[at] + half);
    }
  }
}
