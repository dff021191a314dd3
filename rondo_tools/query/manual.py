"""What each command of rondo-query says of itself, by example."""

DESCRIPTION = """\
Look into a store of rondo-store, also while it is being written.

  rondo-query vmm_metrics list
  rondo-query vmm_metrics read 'vcpu_exits_total{reason="io"}' --rate
  rondo-query vmm_metrics read '{instance=~"vm-.*"}' --range 10m --format csv > vm.csv
  rondo-query vmm_metrics plot 'vcpu_exits_total' --rate
  rondo-query vmm_metrics tail '{instance="vm-1"}'

Each command has its own help: rondo-query STORE read --help
"""

NOTHING = "Like grep, it ends with exit status 1 when there is nothing to show."

SELECTOR = """\
SELECTOR is written as in Prometheus, NAME{LABEL="VALUE", ...}, with = != =~ !~; the labels are
instance, those of the VM and those of the series, and {} means everything:

  vmm_rss_bytes    vcpu_exits_total{reason=~"io|mmio"}    {__name__=~"blk_.+",instance="vm-1"}
"""

LIST = """\
One line for each session, which is one life of an instance, by start:

  instance  session  first  last  state  age_s  series  ticks

session is the time it began, first and last are its oldest and newest tick, age_s the seconds since the
last. state is how it ended (poweroff, reset, shutdown, deadline, signal, error, gone, clock, or lost:
given up by the store, until it comes back), or running, or silent: no end, and no tick for three
intervals and five seconds, or the last one as far ahead of the clock (age_s is negative). series and
ticks are all that it has had; how many ticks are still there is a matter of the tiers.

  rondo-query vmm_metrics list --state silent,lost --since 1h
  rondo-query vmm_metrics list --match '{instance=~"vm-.*"}' -n 20
  rondo-query vmm_metrics list --sort ticks --reverse | head
"""

READ = f"""\
Print samples, one a line: time, session, series, value, each session by itself.

  rondo-query vmm_metrics read 'vcpu_exits_total{{reason="io"}}' --rate --range 10m
  rondo-query vmm_metrics read vmm_rss_bytes | awk '$4+0 > m {{m = $4}} END {{print m}}'
  rondo-query vmm_metrics read '{{}}' --format json | jq -c 'select(.value == null)'

{SELECTOR}
"""

PLOT = f"""\
Draw series in the terminal, each session by itself, or into a file. The terminal needs plotext (pip
install 'rondo-tools[plot]'), a file matplotlib (pip install 'rondo-tools[plot-file]').

  rondo-query vmm_metrics plot vcpu_exits_total --rate
  rondo-query vmm_metrics plot vmm_rss_bytes --start 2026-11-23T09:00:00Z --end 2026-11-23T10:00:00Z
  rondo-query vmm_metrics plot blk_request_duration_ns --range 10m --output slow-disk.svg

{SELECTOR}
"""

TAIL = f"""\
Follow running sessions: a line for each tick, as it arrives, with the time, the instance and the
values of the series; a line of names before it, and again when the series change.

  rondo-query vmm_metrics tail '{{instance="vm-1",__name__=~"vmm_.+"}}'
  rondo-query vmm_metrics tail vcpu_exits_total --rate --new
  rondo-query vmm_metrics tail vmm_rss_bytes --lines 0 | awk '$3+0 > 64e6'

It ends when every session that it follows has ended, was lost or fell silent, which it says on standard
error; one that comes back before is followed again. With --new it does not end before Ctrl-C.

{SELECTOR}
"""

EXPORT = f"""\
Print samples for other programs. csv and jsonl have the records of `read`; openmetrics is what
Prometheus' promtool makes blocks of, so that what was never pushed can still be put in:

  rondo-query vmm_metrics export '{{}}' --format openmetrics --label job=rondo-vmm > vmm.om
  promtool tsdb create-blocks-from openmetrics vmm.om /var/lib/prometheus

  rondo-query vmm_metrics export '{{instance="vm-1"}}' --format jsonl --tier 1 | gzip > vm-1.jsonl.gz

rondo-push gives every series the label job="rondo-vmm"; to continue its series, add it.

{SELECTOR}
"""

CHECK = """\
Look for damage in the store, also while it is written: one line a finding, the file and what is wrong
with it. Every frame of every file, what the files say of one another, and that the coarse rows are the
roll-up of the ticks, where these are still there.

  rondo-query vmm_metrics check && tar czf vmm_metrics.tgz vmm_metrics
  rondo-query vmm_metrics check | cut -d: -f1 | sort | uniq -c

The exit status is 0 when there is nothing wrong, 65 when there is, or when something could not be looked
at, for want of permission perhaps. A frame that is not whole is served to nobody: damage costs what it
hit.
"""

STREAM = f"""\
Turn stored sessions back into the stream that rondo-store reads: to merge stores, to move a VM's life
to another one, to keep it in a file.

  rondo-query vmm_metrics stream | rondo-store all_metrics
  rondo-query vmm_metrics stream '{{instance="vm-1"}}' > vm-1.stream

Each session goes whole, with all its series and every tick that is still there: of one that is over the
last ten minutes at least, of one that is still running what there is now. How many ticks are no longer
there is said on standard error. Given to the same store again, it changes nothing.

{SELECTOR}
"""

DUMP = f"""\
Write all that the store holds as one stream, also while it is written: every tick, the rows of all tiers,
sessions that have ended, and where pushes stand. `rondo-store DIR --restore` reads it.

  rondo-query vmm_metrics dump | rondo-store moved_metrics --restore
  rondo-query vmm_metrics dump | zstd > vmm_metrics.dump.zst
  rondo-query vmm_metrics dump '{{instance="vm-1"}}' > vm-1.dump

What a producer writes after the dump has begun is not in it. To move a store, stop rondo-store and
rondo-push first.

{SELECTOR}
"""
