#!/usr/bin/env python3
"""Runs a VM, with its metrics in Prometheus meanwhile; here or on another machine.

    scripts/vmm_demo.py remote-write    VM, store and push in a pipe
    scripts/vmm_demo.py store           VM and store; then rondo-query
    scripts/vmm_demo.py disk            VM and store; then a check of the guest's data on its disk
    scripts/vmm_demo.py bench           the VM's seconds beside those in the store and in Prometheus

The store is vmm_metrics/ of the checkout, and is kept. Settings, from the environment or as variables of
make:

    VMM_DURATION      how long the guest works (default: 45)
    VMM_GUEST         builtin, linux, or auto: Linux if this machine's KVM boots it
    VMM_REMOTE_WRITE  where to deliver (default: a Prometheus on loopback, during the run)
    VMM_HOST          user@box: sync the checkout there with rsync and run there, through ssh
    VMM_DIR           the folder there (default: rondo, in the home folder)
    VMM_SSH           more options for ssh, such as "-p 2222 -i key"

Ctrl-C ends the VM; its last ticks are still stored and delivered. Exit status: 0 if everything arrived, 1 if
not, 64 for a wrong setting, 69 if something is missing, else that of the command that failed.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from devtools import ROOT
from devtools.evidence import evidence, seconds
from devtools.guest.choice import CHOICES, Guest, choose
from devtools.guest.disk import DiskError, can_check, check_disk, make_disk
from devtools.pipeline import pipeline, receiver, say, show
from devtools.remote import Remote
from rondo_tools.errors import UsageError
from rondo_tools.store.reader import Session, Store
from rondo_tools.units import parse_duration

METRICS = "vmm_metrics"
# One cursor for each endpoint: a delivery to the run's own Prometheus must not count for a real one.
PASSING_CURSOR = "demo"
EX_USAGE, EX_UNAVAILABLE = 64, 69
HANDED_ON = ("VMM_DURATION", "VMM_GUEST", "VMM_REMOTE_WRITE", "PYTHON")


class Settings(NamedTuple):
    """The settings in the environment."""

    duration: str
    guest: str
    remote_write: str
    host: str
    folder: str
    ssh: str

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Settings:
        """Read the variables; an empty one counts as not set. Raises ValueError that names the variable."""

        def get(name: str, default: str) -> str:
            return environment.get(f"VMM_{name}", "") or default

        found = cls(
            duration=get("DURATION", "45"),
            guest=get("GUEST", "auto"),
            remote_write=get("REMOTE_WRITE", ""),
            host=get("HOST", ""),
            folder=get("DIR", "rondo"),
            ssh=get("SSH", ""),
        )
        try:
            parse_duration(found.duration)
        except UsageError as exc:
            raise ValueError(f"VMM_DURATION: {exc}") from exc
        if found.guest not in CHOICES:
            raise ValueError(f"VMM_GUEST is {found.guest!r}; it may be {', '.join(CHOICES)}")
        if found.remote_write and not found.remote_write.startswith(("http://", "https://")):
            raise ValueError(f"VMM_REMOTE_WRITE is {found.remote_write!r}; it must be an http or https URL")
        if found.host.startswith("-"):
            raise ValueError(f"VMM_HOST is {found.host!r}; it must be user@box")
        return found


class Run:
    """One run on this machine: the guest, and its pipe."""

    def __init__(self, settings: Settings, guest: Guest) -> None:
        self._settings = settings
        self._instance = f"demo-{platform.node() or 'vm'}"
        self._guest = guest
        self._vmm = ["rondo-vmm", "--instance", self._instance, "--duration", settings.duration, *guest.flags]
        # Linux has no disk by default; the built-in guest has a temporary one.
        self._image = self._give_disk() if guest.name == "linux" else None

    def remote_write(self) -> int:
        url = self._settings.remote_write
        if url:
            say(f"Delivering to {url}")
            status = self._pipe(["rondo-push", "--remote-write", url])
            return status or self._delivered()
        with receiver() as running:
            say(f"Delivering to {running.write_url}, started for this run; VMM_REMOTE_WRITE names another.")
            push = ["rondo-push", "--remote-write", running.write_url, "--cursor", PASSING_CURSOR]
            status = self._pipe(push)
            if status:
                return status
            whole = evidence(self._session(), running.samples(f'{{instance="{self._instance}"}}'))
        say(f"\n{'All of it arrived, to the last bit.' if whole else 'SOMETHING IS MISSING.'}")
        self._look_further()
        return 0 if whole else 1

    def _delivered(self) -> int:
        """Report what was stored, after rondo-push has delivered everything."""
        found = seconds(self._session(), {})
        say(
            f"\nThe VM lived {found.lived} s; the store has {found.stored} ticks. "
            "rondo-push has no more to send; its line above has the numbers."
        )
        self._look_further()
        return 0 if found.stored == found.lived else 1

    def store(self) -> int:
        status = self._pipe()
        if status:
            return status
        show("rondo-query", METRICS, "list")
        mine = f'instance="{self._instance}"'
        since = ["--start", str(self._session().start_ms // 1000)]
        reason = f'vcpu_exits_total{{{mine},reason="io"}}'
        show("rondo-query", METRICS, "read", reason, "--rate", *since)
        width = str(min(110, shutil.get_terminal_size((100, 24)).columns))
        plot = [f"vcpu_exits_total{{{mine}}}", "--rate", "--height", "18", "--width", width, *since]
        show("rondo-query", METRICS, "plot", *plot)
        return 0

    def disk(self) -> int:
        can_check(self._guest.name)
        if self._image is None:  # otherwise the built-in guest's disk is temporary
            self._image = self._give_disk()
        status = self._pipe()
        if status:
            return status
        try:
            found = check_disk(self._guest.name, self._image)
        except DiskError as exc:
            say(f"\n{self._image.relative_to(ROOT)}: {exc}")
            return 1
        say(f"\n{self._image.relative_to(ROOT)}: {found}")
        return 0

    def bench(self) -> int:
        with receiver() as running:
            push = ["rondo-push", "--remote-write", running.write_url, "--cursor", PASSING_CURSOR]
            status = self._pipe(push)
            if status:
                return status
            session = self._session()
            found = seconds(session, running.samples(f'{{instance="{self._instance}"}}'))
        say(f"\n{'guest':8} {'asked':>7} {'lived':>10} {'seconds':>8} {'in store':>9} {'received':>9}")
        lived_s = (session.end.t_ms - session.start_ms) / 1000 if session.end else 0
        say(
            f"{self._guest.name:8} {self._settings.duration:>7} {lived_s:8.3f} s {found.lived:8} "
            f"{found.stored:9} {found.received:9}"
        )
        share = found.received / found.lived
        whole = found.lived == found.stored == found.received
        say(f"captured {share:.1%} (bar: 100 %, {'met' if whole else 'MISSED'})")
        return 0 if whole else 1

    def _give_disk(self) -> Path:
        image = make_disk(self._guest.name)
        self._vmm += ["--disk", str(image.relative_to(ROOT))]
        return image

    def _pipe(self, *push: list[str]) -> int:
        """Run the pipe; returns the first status that is not 0."""
        return next((one for one in pipeline(self._vmm, ["rondo-store", METRICS], *push) if one), 0)

    def _session(self) -> Session:
        """The newest session of our instance: the run that has just ended."""
        mine = [one for one in Store(ROOT / METRICS).sessions() if one.instance == self._instance]
        return max(mine, key=lambda one: one.start_ms)

    def _look_further(self) -> None:
        say(f"\nLook further: .venv/bin/rondo-query {METRICS} list")


MODES: dict[str, Callable[[Run], int]] = {
    "remote-write": Run.remote_write,
    "store": Run.store,
    "disk": Run.disk,
    "bench": Run.bench,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("mode", choices=MODES)
    mode = parser.parse_args().mode
    try:
        settings = Settings.of(os.environ)
    except ValueError as exc:
        print(f"vmm_demo: {exc}", file=sys.stderr)
        return EX_USAGE
    try:
        if settings.host:
            given = {name: os.environ[name] for name in HANDED_ON if os.environ.get(name)}
            remote = Remote(settings.host, settings.folder, settings.ssh)
            return remote.run("scripts/vmm_demo.py", mode, environment=given)
        guest = choose(settings.guest)
        say(f"Guest: {guest.name}, because {guest.why}")
        return MODES[mode](Run(settings, guest))
    except LookupError as exc:
        print(f"vmm_demo: {exc}", file=sys.stderr)
        return EX_UNAVAILABLE


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):  # like Ctrl-C: end all that was started
        signal.signal(number, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
