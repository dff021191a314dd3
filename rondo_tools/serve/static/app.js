// The live page: asks the server once a second for changes, and draws them. It does not ask while the tab is
// hidden or paused, and shows when the answers are late.
import { Chart } from "./chart.js";
import { Fleet } from "./fleet.js";
import * as format from "./format.js";
import { Lives } from "./lives.js";
import { set, Table } from "./table.js";
import { VmView } from "./vm.js";

const EVERY = 1000, SLOWEST = 5000, PATIENCE = 10000, LATE = 5000;
const MOST_RANGE = 366 * 86400e3, MOST_MS = 1e14; // in an address, which may be written by hand
const $ = (id) => document.getElementById(id);
const search = new URLSearchParams(location.search);

const fleet = new Fleet();
const host = new Chart($("host"), { title: "Exits a second, all VMs", format: format.count, height: 110 });
const pick = (life) => vmView.open(vmOf(life.name, life.startMs) ?? life);
const lives = new Lives($("lives"), $("lives-key"), $("lives-list"), pick);
const table = new Table($("vms"), $("shown"), $("more"), {
  sort: search.get("sort") ?? "exits",
  isDown: search.get("order") !== "up",
  onPick: pick,
  onChange: keepAddress,
});
const vmView = new VmView($("vm"), { fetchJson, onChange: keepAddress });

let isPaused = false, isAsking = false, answeredAt = null, wait = EVERY, timer = null, wanted = Math.max(0, Math.round(Number(search.get("session")))) || null;
let hasFailed = "";

function vmOf(name, startMs) {
  let found = null;
  for (const vm of fleet.vms.values()) {
    if (vm.name === name && (startMs == null || vm.startMs === startMs) && !(found?.startMs > vm.startMs)) found = vm;
  }
  return found;
}

async function fetchJson(path) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(PATIENCE), cache: "no-store" });
  if (!answer.ok) throw new Error((await answer.text()).slice(0, 500) || `status ${answer.status}`);
  return answer.json();
}

async function poll() {
  [timer, isAsking] = [null, true];
  const began = performance.now();
  try {
    fleet.take(await fetchJson(`api/v1/live?since=${fleet.seq}`));
    [answeredAt, wait, hasFailed] = [performance.now(), EVERY, ""];
    draw();
    openWanted();
    vmView.follow(vmOf);
    vmView.refresh(fleet);
  } catch (error) {
    hasFailed = error.name === "TimeoutError" ? "no answer" : error.message;
    wait = Math.min(SLOWEST, wait * 1.5);
  }
  isAsking = false;
  sayLate();
  if (!document.hidden && !isPaused) timer = setTimeout(poll, Math.max(100, wait - (performance.now() - began)));
}

function go() {
  if (timer == null && !isAsking && !document.hidden && !isPaused) poll();
}

function sayLate() {
  const ageMs = answeredAt == null ? Infinity : performance.now() - answeredAt;
  const text = isPaused ? "paused" : (answeredAt == null ? hasFailed : ageMs > LATE) ? `data is late: ${hasFailed || "no answer yet"}` : "";
  set($("late"), text);
}

function draw() {
  const total = fleet.totals();
  tiles([
    ["running", format.count(total.running)],
    ["began, 1 min", format.count(total.born)],
    ["ended, 1 min", format.count(total.ended)],
    ["lost", format.count(total.lost)],
    ["exits/s", format.count(total.exits)],
    ["CPU", format.percent(total.cpu)],
    ["steal", format.percent(total.steal)],
    ["RSS", format.bytes(total.rss)],
  ]);
  health();
  const { times, values } = fleet.hostLine();
  host.set(times, [{ name: "exits/s", color: "--line-1", values }], { startMs: times[0], endMs: times.at(-1) });
  lives.draw(fleet);
  table.draw(fleet);
}

function tiles(facts) {
  const list = $("tiles");
  while (list.children.length < facts.length) {
    const box = document.createElement("div");
    box.append(document.createElement("dt"), document.createElement("dd"));
    list.append(box);
  }
  facts.forEach(([name, value], i) => {
    set(list.children[i].children[0], name);
    set(list.children[i].children[1], value);
  });
}

// Each item has a word; the colour only repeats it.
function health() {
  const list = $("health");
  while (list.children.length > fleet.health.length) list.lastChild.remove();
  fleet.health.forEach(({ what, level, word, text }, i) => {
    const item = list.children[i] ?? list.appendChild(document.createElement("li"));
    item.className = "level-" + (["good", "plain", "warn", "bad"].includes(level) ? level : "warn");
    set(item, `${what}: ${word}${text ? `, ${text}` : ""}`);
  });
}

// The VM that the address names, once it is known.
function openWanted() {
  if (!search.has("vm") || vmView.vm) return;
  const vm = vmOf(search.get("vm"), wanted) ?? (wanted ? { name: search.get("vm"), startMs: wanted, state: "ended", endMs: 0, lastMs: 0, labels: {} } : null);
  if (!vm) return;
  const number = (name) => Number(search.get(name)) || 0;
  const rangeMs = number("range"), startMs = Math.round(number("start")), endMs = Math.round(number("end"));
  const fixed = startMs > 0 && startMs < endMs && endMs < MOST_MS ? { startMs, endMs } : {};
  vmView.open(vm, { ...(rangeMs >= 1000 && rangeMs <= MOST_RANGE ? { rangeMs } : {}), ...fixed });
  search.delete("vm");
}

function keepAddress() {
  const address = new URLSearchParams();
  if (table.sort !== "exits" || !table.isDown) address.set("sort", table.sort);
  if (!table.isDown) address.set("order", "up");
  if (table.filter) address.set("q", table.filter);
  for (const [name, value] of Object.entries(vmView.state ?? {})) address.set(name, value);
  history.replaceState(null, "", address.size ? `?${address}` : location.pathname);
  if (fleet.seq) vmView.refresh(fleet);
}

$("find").value = table.filter = search.get("q") ?? "";
$("find").addEventListener("input", () => {
  table.filter = $("find").value.trim();
  table.draw(fleet);
  keepAddress();
});
$("lives-list").addEventListener("toggle", () => lives.draw(fleet));
$("pause").addEventListener("click", () => {
  isPaused = !isPaused;
  $("pause").setAttribute("aria-pressed", String(isPaused));
  set($("pause"), isPaused ? "Resume" : "Pause");
  clearTimeout(timer);
  timer = null;
  sayLate();
  go();
});
document.addEventListener("visibilitychange", () => {
  clearTimeout(timer);
  timer = null;
  go();
});
setInterval(sayLate, 1000);
go();
