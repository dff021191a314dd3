#!/usr/bin/env python3
"""Build the Debian package: the commands in a venv of their own, units, man pages and completion.

    scripts/build_deb.py [--python /usr/bin/python3] [dist]

Strategy: stage the tree that dpkg will unpack, then let dpkg-deb pack it. The venv in /usr/lib/rondo uses the
distribution's Python, and depends on its version. It contains the wheel of this checkout and its dependencies
from the Python Package Index, because those of distributions are too old. deploy/systemd/install.sh installs
units, users, man pages and completion; control and the maintainer's scripts are in deploy/debian/. Times are
SOURCE_DATE_EPOCH or that of the last commit, so that the same wheels make the same package, byte by byte.

Needs dpkg-deb and that Python; no root.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from email import message_from_bytes
from email.message import Message
from email.utils import formatdate
from pathlib import Path
from string import Template

ROOT = Path(__file__).resolve().parent.parent
DEBIAN = ROOT / "deploy" / "debian"
PACKAGE = "rondo-tools"
HOME = Path("/usr/lib/rondo")
EX_UNAVAILABLE = 69

PAGES = ["README.md", "docs/*.md", "docs/decisions/*.md"]
# For postinst: users and folders. The standalone packages are for containers without systemd.
SYSTEMD = ["systemd | systemd-standalone-sysusers", "systemd | systemd-standalone-tmpfiles"]


def run(*command: str | Path, **environment: str) -> str:
    return subprocess.run(
        command,
        check=True,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout.strip()


def epoch() -> int:
    """The time of all files in the package."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given:
        return int(given)
    try:
        return int(run("git", "-C", ROOT, "log", "-1", "--format=%ct"))
    except (OSError, subprocess.SubprocessError):  # an unpacked sdist
        return int((ROOT / "CHANGELOG.md").stat().st_mtime)


def python_of(path: Path) -> tuple[Path, int]:
    """The distribution's Python by its full name, such as /usr/bin/python3.11, and its minor version."""
    real = path.resolve()
    named = re.fullmatch(r"/usr/bin/python3\.(\d+)", str(real))
    if named is None or not os.access(real, os.X_OK):
        raise LookupError(
            f"{path} is not the distribution's Python, which the package uses: "
            "apt install python3, or name another with --python"
        )
    return real, int(named[1])


def make_venv(stage: Path, python: Path, minor: int, work: Path) -> Path:
    """Create the venv with rondo at its place in the stage. Returns its site-packages."""
    venv = stage / HOME.relative_to("/")
    site = venv / "lib" / f"python3.{minor}" / "site-packages"
    site.mkdir(parents=True)
    (venv / "bin").mkdir()
    (venv / "bin" / "python3").symlink_to(python)
    # The system's packages, such as python3-libvirt, come after the venv's own.
    (venv / "pyvenv.cfg").write_text(f"home = {python.parent}\ninclude-system-site-packages = true\n")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", work, ROOT)
    (wheel,) = work.glob("*.whl")
    install = ["install", "--no-compile", "--ignore-installed", "--no-warn-script-location"]
    run(*pip, "--python", venv / "bin" / "python3", *install, "--only-binary", ":all:", f"{wheel}[plot]")
    for script in (venv / "bin").iterdir():
        if script.name.startswith("rondo-"):
            first, _, rest = script.read_text().partition("\n")
            if first != f"#!{venv}/bin/python3":
                raise LookupError(
                    f"{script} begins with {first}: is the path of the temporary folder too long?"
                )
            # -s: leave out a user's own packages.
            script.write_text(f"#!{HOME}/bin/python3 -s\n{rest}")
        elif script.name != "python3":
            script.unlink()
    for pattern in (
        "RECORD",
        "INSTALLER",
        "REQUESTED",
        "direct_url.json",
    ):  # pip's files, with paths and sums of this build
        for file in site.glob(f"*.dist-info/{pattern}"):
            file.unlink()
    for tests in sorted(site.rglob("tests")):  # a quarter of the package's size
        shutil.rmtree(tests, ignore_errors=True)  # they may be nested
    return site


