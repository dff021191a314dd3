// Lives as bars: start, end and end reason of each VM that began in the last ten minutes.
import { clock, duration } from "./format.js";
import { color } from "./chart.js";

const SPAN = 600e3, ROW = 9, BAR = 7, HEIGHT = 150, LISTED = 50;

// The look of an end: a colour, and a sign for those who do not see colours.
const LOOKS = {
  running: ["--good", "▶"],
  poweroff: ["--plain", ""],
  signal: ["--plain", "■"],
  gone: ["--plain", "□"],
  deadline: ["--warn", "◷"],
  reset: ["--warn", "↻"],
  clock: ["--warn", "◷"],
  shutdown: ["--bad", "✕"],
  error: ["--bad", "✕"],
  lost: ["--bad", "?"],
  silent: ["--bad", "?"],
};
const look = (state) => LOOKS[state] ?? ["--plain", "·"];

export class Lives {
  constructor(place, key, list, onPick) {
    this.key = key;
    this.list = list;
    this.bars = [];
    this.canvas = document.createElement("canvas");
    this.canvas.className = "lives";
    this.canvas.setAttribute("role", "img");
    place.append(this.canvas);
    this.canvas.addEventListener("pointermove", (event) => {
      this.canvas.title = this.at(event)?.title ?? "";
    });
    this.canvas.addEventListener("click", (event) => {
      const bar = this.at(event);
      if (bar) onPick(bar.life);
    });
    this.onPick = onPick;
    new ResizeObserver(() => this.fleet && this.draw(this.fleet)).observe(this.canvas);
  }

  at(event) {
    return this.bars.find((bar) => event.offsetY >= bar.y && event.offsetY < bar.y + ROW && event.offsetX >= bar.from - 3 && event.offsetX <= bar.to + 8);
  }

  draw(fleet) {
    this.fleet = fleet;
    const lives = [...fleet.lives.values()].sort((a, b) => a.startMs - b.startMs);
    const hidden = this.drawBars(fleet.nowMs, lives);
    const ended = lives.filter((life) => life.state !== "running").length;
    this.canvas.setAttribute("aria-label", `${lives.length} VMs began in the last ten minutes, ${ended} of them ended; below as a list`);
    this.drawKey(lives, hidden);
    if (this.list.open) this.drawList(lives, fleet.nowMs);
  }

  drawBars(nowMs, lives) {
    const width = this.canvas.clientWidth, ratio = window.devicePixelRatio || 1;
    if (!width) return 0;
    this.canvas.width = width * ratio;
    this.canvas.height = HEIGHT * ratio;
    const g = this.canvas.getContext("2d");
    g.scale(ratio, ratio);
    g.font = "11px system-ui, sans-serif";
    const x = (ms) => width - ((nowMs - ms) / SPAN) * width;
    for (let minute = 0; minute <= 10; minute += 2) {
      g.fillStyle = color(this.canvas, "--grid");
      g.fillRect(Math.round(x(nowMs - minute * 60e3)), 0, 1, HEIGHT - 14);
      g.fillStyle = color(this.canvas, "--quiet");
      g.fillText(minute ? `-${minute} min` : "now", Math.min(width - 26, x(nowMs - minute * 60e3) + 3), HEIGHT - 3);
    }
    const free = []; // the end of the last bar in each row
    let hidden = 0;
    this.bars = [];
    for (const life of lives) {
      const [name, sign] = look(life.state);
      const endMs = life.state === "running" ? nowMs : life.endMs || life.lastMs;
      const from = Math.max(0, x(life.startMs)), to = Math.max(from + 2, x(endMs));
      let row = free.findIndex((end) => end < from - 12);
      if (row < 0) row = free.length;
      const y = 2 + row * ROW;
      if (y + ROW > HEIGHT - 14) {
        hidden++;
        continue;
      }
      free[row] = to;
      g.fillStyle = color(this.canvas, name);
      g.fillRect(from, y, to - from, BAR);
      if (sign && life.state !== "running") g.fillText(sign, to + 1, y + BAR);
      this.bars.push({ life, from, to, y, title: `${life.name}: ${life.state}, lived ${duration(endMs - life.startMs)}, from ${clock(life.startMs)}` });
    }
    return hidden;
  }

  drawKey(lives, hidden) {
    const counts = new Map();
    for (const life of lives) counts.set(life.state, (counts.get(life.state) ?? 0) + 1);
    const told = [...counts].map(([state, count]) => [look(state)[0], `${look(state)[1]} ${state} ${count}`.trim()]);
    if (hidden) told.push(["--plain", `${hidden} more are not drawn`]);
    if (!told.length) told.push(["--plain", "none"]);
    const text = told.join();
    if (text === this.text) return;
    this.text = text;
    this.key.replaceChildren(...told.map(([name, words]) => swatch(name, words)));
  }

  drawList(lives, nowMs) {
    const table = this.list.querySelector("table");
    const rows = lives.slice(-LISTED).reverse().map((life) => {
      const row = document.createElement("tr");
      const endMs = life.state === "running" ? nowMs : life.endMs || life.lastMs;
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = life.name;
      button.addEventListener("click", () => this.onPick(life));
      row.insertCell().append(button);
      for (const text of [clock(life.startMs), life.state, duration(endMs - life.startMs)]) row.insertCell().textContent = text;
      return row;
    });
    const head = document.createElement("tr");
    for (const text of ["VM", "began", "state", "lived"]) {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.textContent = text;
      head.append(cell);
    }
    table.replaceChildren(head, ...rows);
  }
}

// An entry of a legend: a coloured square, and text.
export function swatch(name, words) {
  const item = document.createElement("li");
  const square = document.createElement("i");
  square.className = "swatch " + name.replace("--", "is-");
  item.append(square, words);
  return item;
}
