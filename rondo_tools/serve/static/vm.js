// One life of a VM: its series in charts, from a minute to a week.
import * as format from "./format.js";
import { Chart, Group } from "./chart.js";
import { swatch } from "./lives.js";

const RANGES = [["1 min", 60e3], ["10 min", 600e3], ["6 h", 21600e3], ["7 d", 604800e3]];
const RETRY = 3000;
const LINES = ["--line-1", "--line-2", "--line-3", "--line-4", "--line-5", "--line-6"];
// Titles of charts, in their order. Other series have a chart for each name.
const TITLES = {
  vcpu_exits_total: "Exits a second, by reason",
  vcpu_exit_duration_ns: "Time to handle an exit",
  vcpu_run_duration_ns: "Time in the guest between exits",
  vcpu_cpu_seconds_total: "CPU of the vCPUs",
  vcpu_wait_seconds_total: "Steal: vCPUs that wait for a CPU",
  vmm_cpu_seconds_total: "CPU of the VMM",
  blk_requests_total: "Disk requests a second",
  blk_bytes_total: "Disk bytes a second",
  blk_request_duration_ns: "Disk latency",
  net_bytes_total: "Network bytes a second",
  net_packets_total: "Network packets a second",
  vmm_rss_bytes: "RSS",
  vmm_open_fds: "Open descriptors",
  vmm_uptime_seconds: "Uptime",
};

function formatOf(series) {
  if (series.kind === "counter" && series.unit === "seconds") return format.percent;
  if (series.unit === "bytes") return format.bytes;
  return series.unit === "nanoseconds" || series.name.endsWith("_ns") ? format.nanoseconds : format.count;
}

export class VmView {
  // `fetchJson(path)` asks the server; `onChange()` is called when the view has changed.
  constructor(section, { fetchJson, onChange }) {
    Object.assign(this, { section, fetchJson, onChange });
    this.charts = [];
    this.asked = 0;
  }

  // The parameters of the address for this view; null if no VM is open.
  get state() {
    if (!this.vm) return null;
    const { name, startMs } = this.vm;
    return { vm: name, session: startMs, ...(this.fixed ? { start: this.startMs, end: this.endMs } : { range: this.rangeMs }) };
  }

  open(vm, { rangeMs = 600e3, startMs = null, endMs = null } = {}) {
    this.vm = vm;
    this.rangeMs = rangeMs;
    this.fixed = startMs != null;
    if (this.fixed) Object.assign(this, { startMs, endMs });
    this.refreshMs = 0;
    this.asked++; // ignore an answer that is still on its way
    this.section.hidden = false;
    this.build();
    this.onChange();
  }

  close() {
    this.vm = null;
    this.clear();
    this.section.hidden = true;
    this.section.replaceChildren();
    this.onChange();
  }

  // Take the fleet's current object for this life, which may have been replaced.
  follow(vmOf) {
    if (this.vm) this.vm = vmOf(this.vm.name, this.vm.startMs) ?? this.vm;
  }

  clear() {
    for (const chart of this.charts) chart.remove();
    this.charts = [];
  }

  build() {
    this.clear();
    this.heading = element("h2", this.vm.name);
    this.heading.id = "vm-name";
    this.heading.tabIndex = -1;
    this.facts = element("p", "", "facts");
    this.facts.setAttribute("role", "status");
    const tools = element("p", "", "tools");
    for (const [title, ms] of RANGES) tools.append(this.button(title, () => this.open(this.vm, { rangeMs: ms }), !this.fixed && ms === this.rangeMs));
    tools.append(this.button("Close", () => this.close()));
    this.place = element("div", "", "charts");
    this.command = element("code", "");
    const copy = this.button("Copy", () => navigator.clipboard?.writeText(this.command.textContent));
    const line = element("p", "", "command");
    line.append("The same as text: ", this.command, " ", copy);
    this.section.replaceChildren(this.heading, this.facts, tools, this.place, line);
    this.heading.focus({ preventScroll: false });
  }

  button(title, action, isPressed) {
    const button = element("button", title);
    button.type = "button";
    if (isPressed !== undefined) button.setAttribute("aria-pressed", String(isPressed));
    button.addEventListener("click", action);
    return button;
  }