def install_share(stage: Path) -> None:
    """Install commands on PATH, units, users, man pages and completion."""
    (stage / "usr" / "bin").mkdir()
    for script in sorted((stage / HOME.relative_to("/") / "bin").glob("rondo-*")):
        (stage / "usr" / "bin" / script.name).symlink_to(Path("..", "lib", "rondo", "bin", script.name))
    places = {"BINDIR": "/usr/bin", "LIBDIR": "/usr/lib", "SHAREDIR": "/usr/share"}
    run(ROOT / "deploy" / "systemd" / "install.sh", "install", DESTDIR=str(stage), **places)
    share = stage / "usr" / "share"
    # Dashboards, rules and other files of rondo-store --share-dir.
    (stage / HOME.relative_to("/") / "share" / "rondo").rename(share / "rondo")
    shutil.rmtree(stage / HOME.relative_to("/") / "share")
    # Debian's zsh reads packages' completion there.
    (share / "zsh" / "site-functions").rename(share / "zsh" / "vendor-completions")
    for page in sorted((share / "man" / "man1").iterdir()):
        compress(page)


def compress(file: Path) -> None:
    file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes(), 9, mtime=0))
    file.unlink()


def install_docs(stage: Path, site: Path, version: str, time_s: int) -> None:
    docs = stage / "usr" / "share" / "doc" / PACKAGE
    docs.mkdir(parents=True)
    for pattern in PAGES:
        for page in sorted(ROOT.glob(pattern)):
            place = docs / page.relative_to(ROOT)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(page, place)
    (docs / "deploy").symlink_to(Path("..", "..", "rondo"))  # for links of the pages
    shutil.copy(ROOT / "CHANGELOG.md", docs / "NEWS.md")
    log = f"{PACKAGE} ({version}) unstable; urgency=medium\n\n  * What is new: NEWS.md beside this file.\n\n"
    (docs / "changelog").write_text(f"{log} -- {maintainer()}  {formatdate(time_s)}\n")
    compress(docs / "changelog")
    (docs / "copyright").write_text(copyright_of(site, site.parent.name))
    overrides = stage / "usr" / "share" / "lintian" / "overrides"
    overrides.mkdir(parents=True)
    shutil.copy(DEBIAN / "lintian-overrides", overrides / PACKAGE)


def copyright_of(site: Path, python: str) -> str:
    mit = (ROOT / "LICENSE").read_text().partition("Permission")
    lines = [f" {line}" if line else " ." for line in (mit[1] + mit[2]).strip().splitlines()]
    text = Template((DEBIAN / "copyright").read_text()).substitute(mit="\n".join(lines))
    for folder in sorted(site.glob("*.dist-info")):
        about = message_from_bytes((folder / "METADATA").read_bytes())
        name, version = about["Name"], about["Version"]
        if name == PACKAGE:
            continue
        text += f"""
Files: usr/lib/rondo/lib/{python}/site-packages/{folder.name.split("-")[0]}*
Copyright: {about["Author"] or about["Author-email"] or f"the authors of {name}"}
License: {name}
 {name} {version}: {license_of(about)}.
 What its authors ship as licences is in
 {HOME}/lib/{python}/site-packages/{folder.name}.
"""
    return text


def license_of(about: Message) -> str:
    classifiers = [str(line) for line in about.get_all("Classifier", [])]
    classified = "; ".join(line.rpartition(" :: ")[2] for line in classifiers if line.startswith("License"))
    return about["License-Expression"] or classified or (about["License"] or "").partition("\n")[0]


def libraries(site: Path) -> list[str]:
    """The packages with the libraries that the venv's compiled modules need."""
    modules = sorted(file for file in site.rglob("*.so*") if file.is_file())
    found = set()
    for line in run("ldd", *modules).splitlines():
        needed = re.match(r"\s+(\S+) => (not found|/\S+)", line)
        if needed is None or Path(needed[2]).is_relative_to(site):
            continue
        if needed[2] == "not found":
            raise LookupError(f"this machine has no {needed[1]}, which a wheel needs")
        found.add(needed[2])
    return sorted({owner(Path(library)) for library in found})


def owner(file: Path) -> str:
    """The package of a file. dpkg knows a file by its packed name, in /usr or in /."""
    names = [str(file), f"/usr{file}"]
    search = subprocess.run(["dpkg", "--search", *names], capture_output=True, text=True, check=False)
    if not search.stdout:
        raise LookupError(f"no package has {file}, which a wheel needs")
    return search.stdout.partition(":")[0]


