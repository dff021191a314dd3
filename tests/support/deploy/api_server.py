"""A fake Kubernetes API server with the parts that `kubectl apply` needs to create resources.

It knows the given kinds, and keeps created resources; it is empty at first.
"""

from __future__ import annotations

import json
from collections import defaultdict
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any, NamedTuple

from devtools.http_server import Reply, http_server


class Kind(NamedTuple):
    """A kind of resource: `group` is empty for the core's."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def group_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


class ApiServer:
    """Serves on loopback; `url` is its address, `created` are kubectl's resources."""

    def __init__(self, *kinds: Kind) -> None:
        self.created: list[dict[str, Any]] = []
        self._documents = self._discovery(kinds)

    def _answer(self, request: BaseHTTPRequestHandler, body: bytes) -> Reply:
        path = request.path.partition("?")[0]
        if request.command == "POST":
            resource = json.loads(body)
            self.created.append({**resource, "path": path})
            return _json(201, resource)
        if path in self._documents:
            return _json(200, self._documents[path])
        about = {"kind": "Status", "apiVersion": "v1"}
        return _json(404, {**about, "status": "Failure", "reason": "NotFound", "code": 404})

    @staticmethod
    def _discovery(kinds: tuple[Kind, ...]) -> dict[str, dict[str, Any]]:
        of: dict[str, list[Kind]] = defaultdict(list)
        for kind in kinds:
            of[kind.group_version].append(kind)
        groups = [
            {
                "name": some[0].group,
                "versions": [{"groupVersion": name, "version": some[0].version}],
                "preferredVersion": {"groupVersion": name, "version": some[0].version},
            }
            for name, some in of.items()
            if "/" in name
        ]
        documents: dict[str, dict[str, Any]] = {
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups},
        }
        for name, some in of.items():
            resources = [
                {
                    "name": kind.plural,
                    "singularName": kind.kind.lower(),
                    "kind": kind.kind,
                    "namespaced": kind.namespaced,
                    "verbs": ["create", "get", "patch"],
                }
                for kind in some
            ]
            place = f"/apis/{name}" if "/" in name else f"/api/{name}"
            documents[place] = {
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": name,
                "resources": resources,
            }
        return documents

    def __enter__(self) -> ApiServer:
        self._server = http_server(self._answer, path="")
        self.url = self._server.__enter__()
        return self

    def __exit__(
        self, type_: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.__exit__(type_, value, trace)


def _json(status: int, document: dict[str, Any]) -> Reply:
    return status, {"Content-Type": "application/json"}, json.dumps(document).encode()
