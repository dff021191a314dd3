"""What pyproject.toml cannot say: a wheel brings man pages and completion, made of the parsers."""

import importlib
import sys
from pathlib import Path

from setuptools import setup  # isort: skip  (brings the distutils below)
from distutils.command.install_data import install_data  # isort: skip

ROOT = Path(__file__).resolve().parent


class InstallShare(install_data):
    """Makes the files below share/, then installs them."""

    def run(self) -> None:
        sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
        share = ROOT / self.get_finalized_command("build").build_base / "share"
        paths = importlib.import_module("build_share").build(share)
        self.data_files = [(f"share/{path.parent}", [str(share / path)]) for path in paths]
        super().run()


# The list is made when it is needed; that there is one, setuptools wants to know before.
setup(cmdclass={"install_data": InstallShare}, data_files=[("share", [])])