def maintainer() -> str:
    """The maintainer by Debian's variables, else a name without an address."""
    name = os.environ.get("DEBFULLNAME", "the rondo authors")
    return f"{name} <{os.environ.get('DEBEMAIL', 'rondo@localhost')}>"


def debian_version(version: str) -> str:
    """The version for dpkg, where 0.2.0rc1 and 0.2.0.dev3 come before 0.2.0."""
    return re.sub(r"\.?(a|b|rc|dev)(?=\d)", r"~\1", version)


def write_control(stage: Path, site: Path, minor: int, version: str) -> None:
    files = sorted(file for file in stage.rglob("*") if file.is_file() and not file.is_symlink())
    sums = [f"{hashlib.md5(file.read_bytes()).hexdigest()}  {file.relative_to(stage)}\n" for file in files]
    kib = sum((file.stat().st_size + 1023) // 1024 for file in files)
    configured = [f"/{file.relative_to(stage)}\n" for file in files if stage / "etc" in file.parents]
    depends = [f"python3 (>= 3.{minor})", f"python3 (<< 3.{minor + 1})", *libraries(site), *SYSTEMD]
    control = stage / "DEBIAN"
    control.mkdir()
    text = Template((DEBIAN / "control").read_text()).substitute(
        version=version,
        architecture=run("dpkg", "--print-architecture"),
        maintainer=maintainer(),
        installed_size=kib,
        depends=", ".join(depends),
    )
    (control / "control").write_text(text)
    (control / "md5sums").write_text("".join(sums))
    (control / "conffiles").write_text("".join(configured))
    for script in ("postinst", "prerm", "postrm"):
        shutil.copy(DEBIAN / script, control / script)


def set_modes(stage: Path) -> None:
    """Set the modes that dpkg expects, whatever the umask and the wheels: only programs are executable."""
    stage.chmod(0o755)
    for path in stage.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or is_program(path) else 0o644)


def is_program(file: Path) -> bool:
    """Whether a file is a script to be run. Some modules of Python begin with #!, too, and are imported."""
    with file.open("rb") as opened:
        return opened.read(2) == b"#!" and file.suffix != ".py"


def check_paths(stage: Path) -> None:
    """Check that no file of the package has a path of this machine."""
    for file in stage.rglob("*"):
        if file.is_file() and not file.is_symlink():
            data = file.read_bytes()
            for path in (stage, ROOT):
                assert os.fsencode(path) + b"/" not in data, f"{file} names {path}"


def build(python: Path, folder: Path) -> Path:
    """Build the package into a folder. Returns its path."""
    python, minor = python_of(python)
    time_s = epoch()
    with tempfile.TemporaryDirectory(prefix="deb-") as temporary:
        stage = Path(temporary) / "root"
        site = make_venv(stage, python, minor, Path(temporary))
        (rondo,) = site.glob("rondo_tools-*.dist-info")
        version = debian_version(message_from_bytes((rondo / "METADATA").read_bytes())["Version"])
        install_share(stage)
        install_docs(stage, site, version, time_s)
        write_control(stage, site, minor, version)
        set_modes(stage)
        check_paths(stage)
        architecture = run("dpkg", "--print-architecture")
        deb = folder / f"{PACKAGE}_{version}_{architecture}.deb"
        folder.mkdir(parents=True, exist_ok=True)
        run("dpkg-deb", "--root-owner-group", "-Zxz", "--build", stage, deb, SOURCE_DATE_EPOCH=str(time_s))
    return deb


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="build_deb.py", description="Build the Debian package.")
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=ROOT / "dist",
        help="the folder of the package (default: dist)",
    )
    parser.add_argument(
        "--python",
        type=Path,
        default=Path("/usr/bin/python3"),
        help="the distribution's Python (default: %(default)s)",
    )
    arguments = parser.parse_args(argv)
    try:
        print(build(arguments.python, arguments.folder))
    except (LookupError, OSError, subprocess.SubprocessError) as exc:
        print(f"build_deb.py: {exc}", file=sys.stderr)
        return EX_UNAVAILABLE
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
