"""Runs a script of this checkout on another machine, as if it were here.

Strategy: rsync copies the checkout, `make setup-demo` creates the .venv, and one ssh runs the script and
shows its output. leash.py ends the script when its standard input ends, so it ends with the connection.
Ctrl-C here closes that input, and the output is shown until the script has ended.
"""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess

from devtools import ROOT
from devtools.pipeline import say
from devtools.programs import fetch

EX_UNAVAILABLE = 69

# A dead connection is noticed within half a minute; ssh may ask for a password.
SSH = ("ssh", "-T", "-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3")


class Remote:
    """`host` is ssh's destination, `folder` a path there, relative to the home folder.

    `options` are additional options for ssh: ``-p 2222 -i key``.
    """

    def __init__(self, host: str, folder: str, options: str) -> None:
        self._host = host
        self._folder = folder
        self._ssh = [*SSH, *shlex.split(options)]

    def run(self, script: str, *arguments: str, environment: dict[str, str]) -> int:
        """Sync, set up, run; returns the exit status of the first of these that fails.

        The script gets `environment`; PYTHON in it is the Python of the setup there.
        """
        say(f"Syncing {ROOT.name}/ to {self._host}:{self._folder}/")
        status = self._sync()
        if status:
            say(f"Syncing failed, rsync's exit status is {status}. Both machines need rsync.")
            return EX_UNAVAILABLE
        python = shlex.quote(environment.get("PYTHON", "python3"))
        given = [f"{name}={value}" for name, value in sorted(environment.items())]
        steps = [
            f"cd {shlex.quote(self._folder)}",
            f"{python} scripts/devtools/leash.py make -s setup-demo PYTHON={python}",
            f"exec {python} scripts/devtools/leash.py "
            + shlex.join(["env", *given, ".venv/bin/python", script, *arguments]),
        ]
        say(f"Running there: {shlex.join([*given, script, *arguments])}\n")
        return self._leashed(" && ".join(steps))

    def _sync(self) -> int:
        """Copy all but ignored files. Delete nothing there: the folder may have other files."""
        rsync = shutil.which("rsync") or fetch("rsync")
        source, target = f"{ROOT}/", f"{self._host}:{self._folder}/"
        chosen = ["--archive", "--exclude=/.git", "--filter=:- .gitignore", "--no-owner", "--no-group"]
        return subprocess.run([rsync, *chosen, "-e", shlex.join(self._ssh), source, target]).returncode

    def _leashed(self, command: str) -> int:
        process = subprocess.Popen(
            # ssh inherits the ignored signal: Ctrl-C goes to us only.
            ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *self._ssh, self._host, command],
            stdin=subprocess.PIPE,
        )
        leash = process.stdin
        assert leash is not None

        def let_go(_number: int, _frame: object) -> None:
            leash.close()

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, let_go) for number in numbers}
        try:
            return process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            leash.close()
