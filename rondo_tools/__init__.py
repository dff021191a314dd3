"""rondo: one-second metrics of microVMs that nothing loses.

The path of a metric, from KVM exit to HTTP request, in the order to read it:
``vmm.vcpu`` counts an exit, ``vmm.sampler`` makes a tick of the counts, ``stream`` encodes it,
``store.keeper`` writes it into a journal, ``store.look`` takes it out again, ``push.drain`` picks what is
new, ``push.encoding`` and ``push.http`` send it.
"""

__version__ = "0.1.0"
