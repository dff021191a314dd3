"""Makes the manifests of deploy/k8s/ from deploy/grafana/ and deploy/rules/.

Each dashboard becomes two files: a ConfigMap with its JSON, and a GrafanaDashboard that points to the
ConfigMap. The rules become a PrometheusRule. The manifests contain their sources verbatim, so the diff of a
manifest reads like that of its source.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent

from devtools import ROOT

DEPLOY = ROOT / "deploy"
K8S = DEPLOY / "k8s"

# Each dashboard's ConfigMap and GrafanaDashboard, in deploy/k8s/.
FILES = {
    "rondo-vmm-dashboard": ("rondo-dashboard-configmap.yaml", "grafana-dashboard.yaml"),
    "rondo-fleet-dashboard": ("rondo-fleet-dashboard-configmap.yaml", "grafana-fleet-dashboard.yaml"),
}

CONFIG_MAP = """\
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
{content}"""

GRAFANA_DASHBOARD = """\
# Made by `make dashboards` for {source}; its template is in scripts/devtools/grafana/manifests.py.
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
    """The path and the text of each manifest."""
    for path in sorted((DEPLOY / "grafana").glob("*.json")):
        text = path.read_text()
        json.loads(text)  # raises for invalid JSON
        names = {"source": path.relative_to(DEPLOY.parent), "name": path.stem, "file": path.name}
        config_map, grafana_dashboard = FILES[path.stem]
        yield K8S / config_map, CONFIG_MAP.format(**names, content=indent(text, "    "))
        yield K8S / grafana_dashboard, GRAFANA_DASHBOARD.format(**names)
    path = DEPLOY / "rules" / "rondo.yml"
    groups = path.read_text()
    groups = groups[groups.index("groups:\n") :]
    yield (
        K8S / "rondo-rules.yaml",
        RULES.format(source=path.relative_to(DEPLOY.parent), content=indent(groups, "  ")),
    )


def write() -> None:
    for path, text in manifests():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def drifted() -> list[Path]:
    """The manifests that do not match their sources, relative to the checkout."""
    return [
        path.relative_to(DEPLOY.parent)
        for path, text in manifests()
        if not path.exists() or path.read_text() != text
    ]
