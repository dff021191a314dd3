"""The guests that rondo-vmm runs: how they are built, chosen and checked."""
