#!/usr/bin/env python3
"""Make deploy/k8s/ of deploy/grafana/ and deploy/rules/; with --check, only compare.

A dashboard becomes a ConfigMap with its JSON as it is, and a GrafanaDashboard that points to it; the
rules become a PrometheusRule. Both sources stand in the manifests to the letter, so that a difference
between two versions of a manifest reads like that of its source.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
K8S = DEPLOY / "k8s"

DASHBOARD = """\
# Made by `make dashboards` from {source}: change that file, not this one.
apiVersion: v1
kind: ConfigMap
metadata:
  name: {name}
  namespace: monitoring
  labels:
    app.kubernetes.io/name: rondo
data:
  {file}: |
{content}---
apiVersion: grafana.integreatly.org/v1beta1
kind: GrafanaDashboard
metadata:
  name: {name}
  namespace: monitoring
  labels:
    app.kubernetes.io/name: rondo
spec:
  # Which Grafana gets it: the labels of its resource, in this namespace or any other.
  instanceSelector:
    matchLabels:
      dashboards: grafana
  allowCrossNamespaceImport: true
  folder: Rondo
  configMapRef:
    name: {name}
    key: {file}
  datasources:
    # The name of the data source in Grafana that has what rondo-push delivers.
    - inputName: DS_PROMETHEUS
      datasourceName: Prometheus
"""

RULES = """\
# Made by `make dashboards` from {source}: change that file, not this one.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: rondo
  namespace: monitoring
  labels:
    app.kubernetes.io/name: rondo
    # What kube-prometheus-stack's Prometheus selects rules by: the name of its Helm release.
    release: kube-prometheus-stack
spec:
{content}"""


def manifests() -> Iterator[tuple[Path, str]]:
    """Where each manifest belongs, and its text."""
    for path in sorted((DEPLOY / "grafana").glob("*.json")):
        text = path.read_text()
        json.loads(text)  # what is broken is not passed on
        manifest = DASHBOARD.format(
            source=path.relative_to(DEPLOY.parent),
            name=path.stem,
            file=path.name,
            content=indent(text, "    "),
        )
        yield K8S / f"{path.stem}.yaml", manifest
    path = DEPLOY / "rules" / "rondo.yml"
    groups = path.read_text()
    groups = groups[groups.index("groups:\n") :]
    yield (
        K8S / "rondo-rules.yaml",
        RULES.format(source=path.relative_to(DEPLOY.parent), content=indent(groups, "  ")),
    )


def main(arguments: list[str]) -> int:
    status = 0
    for path, text in manifests():
        if "--check" not in arguments:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            print(f"{path.relative_to(DEPLOY.parent)} is not what its source makes: run make dashboards")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
