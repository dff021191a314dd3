"""As much of a Kubernetes API server as `kubectl apply` needs to create what there is not yet.

It knows the kinds it is given, and keeps what is created; nothing is ever there before.
"""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple


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
    """Serves on loopback while entered; `url` is its address, `created` what kubectl has made."""

    def __init__(self, *kinds: Kind) -> None:
        self.created: list[dict[str, Any]] = []
        documents = self._discovery(kinds)
        created = self.created

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                document = documents.get(self.path.partition("?")[0])
                missing = {
                    "kind": "Status",
                    "apiVersion": "v1",
                    "status": "Failure",
                    "reason": "NotFound",
                    "code": 404,
                }
                self.answer(404 if document is None else 200, document or missing)

            def do_POST(self) -> None:
                resource = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                created.append({**resource, "path": self.path.partition("?")[0]})
                self.answer(201, resource)

            def answer(self, status: int, document: dict[str, Any]) -> None:
                body = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

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
        self._thread.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
