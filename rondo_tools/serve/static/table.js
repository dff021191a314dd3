// The table of VMs: sorted, filtered, with a sparkline each. Only visible rows are in the document.
import * as format from "./format.js";
import { color } from "./chart.js";

const PAGE = 60;
const COLUMNS = [
  { id: "name", title: "VM", of: (vm) => vm.name },
  { id: "state", title: "State", of: (vm) => vm.state },
  { id: "age", title: "Age", of: (vm, fleet) => age(vm, fleet), text: format.duration, number: true },
  { id: "exits", title: "Exits/s", text: format.count, number: true },
  { id: "spark", title: "Last minute" },
  { id: "requests", title: "Disk req/s", text: format.count, number: true },
  { id: "bytes", title: "Disk B/s", text: format.bytes, number: true },
  { id: "latency", title: "Disk latency", text: format.nanoseconds, number: true },
  { id: "cpu", title: "CPU", text: format.percent, number: true },
  { id: "steal", title: "Steal", text: format.percent, number: true },
  { id: "rss", title: "RSS", text: format.bytes, number: true },
];
for (const column of COLUMNS) column.of ??= (vm, fleet) => fleet.value(vm, column.id);

const age = (vm, fleet) => (vm.state === "running" ? fleet.nowMs : vm.endMs || vm.lastMs) - vm.startMs;

export class Table {
  // `onPick(vm)` is called for a chosen VM, `onChange()` when the sort order has changed.
  constructor(table, shown, more, { sort, isDown, onPick, onChange }) {
    Object.assign(this, { table, shown, more, sort, isDown, onPick, onChange });
    if (!COLUMNS.some((column) => column.id === sort && column.id !== "spark")) [this.sort, this.isDown] = ["exits", true];
    this.limit = PAGE;
    this.filter = "";
    this.rows = [];
    const head = table.createTHead().insertRow();
    for (const column of COLUMNS) head.append(this.heading(column));
    this.body = table.createTBody();
    more.addEventListener("click", () => {
      this.limit += PAGE;
      this.draw(this.fleet);
    });
  }

  heading(column) {
    const cell = document.createElement("th");
    cell.scope = "col";
    if (column.number) cell.className = "number";
    if (column.id === "spark") {
      cell.textContent = column.title;
      return cell;
    }
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = column.title;
    button.addEventListener("click", () => {
      this.isDown = this.sort === column.id ? !this.isDown : Boolean(column.number);
      this.sort = column.id;
      this.draw(this.fleet);
      this.onChange();
    });
    cell.append(button);
    column.cell = cell;
    return cell;
  }

  draw(fleet) {
    this.fleet = fleet;
    for (const { id, cell } of COLUMNS) {
      if (!cell) continue;
      if (id === this.sort) cell.setAttribute("aria-sort", this.isDown ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    }
    const all = [...fleet.vms.values()];
    const found = this.filter ? all.filter((vm) => matches(vm, this.filter)) : all;
    found.sort(this.order(fleet));
    const some = found.slice(0, this.limit);
    while (this.rows.length < some.length) this.rows.push(this.row());
    while (this.rows.length > some.length) this.rows.pop().element.remove();
    some.forEach((vm, i) => this.fill(this.rows[i], vm, fleet));
    const text = found.length === all.length ? `${all.length} VMs` : `${found.length} of ${all.length} VMs`;
    const nothing = all.length ? "no VM matches" : "no VM has had a tick in the last minute";
    set(this.shown, found.length === 0 ? nothing : some.length < found.length ? `${text}, ${some.length} shown` : text);
    this.more.hidden = some.length === found.length;
  }

  // VMs without a value come last in both orders.
  order(fleet) {
    const column = COLUMNS.find((one) => one.id === this.sort), sign = this.isDown ? -1 : 1;
    return (a, b) => {
      const x = column.of(a, fleet), y = column.of(b, fleet);
      if (x == null || y == null) return (x == null) - (y == null) || a.id - b.id;
      return (typeof x === "string" ? x.localeCompare(y) : x - y) * sign || a.id - b.id;
    };
  }

  row() {
    const element = this.body.insertRow(), row = { element, cells: {} };
    for (const column of COLUMNS) {
      const cell = element.insertCell();
      if (column.number) cell.className = "number";
      row.cells[column.id] = cell;
    }
    row.button = document.createElement("button");
    row.button.type = "button";
    row.button.className = "name";
    row.button.addEventListener("click", () => this.onPick(row.vm));
    row.cells.name.append(row.button);
    row.canvas = document.createElement("canvas");
    row.canvas.className = "spark";
    row.canvas.setAttribute("aria-hidden", "true");
    row.cells.spark.append(row.canvas);
    return row;
  }

  fill(row, vm, fleet) {
    row.vm = vm;
    set(row.button, vm.name);
    for (const column of COLUMNS) {
      if (column.text) set(row.cells[column.id], column.of(vm, fleet) == null ? "–" : column.text(column.of(vm, fleet)));
    }
    set(row.cells.state, vm.state);
    row.cells.state.className = "state is-" + (/^[a-z]+$/.test(vm.state) ? vm.state : "other");
    spark(row.canvas, fleet.sparkline(vm));
  }
}

// A filter is a part of a name or state, or label=value.
function matches(vm, filter) {
  const text = filter.toLowerCase(), at = filter.indexOf("=");
  if (at > 0 && String(vm.labels[filter.slice(0, at)] ?? "") === filter.slice(at + 1)) return true;
  return vm.name.toLowerCase().includes(text) || vm.state.includes(text);
}

function spark(canvas, values) {
  const width = 120, height = 20, ratio = window.devicePixelRatio || 1;
  if (canvas.width !== width * ratio) {
    canvas.width = width * ratio;
    canvas.height = height * ratio;
  }
  const g = canvas.getContext("2d");
  g.setTransform(ratio, 0, 0, ratio, 0, 0);
  g.clearRect(0, 0, width, height);
  let high = 1;
  for (const value of values) if (value > high) high = value;
  g.strokeStyle = color(canvas, "--line-1");
  g.lineWidth = 1.2;
  g.beginPath();
  let isDown = false;
  values.forEach((value, i) => {
    if (value == null) {
      isDown = false;
      return;
    }
    const x = ((i + 1) / values.length) * width, y = height - 2 - (height - 4) * (value / high);
    if (isDown) g.lineTo(x, y);
    else {
      g.moveTo(x - 1, y);
      g.lineTo(x, y);
    }
    isDown = true;
  });
  g.stroke();
}

export function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
