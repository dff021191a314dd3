"""The dashboards of deploy/grafana: their queries, manifests and pictures."""
