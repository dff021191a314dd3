"""Help texts shared by the commands of rondo-query."""

DESCRIPTION = """\
Look into a store of rondo-store, also while it is being written.

  rondo-query list
  rondo-query vmm_metrics top
  rondo-query vmm_metrics list
  rondo-query vmm_metrics read 'vcpu_exits_total{reason="io"}' --rate
  rondo-query vmm_metrics read '{instance=~"vm-.*"}' --range 10m --format csv > vm.csv
  rondo-query vmm_metrics plot 'vcpu_exits_total' --rate
  rondo-query vmm_metrics tail '{instance="vm-1"}'

STORE is the folder that rondo-store writes, before or after the command. The default is $RONDO_STORE, else
./vmm_metrics, else /var/lib/rondo/vmm_metrics. If a series or an instance has the name of a store's folder,
give STORE too.

Each command has its own help: rondo-query read --help
"""

STORE = (
    "the folder that rondo-store writes (default: $RONDO_STORE, ./vmm_metrics, /var/lib/rondo/vmm_metrics)"
)

NOTHING = "Like grep, it exits with status 1 if there is nothing to show."

SELECTOR = """\
SELECTOR is written as in Prometheus, NAME{LABEL="VALUE", ...}, with = != =~ !~; the labels are
instance, those of the VM and those of the series, and {} selects everything:

  vmm_rss_bytes    vcpu_exits_total{reason=~"io|mmio"}    {__name__=~"blk_.+",instance="vm-1"}

A bare word is a metric if the store has one of that name, else an instance: vm-1 is {instance="vm-1"}.
"""
