// The page's data: VMs, lives, the host's exits. Everything has a fixed size, so that a tab that is open for a
// day does not grow. `rondo_tools/serve/live.py` describes the messages.

export const MINUTE = 60;
const HOST = 600;

// Values of the last seconds; a second without a value is a gap.
class Ring {
  constructor(size) {
    this.values = new Float64Array(size);
    this.seconds = new Float64Array(size);
  }

  put(second, value) {
    const at = second % this.values.length;
    this.values[at] = value;
    this.seconds[at] = second;
  }

  // The values up to a second, oldest first; null without a value.
  upTo(second) {
    const size = this.values.length;
    return Array.from({ length: size }, (_, i) => {
      const wanted = second - size + 1 + i;
      const at = ((wanted % size) + size) % size;
      return this.seconds[at] === wanted ? this.values[at] : null;
    });
  }
}

export class Fleet {
  constructor() {
    this.seq = 0;
    this.nowMs = 0;
    this.vms = new Map(); // by id
    this.lives = new Map(); // by name and start
    this.host = new Ring(HOST);
    this.health = [];
    this.store = "STORE";
    this.measures = {}; // a measure's name to its index
  }

  take(message) {
    if (message.vms) this.begin(message);
    for (const delta of message.deltas ?? []) this.add(delta);
    this.forget();
  }

  begin(message) {
    this.vms.clear();
    this.lives.clear();
    this.host = new Ring(HOST);
    this.store = message.store;
    message.measures.forEach((name, place) => (this.measures[name] = place));
    this.moment(message);
    const second = Math.floor(this.nowMs / 1000);
    message.host.forEach((value, i) => this.host.put(second - message.host.length + 1 + i, value));
    for (const [name, startMs, state, endMs, lastMs] of message.lives) this.life(name, startMs, state, endMs, lastMs);
    for (const row of message.vms) this.born(row);
  }

  add(delta) {
    this.moment(delta);
    this.host.put(Math.floor(this.nowMs / 1000), delta.host);
    for (const row of delta.born) this.born(row);
    for (const [id, state, endMs, lastMs, now] of delta.now) {
      const vm = this.vms.get(id);
      if (!vm) continue;
      if (lastMs !== vm.lastMs) this.spark(vm, Math.floor(lastMs / 1000), now[this.measures.exits]);
      Object.assign(vm, { state, endMs, lastMs, now });
      this.life(vm.name, vm.startMs, state, endMs, lastMs);
    }
    for (const id of delta.gone) this.vms.delete(id);
  }

  moment(message) {
    this.seq = message.seq;
    this.nowMs = message.now_ms;
    this.health = message.health;
  }

  born([id, name, startMs, labels, state, endMs, lastMs, now, spark]) {
    const vm = { id, name, startMs, labels, state, endMs, lastMs, now, ring: new Ring(MINUTE) };
    const second = Math.floor(this.nowMs / 1000);
    spark.forEach((value, i) => value != null && vm.ring.put(second - spark.length + 1 + i, value));
    this.vms.set(id, vm);
    this.life(name, startMs, state, endMs, lastMs);
  }

  spark(vm, second, exits) {
    if (exits != null) vm.ring.put(second, exits);
  }

  life(name, startMs, state, endMs, lastMs) {
    if (startMs > this.nowMs - HOST * 1000) this.lives.set(`${startMs} ${name}`, { name, startMs, state, endMs, lastMs });
  }

  forget() {
    for (const [key, life] of this.lives) if (life.startMs <= this.nowMs - HOST * 1000) this.lives.delete(key);
  }

  value(vm, measure) {
    return vm.now[this.measures[measure]];
  }

  hostLine() {
    const second = Math.floor(this.nowMs / 1000);
    return { times: Array.from({ length: HOST }, (_, i) => (second - HOST + 1 + i) * 1000), values: this.host.upTo(second) };
  }

  sparkline(vm) {
    return vm.ring.upTo(Math.floor(this.nowMs / 1000));
  }

  // The host's numbers now; null if no running VM has a value.
  totals() {
    const total = { running: 0, born: 0, ended: 0, lost: 0, exits: null, cpu: null, steal: null, rss: null };
    const since = this.nowMs - 60e3;
    for (const vm of this.vms.values()) {
      if (vm.startMs > since) total.born++;
      if (vm.state === "silent" || vm.state === "lost") total.lost++;
      else if (vm.state !== "running") total.ended++;
      if (vm.state !== "running") continue;
      total.running++;
      for (const name of ["exits", "cpu", "steal", "rss"]) {
        const value = this.value(vm, name);
        if (value != null) total[name] += value;
      }
    }
    return total;
  }
}
