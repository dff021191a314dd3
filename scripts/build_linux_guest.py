#!/usr/bin/env python3
"""Build the Linux guest: a stock kernel, and an initramfs of busybox, drivers and our two scripts.

    scripts/build_linux_guest.py                                    into build/guest/: vmlinuz, initramfs
    scripts/build_linux_guest.py --package linux-image-amd64 --output build/guest-generic
    scripts/build_linux_guest.py --kernel FILE --modules /lib/modules/VERSION

Needs no root. The same kernel and busybox give the same bytes. A driver that is built into the kernel, or
missing in it, is left out.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from devtools import ROOT
from devtools.guest.linux import PACKAGE, build, packaged

EX_DATAERR, EX_UNAVAILABLE = 65, 69


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--package", default=PACKAGE, help=f"the kernel's package (default: {PACKAGE})")
    parser.add_argument("--kernel", type=Path, metavar="FILE", help="a bzImage, instead of a package")
    parser.add_argument("--modules", type=Path, metavar="FOLDER", help="its modules")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "guest", metavar="FOLDER")
    arguments = parser.parse_args()
    if (arguments.kernel is None) != (arguments.modules is None):
        parser.error("--kernel needs --modules, and --modules needs --kernel")
    if shutil.which("dpkg") is None:
        print("build_linux_guest: needs dpkg to unpack busybox, a Debian package", file=sys.stderr)
        return EX_UNAVAILABLE
    try:
        kernel, modules = (
            (arguments.kernel, arguments.modules) if arguments.kernel else packaged(arguments.package)
        )
        build(kernel, modules, arguments.output.resolve())
    except LookupError as exc:
        print(f"build_linux_guest: {exc}", file=sys.stderr)
        return EX_UNAVAILABLE
    except (OSError, ValueError) as exc:
        print(f"build_linux_guest: {exc}", file=sys.stderr)
        return EX_DATAERR
    return 0


if __name__ == "__main__":
    sys.exit(main())
