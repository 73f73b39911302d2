"""A Debian system that is booted by systemd-nspawn: its own init, accounts and units.

It has the host's network, unless it is to have one of its own without a way out.
"""

import itertools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final, Self

from tests.support.until import until

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_numbers = itertools.count(1)
_WELL: Final = ("running", "degraded")


class Booted:
    """A system in `root`, which it writes to; a context."""

    def __init__(self, root: Path, *, own_network: bool = False) -> None:
        if shutil.which("systemd-nspawn") is None:
            raise FileNotFoundError("systemd-nspawn is missing: apt-get install systemd-container")
        self.root = root
        self._options = ["--private-network"] * own_network
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._init = 0  # its first process, as the host numbers it
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # as long as the system

    def __enter__(self) -> Self:
        """Boot it, and wait until its units are started."""
        (self.root / "etc" / "machine-id").write_text("")
        self._nspawn = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", "systemd-nspawn", "--quiet",
             "--directory", self.root, "--machine", f"pgc-{os.getpid()}-{next(_numbers)}", "--boot",
             "--register=no", "--keep-unit", "--console=pipe", *self._options],
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
        )  # fmt: skip
        try:
            self._init = until(self._first, 30.0, "systemd-nspawn starts")
            until(self._booted, 90.0, "the system is booted")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Power it off; where that takes too long, end it."""
        if self._nspawn is None:
            return
        if self._init:
            self.run("systemctl", "poweroff", "--no-block", check=False)
        try:
            self._nspawn.wait(40.0)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()
            self._nspawn.wait(10.0)
        finally:
            self._log.close()

    def run(
        self, *command: str, check: bool = True, given: str | None = None, seconds: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in it as root, with `given` as standard input; return what it said."""
        place = f"/proc/{self._init}/root"
        done = subprocess.run(
            ["nsenter", "-t", str(self._init), "-m", "-u", "-i", "-p", "-n", "-C",
             f"--root={place}", f"--wd={place}", "env", "-i", f"PATH={_PATH}", "HOME=/root",
             "TERM=dumb", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", *command],
            input=given if given is not None else "", capture_output=True, text=True,
            timeout=seconds, check=False,
        )  # fmt: skip
        if check:
            assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done

    def said(self, *command: str, given: str | None = None) -> str:
        """Run a command that must succeed; return its output, trimmed."""
        return self.run(*command, given=given).stdout.strip()

    def shown(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.said("systemctl", "show", "--value", f"--property={name}", unit)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file of root's."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def _first(self) -> int:
        assert self._nspawn is not None
        assert self._nspawn.poll() is None, self._told()
        own = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children")
        for word in own.read_text().split():
            if Path(f"/proc/{word}/comm").read_text().strip() == "systemd":
                return int(word)
        return 0

    def _booted(self) -> bool:
        assert self._nspawn is not None
        assert self._nspawn.poll() is None, self._told()
        return self.run("systemctl", "is-system-running", check=False).stdout.strip() in _WELL

    def _told(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-3000:]
