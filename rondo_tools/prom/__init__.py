"""rondo's data in Prometheus' form, for remote-write and remote-read: labels, samples, instances' lives."""
