"""The manifests: they match their sources, are valid, the real kubectl accepts them, their commands run."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import jsonschema
import kubernetes_validate
import pytest
import yaml

import rondo_tools
from devtools.fleet import PATIENCE_S
from devtools.grafana.dashboards import DASHBOARDS
from devtools.grafana.manifests import FILES, K8S, drifted, manifests, write
from devtools.receivers.prometheus import Prometheus, free_port
from tests.support.deploy.api_server import ApiServer, Kind
from tests.support.deploy.lives import RULES
from tests.support.fixtures import Run

ROOT = Path(__file__).resolve().parent.parent.parent
NODE = K8S / "node" / "rondo-node.yaml"
ATTACH = K8S / "attach" / "rondo-attach.yaml"
LOCAL = ROOT / "deploy" / "prometheus-local"
SCHEMAS = {
    schema["properties"]["kind"]["const"]: schema
    for schema in (
        json.loads(path.read_text()) for path in (Path(__file__).parent / "schemas").glob("*.json")
    )
}
KUBERNETES = "1.31"

Json = dict[str, Any]


def documents(path: Path) -> list[Json]:
    return [one for one in yaml.safe_load_all(path.read_text()) if one]


def top() -> list[Json]:
    """The documents of `kubectl apply -f deploy/k8s/`: files of that folder, not of its subfolders."""
    return [one for path in sorted(K8S.glob("*.yaml")) for one in documents(path)]


def pod() -> Json:
    (daemon_set,) = (one for one in documents(NODE) if one["kind"] == "DaemonSet")
    spec: Json = daemon_set["spec"]["template"]["spec"]
    return spec


def test_the_manifests_match_their_sources() -> None:
    assert drifted() == [], "run make dashboards"
    assert {path for path, _ in manifests()} == set(K8S.glob("*.yaml"))


def test_a_manifest_that_drifted_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    monkeypatch.setattr("devtools.grafana.manifests.DEPLOY", tmp_path / "deploy")
    monkeypatch.setattr("devtools.grafana.manifests.K8S", tmp_path / "deploy" / "k8s")
    assert drifted() == []
    source = tmp_path / "deploy" / "grafana" / DASHBOARDS[0].name
    source.write_text(source.read_text().replace('"refresh": "30s"', '"refresh": "9s"'))
    assert drifted() == [Path("deploy") / "k8s" / FILES[source.stem][0]]
    write()
    assert drifted() == []


def test_the_files_that_an_operator_expects_exist() -> None:
    found = {
        path.name: [(one["kind"], one["metadata"]["name"]) for one in documents(path)]
        for path in K8S.glob("*.yaml")
    }
    assert found == {
        "grafana-dashboard.yaml": [("GrafanaDashboard", "rondo-vmm-dashboard")],
        "grafana-fleet-dashboard.yaml": [("GrafanaDashboard", "rondo-fleet-dashboard")],
        "rondo-dashboard-configmap.yaml": [("ConfigMap", "rondo-vmm-dashboard")],
        "rondo-fleet-dashboard-configmap.yaml": [("ConfigMap", "rondo-fleet-dashboard")],
        "rondo-rules.yaml": [("PrometheusRule", "rondo")],
    }
    assert {one["metadata"]["namespace"] for one in top()} == {"monitoring"}
    maps = {one["metadata"]["name"]: one["data"] for one in top() if one["kind"] == "ConfigMap"}
    for one in top():
        if one["kind"] == "GrafanaDashboard":
            spec = one["spec"]
            assert spec["folder"] == "Rondo"
            assert [source["inputName"] for source in spec["datasources"]] == ["DS_PROMETHEUS"]
            text = maps[spec["configMapRef"]["name"]][spec["configMapRef"]["key"]]
            (source,) = (path for path in DASHBOARDS if path.name == spec["configMapRef"]["key"])
            assert text == source.read_text()
        if one["kind"] == "PrometheusRule":
            assert one["spec"] == yaml.safe_load(RULES.read_text())


def validate(document: Json) -> None:
    if document["kind"] in SCHEMAS:
        jsonschema.validate(document, SCHEMAS[document["kind"]])
    else:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize(
    "document", [*top(), *documents(NODE), *documents(ATTACH)], ids=lambda one: one["kind"]
)
def test_every_manifest_is_valid(document: Json) -> None:
    validate(document)


@pytest.mark.parametrize(
    ("kind", "was", "becomes"),
    [
        ("GrafanaDashboard", "configMapRef", "configMap"),
        ("GrafanaDashboard", "inputName", "input"),
        ("GrafanaDashboard", '"folder": "Rondo"', '"folder": "Rondo", "folderUID": "r"'),
        ("PrometheusRule", '"expr"', '"expression"'),
        ("PrometheusRule", '"for": "5m"', '"for": "5 minutes"'),
        ("DaemonSet", "hostPath", "hostpath"),
        ("DaemonSet", "readOnlyRootFilesystem", "readonlyRootFilesystem"),
    ],
)
def test_a_typo_is_found(kind: str, was: str, becomes: str) -> None:
    document = next(one for one in [*top(), *documents(NODE)] if one["kind"] == kind)
    text = json.dumps(document)
    assert was in text
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        validate(json.loads(text.replace(was, becomes)))


def test_kubectl_applies_the_folder_and_not_the_one_in_it(tmp_path: Path) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not on PATH")
    kinds = (
        Kind("", "v1", "configmaps", "ConfigMap"),
        Kind("grafana.integreatly.org", "v1beta1", "grafanadashboards", "GrafanaDashboard"),
        Kind("monitoring.coreos.com", "v1", "prometheusrules", "PrometheusRule"),
    )
    with ApiServer(*kinds) as server:
        done = subprocess.run(
            [kubectl, "apply", "--validate=false", f"--server={server.url}", "-f", "deploy/k8s/"],
            cwd=ROOT,
            env=os.environ | {"HOME": str(tmp_path), "KUBECONFIG": str(tmp_path / "none")},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    made = {f"{one['kind']}/{one['metadata']['name']}": one for one in server.created}
    assert set(made) == {f"{one['kind']}/{one['metadata']['name']}" for one in top()}
    assert made["GrafanaDashboard/rondo-vmm-dashboard"]["path"] == (
        "/apis/grafana.integreatly.org/v1beta1/namespaces/monitoring/grafanadashboards"
    )


def listed(section: str) -> set[str]:
    """The paths of the files in a drawing of a folder tree, relative to its first line."""
    (drawing,) = re.findall(r"```\n(.*?)```", section, re.DOTALL)
    files, folders = set(), [""]
    for line in drawing.splitlines()[1:]:
        drawn = re.fullmatch(r"((?:│   |    )*(?:├── |└── ))(\S+)(?: .*)?", line)
        assert drawn is not None, line
        branch, name = drawn.groups()
        del folders[len(branch) // 4 :]
        path = folders[-1] + name
        if name.endswith("/"):
            folders.append(path)
        else:
            files.add(path)
    return files


def test_the_file_structure_in_the_guide_is_the_folders() -> None:
    folder = ROOT / "deploy"
    section = (folder / "README.md").read_text().partition("\n## File Structure\n")[2].partition("\n## ")[0]
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert listed(section) == there


def containers() -> dict[str, Json]:
    return {one["name"]: one for one in (*pod()["initContainers"], *pod()["containers"])}


def test_containers_are_locked_down() -> None:
    inherited = pod()["securityContext"]
    assert inherited["runAsNonRoot"] is True
    assert inherited["seccompProfile"] == {"type": "RuntimeDefault"}
    for name, container in containers().items():
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"]["drop"] == ["ALL"]
        assert container["resources"]["limits"]["memory"]
        if name == "own-folders":
            assert context["capabilities"]["add"] == ["CHOWN"]
        else:
            assert set(context) == {"readOnlyRootFilesystem", "allowPrivilegeEscalation", "capabilities"}
            assert "add" not in context["capabilities"]


def test_the_page_is_read_only_and_only_for_the_pod() -> None:
    serve = containers()["serve"]
    assert serve["volumeMounts"] == [{"name": "store", "mountPath": "/var/lib/rondo", "readOnly": True}]
    assert "--listen=tcp:127.0.0.1:9464" in serve["command"]
    assert pod().get("hostNetwork", False) is False
    labels = [word for word in serve["command"] if word.startswith("--external-label")]
    assert labels == [word for word in containers()["push"]["command"] if word.startswith("--external-label")]


def test_a_prometheus_is_added_to_the_pod() -> None:
    """Like kubectl merges a patch: containers and volumes by name, which must be new."""
    (patch,) = documents(LOCAL / "daemonset-patch.yaml")
    daemon_set = next(one for one in documents(NODE) if one["kind"] == "DaemonSet")
    merged, added = daemon_set["spec"]["template"]["spec"], patch["spec"]["template"]["spec"]
    assert set(added) == {"containers", "volumes"}
    for kind, some in added.items():
        assert not {one["name"] for one in some} & {one["name"] for one in merged[kind]}
        merged[kind] += some
    validate(daemon_set)
    (container,) = added["containers"]
    assert container["securityContext"] == containers()["store"]["securityContext"]
    unit = (LOCAL / "rondo-prometheus.service").read_text()
    assert all(
        flag in unit for flag in container["args"] if not flag.startswith(("--config", "--storage.tsdb.p"))
    )
    guides = (LOCAL / "daemonset-patch.yaml", ROOT / "deploy" / "README.md")
    commands = re.findall(r"^#   (kubectl .*)$", guides[0].read_text(), re.MULTILINE)
    assert all(command in guides[1].read_text() for command in commands)


def test_the_watcher_has_two_capabilities_and_the_nodes_processes() -> None:
    (daemon_set,) = documents(ATTACH)
    spec: Json = daemon_set["spec"]["template"]["spec"]
    assert spec["hostPID"] is True
    (container,) = spec["containers"]
    context = container["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"], "add": ["BPF", "PERFMON"]}
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    # Root without CAP_DAC_OVERRIDE may connect to the node's store for its group.
    assert context["runAsGroup"] == pod()["securityContext"]["runAsGroup"]
    store = containers()["store"]
    assert container["image"] == store["image"]
    (output,) = (word for word in container["command"] if word.startswith("--output="))
    assert output.removeprefix("--output=") in store["command"][2]
    assert {"name": "socket", "mountPath": "/run/rondo"} in container["volumeMounts"]
    assert spec["volumes"][:1] == [one for one in pod()["volumes"] if one["name"] == "socket"]
    assert daemon_set["metadata"]["namespace"] == "rondo"


def test_the_watchers_pins_are_the_nodes_and_the_guide_removes_them() -> None:
    (daemon_set,) = documents(ATTACH)
    spec: Json = daemon_set["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    hosts = {volume["name"]: volume["hostPath"]["path"] for volume in spec["volumes"]}
    mounts = {mount["mountPath"]: hosts[mount["name"]] for mount in container["volumeMounts"]}
    flags = dict(word.split("=", 1) for word in container["command"][1:])
    folder, name = flags["--pin"].rsplit("/", 1)
    assert mounts[folder] == "/sys/fs/bpf"
    assert not any(path.startswith("/sys") for path in mounts)  # AppArmor
    removal = f"rm -r {mounts[folder]}/{name} {mounts[flags['--state']]}"
    guides = (ATTACH, ROOT / "deploy" / "README.md", ROOT / "docs" / "attach.md")
    assert all(removal in guide.read_text() for guide in guides)


def test_the_manifests_use_the_dockerfiles_image() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    image = f"rondo:{rondo_tools.__version__}"
    assert f"docker build -f deploy/Dockerfile -t {image} ." in dockerfile
    assert {container["image"] for container in containers().values()} == {image}
    user = re.search(r"^USER (\d+):(\d+)$", dockerfile, re.MULTILINE)
    assert user
    context = pod()["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"]) == (int(user[1]), int(user[2]))
    assert f"{user[1]}:{user[2]}" in containers()["own-folders"]["command"]


def test_the_guides_name_this_version() -> None:
    guides = [*(ROOT / "deploy").rglob("*.y*ml"), ROOT / "deploy" / "Dockerfile"]
    guides += [ROOT / "deploy" / "README.md", ROOT / "docs" / "install.md"]
    named = re.compile(r"\brondo:(\d[\w.]*)|\bdist/rondo-tools_(\d[^_]*)_")
    found = {(guide.name, one[1] or one[2]) for guide in guides for one in named.finditer(guide.read_text())}
    assert {version for _, version in found} == {rondo_tools.__version__}, found
    assert {"Dockerfile", "README.md", "install.md", "rondo-node.yaml"} <= {name for name, _ in found}


def test_the_dockerfiles_files_exist_and_are_not_ignored() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    copied = {
        name
        for line in re.findall(r"^COPY (?!--from)(.+)$", dockerfile, re.MULTILINE)
        for name in line.split()[:-1]
    }
    ignore = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().splitlines()
    assert copied == {line.removeprefix("!") for line in ignore if line.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)


class Node:
    """Runs a container's command here, with the node's folders inside another folder."""

    def __init__(self, folder: Path, url: str) -> None:
        self.variables = {"NODE_NAME": "node-a", "REMOTE_WRITE_URL": url}
        self.places = {"/var/lib/rondo": str(folder / "store"), "/run/rondo": str(folder / "run")}
        for place in self.places.values():
            Path(place).mkdir()
        self.port = free_port()
        self.places["127.0.0.1:9464"] = f"127.0.0.1:{self.port}"
        tools = folder / "bin"
        tools.mkdir()
        (tools / "python3").symlink_to(sys.executable)
        self.environment = os.environ | {
            "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        }

    def here(self, word: str) -> str:
        for name, value in self.variables.items():
            word = word.replace(f"$({name})", value)
        for place, ours in self.places.items():
            word = word.replace(place, ours)
        return word

    def start(self, command: list[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [self.here(word) for word in command],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            process_group=0,
        )

    def run(self, command: list[str]) -> int:
        process = self.start(command)
        process.communicate(timeout=PATIENCE_S)
        return process.returncode


def test_the_containers_commands_deliver_a_vm_to_prometheus(
    tmp_path: Path, prometheus: Prometheus, run: Run
) -> None:
    assert prometheus.write_url.endswith("/api/v1/write")
    urls = [one["data"]["REMOTE_WRITE_URL"] for one in documents(NODE) if one["kind"] == "ConfigMap"]
    assert all(url.endswith("/api/v1/write") for url in urls)
    node = Node(tmp_path, prometheus.write_url)
    by_name = containers()
    store, push, serve = by_name["store"], by_name["push"], by_name["serve"]
    probe = store["livenessProbe"]["exec"]["command"]
    assert probe == store["startupProbe"]["exec"]["command"]

    serves = [serve[probe]["exec"]["command"] for probe in ("readinessProbe", "livenessProbe")]

    assert [node.run(one) != 0 for one in (probe, *serves)] == [True] * 3
    assert node.run(by_name["make-store"]["command"]) == 0
    started = [node.start(push["command"])]  # before the store, which is allowed
    try:
        started.append(node.start(store["command"]))
        deadline = time.monotonic() + PATIENCE_S
        started.append(node.start(serve["command"]))
        for one in (probe, *serves):
            while node.run(one) != 0:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        socket = node.here("unix:/run/rondo/store.sock")
        vm = run(
            "rondo-vmm", "--instance", "vm-1", "--duration", "1s", "--output", socket, "--serial", "none"
        )
        assert vm.returncode == 0, vm.stderr
        with urlopen(
            f"http://127.0.0.1:{node.port}/federate?match[]=store_connections", timeout=60
        ) as answer:
            assert b'host="node-a",instance="rondo-store"' in answer.read()
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
            log, _ = process.communicate(timeout=PATIENCE_S)
            assert process.returncode == 0
            assert log == b""
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
            process.communicate()
    assert [node.run(one) != 0 for one in (probe, *serves)] == [True] * 3
    arrived = prometheus.samples('{__name__=~"vmm_uptime_seconds|store_connections"}')
    assert {dict(labels)["instance"] for labels in arrived} == {"vm-1", "rondo-store"}
    assert {dict(labels)["host"] for labels in arrived} == {"node-a"}
