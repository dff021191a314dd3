"""Hooks of the build backend, hatchling, for what pyproject.toml cannot say.

ShareHook adds what belongs below share/: man pages and completion, made of the parsers, and for a wheel
deploy/ as share/rondo/. LongDescription makes the text that a package index shows of README.md.
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

# What a host or a cluster needs of deploy/, and not what builds images and packages, which needs the source.
DEPLOY = ("README.md", "grafana", "k8s", "prometheus-local", "rules", "systemd")


class ShareHook(BuildHookInterface[Any]):
    """Pages are made in a temporary folder, so that no build sees what an earlier one has left."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        self._made = TemporaryDirectory()
        if version == "editable":  # the checkout has its own deploy/, and pages would not follow the parsers
            return
        root, made = Path(self.root), Path(self._made.name)
        sys.path[:0] = [str(root), str(root / "scripts")]
        pages = importlib.import_module("build_share").build(made)
        if self.target_name == "sdist":  # where `make man` puts them, and `make install-systemd` finds them
            build_data["force_include"] |= {str(made / page): f"build/share/{page}" for page in pages}
        else:
            build_data["shared_data"] |= {str(made / page): f"share/{page}" for page in pages}
            deploy = root / "deploy"
            build_data["shared_data"] |= {str(deploy / name): f"share/rondo/{name}" for name in DEPLOY}

    def finalize(self, _version: str, _build_data: dict[str, Any], _artifact_path: str) -> None:
        self._made.cleanup()


class LongDescription(MetadataHookInterface):
    """The project's readme."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = without_relative_links((Path(self.root) / "README.md").read_text(encoding="utf-8"))
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def without_relative_links(markdown: str) -> str:
    """The text without links and pictures that lie in the checkout, for an index does not have these files.

    Of a link, the text and the path stay; of a picture nothing. Code stays as it is.
    """
    parts = _CODE.split(markdown)
    for index in range(0, len(parts), 2):  # those between are code
        parts[index] = _LINK.sub(_named, _PICTURE.sub("", parts[index]))
    return "".join(parts)


def _named(link: re.Match[str]) -> str:
    text, path = link[1], link[2].partition("#")[0]
    return text if text == path else f"{text} ({path})"


_CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
_TARGET = r"\(((?!https?:|mailto:|#)[^()\s]+)\)"
_LINK = re.compile(rf"\[([^\]]*)\]{_TARGET}")
_PICTURE = re.compile(rf"!\[[^\]]*\]{_TARGET}|<picture>.*?</picture>|<img\b[^>]*>", re.DOTALL)