  // Ask for the range again if it is due: a week does not change each second.
  async refresh(fleet) {
    if (!this.vm || performance.now() < this.refreshMs || this.busy) return;
    if (!this.fixed) {
      const isOver = this.vm.state !== "running" && this.vm.state !== "silent";
      this.endMs = isOver && this.vm.endMs ? Math.min(fleet.nowMs, this.vm.endMs + this.rangeMs * 0.02) : fleet.nowMs;
      this.startMs = this.endMs - this.rangeMs;
      this.refreshMs = performance.now() + Math.max(1000, this.rangeMs / 600);
    } else this.refreshMs = Infinity;
    const asked = ++this.asked;
    const query = new URLSearchParams({ instance: this.vm.name, session: this.vm.startMs, start: Math.round(this.startMs), end: Math.round(this.endMs) });
    this.busy = true;
    try {
      const data = await this.fetchJson(`api/v1/range?${query}`);
      if (asked === this.asked && this.vm) this.show(data, fleet);
    } catch (error) {
      if (asked === this.asked && this.vm) {
        this.facts.textContent = error.message;
        this.refreshMs = performance.now() + RETRY;
      }
    } finally {
      this.busy = false;
    }
    if (asked !== this.asked) this.refresh(fleet); // another VM was opened meanwhile
  }

  show(data, fleet) {
    const tier = data.tier ? `rows of ${format.duration(data.interval_ms)} (tier ${data.tier}): ${data.why}` : "every tick";
    this.facts.textContent = `${this.vm.state}, began ${format.moment(this.vm.startMs)}; ${format.moment(data.start_ms)} to ${format.clock(data.end_ms)}, ${data.t_ms.length} rows, ${tier}`;
    const quoted = this.vm.name.replaceAll("\\", "\\\\").replaceAll('"', '\\"');
    this.command.textContent = `rondo-query ${shell(fleet.store)} read ${shell(`{instance="${quoted}"}`)} --start ${format.iso(data.start_ms)} --end ${format.iso(data.end_ms)}`;
    const groups = new Map();
    for (const series of data.series) {
      if (!groups.has(series.name)) groups.set(series.name, []);
      groups.get(series.name).push(series);
    }
    const names = [...groups.keys()].sort((a, b) => order(a) - order(b));
    if (names.join() !== this.names || !this.charts.length) this.make(names, groups);
    names.forEach((name, i) => this.charts[i].set(data.t_ms, linesOf(groups.get(name)), {
      startMs: data.start_ms, endMs: data.end_ms, intervalMs: data.interval_ms, marks: data.restarts_ms.filter((ms) => ms !== data.session_ms),
    }));
  }

  make(names, groups) {
    this.clear();
    this.place.replaceChildren();
    this.names = names.join();
    const group = new Group();
    for (const name of names) {
      const figure = element("figure", "");
      const title = TITLES[name] ?? name.replaceAll("_", " ");
      const lines = linesOf(groups.get(name));
      const caption = element("figcaption", title);
      if (lines.length > 1) {
        const key = element("ul", "", "key");
        key.append(...lines.map((line) => swatch(line.color, line.name)));
        caption.append(key);
      }
      figure.append(caption);
      this.place.append(figure);
      this.charts.push(new Chart(figure, { title, format: formatOf(groups.get(name)[0]), group, onZoom: (startMs, endMs) => this.open(this.vm, { startMs: Math.round(startMs), endMs: Math.round(endMs), rangeMs: this.rangeMs }) }));
    }
  }
}

const order = (name) => {
  const place = Object.keys(TITLES).indexOf(name);
  return place < 0 ? 99 : place;
};

// The lines of the series of one name; a gauge in a coarse tier has one line with a band.
function linesOf(several) {
  const found = new Map();
  for (const series of several) {
    const name = Object.values(series.labels).join(" ") || "value";
    if (!found.has(name)) found.set(name, { name, color: LINES[found.size % LINES.length] });
    const part = { min: "low", max: "high" }[series.aggregate] ?? "values";
    found.get(name)[part] = series.values;
  }
  return [...found.values()];
}

const shell = (text) => (/^[\w./:@%+=-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

function element(tag, text, name) {
  const made = document.createElement(tag);
  made.textContent = text;
  if (name) made.className = name;
  return made;
}
