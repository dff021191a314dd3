"""What those who show a store to people share: the fleet of VMs now, and the state of each delivery."""
