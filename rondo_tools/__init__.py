"""rondo: one-second metrics of microVMs that nothing loses.

The path of a metric, from KVM exit to HTTP request, in the order to read it:
``vmm.vcpu`` counts an exit, ``vmm.sampler`` makes a tick of the counts, ``stream`` encodes it,
``store.keeper`` writes it into a journal, ``store.reader`` reads it, ``push.drain`` picks the new ticks,
``push.encoding`` and ``push.http`` send them.
"""

__version__ = "0.1.0"
