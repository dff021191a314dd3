"""Shared by the tools that show a store to people: the fleet of VMs, the store's health, its deliveries."""
