"""The guests of rondo-vmm: building, choosing and checking them."""
