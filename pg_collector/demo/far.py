"""The demo's platform: a child process on loopback, that can be taken away and brought back."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Final

from pg_collector.demo.place import Place
from pg_collector.demo.server import HOST, Interrupted
from pg_collector.errors import StateError

PLAN: Final = "bench"  # every sampler, as often as one likes
_READY_WITHIN: Final = 20.0  # seconds
_ENDS_WITHIN: Final = 5.0
_ANSWERS_WITHIN: Final = 5.0
_LOOK_EVERY: Final = 0.1
_LOG_SHOWN: Final = 500  # characters


class Far:
    """The platform. `make` once, then `start` and `take_away` as often as one likes."""

    def __init__(self, place: Place, stopping: threading.Event) -> None:
        self._place = place
        self._stopping = stopping
        self._directory = place.path / "platform"
        self._log = place.path / "platform.log"
        self._pid_file = place.path / "platform.pid"
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://{HOST}:{self.port}"
        self.api_key = ""
        self._token = ""  # the administrator's
        self._lock = threading.Lock()  # guards the process
        self._process: subprocess.Popen[bytes] | None = None

    def make(self) -> None:
        """Set it up, with an API key. Raises StateError where that does not work."""
        directory = str(self._directory)
        made = self._pgc("init", directory, "--url", self.url)
        self._token = str(made["admin_token"])
        key = self._pgc("keys", "create", "--plan", PLAN, "--dir", directory)
        self.api_key = str(key["api_key"])

    def start(self) -> None:
        """Start it, and wait until it answers. Raises StateError, Interrupted."""
        with self._lock, self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  # this very program
                [*_PGC, "start", str(self._directory), "--listen", f"{HOST}:{self.port}",
                 "--retention", "0"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", env=_environment(),
                start_new_session=True,  # Ctrl-C is not meant for it
            )  # fmt: skip
            # The keeper ends it, should we be killed.
            self._pid_file.write_text(f"{self._process.pid}\n")
        waited = 0.0
        while not self.answers():
            if not self.running or waited >= _READY_WITHIN:
                raise StateError(
                    f"the demo's platform does not start: {self._last_words()}",
                    remedy="See the demo without one: pgc demo --local.",
                )
            waited += _LOOK_EVERY
            if self._stopping.wait(_LOOK_EVERY):
                raise Interrupted

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        with self._lock:
            return self._process is not None and self._process.poll() is None

    def take_away(self) -> None:
        """Let it crash."""
        with self._lock:
            if self._process is not None:
                self._process.kill()
                self._process.wait(_ENDS_WITHIN)

    def stop(self) -> None:
        """End it in order; kill it where that takes too long."""
        with self._lock:
            process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_ENDS_WITHIN)
        self._pid_file.unlink(missing_ok=True)

    def ask(self, path: str, **query: str) -> Any:
        """Return what one of its pages says to its administrator. Raises OSError, ValueError."""
        url = f"{self.url}{path}?{urllib.parse.urlencode(query)}"
        request = urllib.request.Request(  # noqa: S310  # our own, over http
            url, headers={"Authorization": f"Bearer {self._token}"}
        )
        with _open(request) as answer:
            return json.load(answer)

    def answers(self) -> bool:
        """Whether it is there."""
        try:
            with _open(urllib.request.Request(f"{self.url}/healthz")):  # noqa: S310
                return True
        except OSError:
            return False

    def _pgc(self, *words: str) -> Any:
        done = subprocess.run(  # noqa: S603  # this very program
            [*_PGC, *words, "--json"],
            capture_output=True, text=True, timeout=60, check=False, cwd="/", env=_environment(),
        )  # fmt: skip
        if done.returncode != 0:
            raise StateError(
                f"the demo's platform cannot be set up: {done.stderr[-_LOG_SHOWN:].strip()}",
                remedy="See the demo without one: pgc demo --local.",
            )
        return json.loads(done.stdout)

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            return self._log.read_text("utf-8", "replace")[-_LOG_SHOWN:].strip() or "no word of it"
        return "no word of it"


_PGC: Final = (sys.executable, "-m", "pg_collector", "platform")
_OPENER: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _open(request: urllib.request.Request) -> Any:
    return _OPENER.open(request, timeout=_ANSWERS_WITHIN)


def _environment() -> dict[str, str]:
    """Return ours without what configures an agent; where packages are found stays."""
    found = {name: text for name, text in os.environ.items() if not name.startswith("PGC_")}
    root = str(Path(__file__).parents[2])
    return {**found, "PYTHONPATH": ":".join(filter(None, (root, found.get("PYTHONPATH", ""))))}
