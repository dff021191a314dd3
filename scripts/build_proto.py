#!/usr/bin/env python3
"""Generate the Python code of rondo_tools/prom/proto/*.proto beside them, with grpcio-tools.

    scripts/build_proto.py            write *_pb2.py and *_pb2.pyi
    scripts/build_proto.py --check    write nothing; exit status 1 if the code is not current

The code depends on the version of grpcio-tools, which pyproject.toml's extra `dev` pins.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = Path("rondo_tools/prom/proto")


def generate(target: Path) -> None:
    """Write the generated files below `target`, with the package's folders."""
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"--proto_path={ROOT}",
            f"--python_out={target}",
            f"--pyi_out={target}",
            *sorted(str(PROTO / file.name) for file in (ROOT / PROTO).glob("*.proto")),
        ],
        cwd=ROOT,
        check=True,
    )


def stale(fresh: Path) -> list[str]:
    """Generated files that differ from those under `fresh`, are missing, or have no source."""
    wanted = {file.name: file.read_bytes() for file in (fresh / PROTO).glob("*_pb2.py*")}
    found = {file.name: file.read_bytes() for file in (ROOT / PROTO).glob("*_pb2.py*")}
    return sorted(name for name in wanted | found if wanted.get(name) != found.get(name))


def main() -> int:
    parser = argparse.ArgumentParser(description="Generate the Python code of rondo's .proto files.")
    parser.add_argument("--check", action="store_true", help="only check whether the code is current")
    if not parser.parse_args().check:
        generate(ROOT)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        names = stale(Path(folder))
    for name in names:
        print(f"{PROTO / name} is not current: run scripts/build_proto.py", file=sys.stderr)
    return 1 if names else 0


if __name__ == "__main__":
    sys.exit(main())
