"""What goes into a bundle, and where each part of it comes from."""

import datetime as dt
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from pg_collector import control
from pg_collector.bundle import configuration, host, invalid, known, log_end, process
from pg_collector.bundle.content import Kind
from pg_collector.bundle.known import Known
from pg_collector.bundle.parts import LeftOut, Part
from pg_collector.bundle.peer import Peer, listed
from pg_collector.bundle.scan import Scan
from pg_collector.config.load import Loaded
from pg_collector.errors import ConfigurationError

if TYPE_CHECKING:
    from pg_collector.activation.device import Told
    from pg_collector.cli.options import Source

PAGES: Final = (
    "/healthz", "/healthz?verbose", "/livez", "/readyz", "/status", "/watchdog", "/metrics",
    "/version",
)  # fmt: skip
# Facts of the host and of programs: no secret can be in them.
PLAIN: Final = frozenset(("versions.json", "host.json", "process.json", "threads.json"))
_KINDS: Final = {"/metrics": Kind.METRICS}
JOURNAL_WITHIN: Final = 8.0  # seconds


class Scene:
    """The configuration, the agent of it, and the state directory: what the parts are made from."""

    def __init__(
        self, source: "Source", loaded: Loaded | None, why: str, *, since: float, now: dt.datetime
    ) -> None:
        """Look nowhere yet. Without a configuration `loaded` is None, and `why` says so.

        `source` is where it is from, or should be.
        """
        self.loaded = loaded
        self.invalid = why
        self._source = source
        self.since = since
        self.now = now
        config = loaded.config if loaded is not None else None
        self.state_dir = (config and config.state_dir) or control.state_directory(os.environ)
        self.peer = Peer(self.state_dir, config.http if config is not None else None)
        self.sockets = control.candidates(os.environ, config.state_dir if config else None)
        self._device: Told | None = None
        self._looking = threading.Lock()
        self._secrets: list[Known] = []

    def find_secrets(self) -> None:
        """Find out every secret that can be. It may take for ever: a volume may hang."""
        for one in self._known():
            self._secrets.append(one)  # what is found so far is used

    def scan(self) -> Scan:
        """Return a scan for every secret that was found out until now."""
        return Scan(self._secrets.copy())

    def device(self) -> "Told":
        """Return how the device stands: asked of the agent, or read in its place; once."""
        from pg_collector.activation.device import Told
        from pg_collector.cli.device_access import read
        from pg_collector.device_verbs import DeviceRequest

        with self._looking:
            if self._device is None:
                result = self.peer.ask(DeviceRequest(directory=self.peer.directory))
                if result is None:
                    self._device = read(self.state_dir)
                else:
                    self._device = msgspec.convert(result, Told)
            return self._device

    def _known(self) -> Iterator[Known]:
        of_agent = process.environment(self.peer.pid) if self.peer.pid is not None else {}
        if self.loaded is not None:
            yield from known.of_config(self.loaded.config)
            for file in self.loaded.files:
                yield from known.of_file("configuration file", file, whole=False)
        else:
            environ = {**of_agent, **os.environ}
            written = invalid.Written(self._source.path, environ, self._source.overrides)
            yield from invalid.secrets(written)
        yield from known.of_environment(os.environ)
        yield from known.of_environment(of_agent)
        yield from known.of_state(self.state_dir)


def parts(scene: Scene, pages: Iterable[str]) -> list[Part]:
    """Return everything that a bundle may hold."""
    made: list[tuple[str, str, Kind, Callable[[], str]]] = [
        ("config.yaml", "the configuration in force, with where each value is from", Kind.YAML,
         partial(_configuration, scene)),
        ("versions.json", "pgc, Python, libraries", Kind.JSON, host.versions),
        ("host.json", "kernel, processors, memory, names of variables", Kind.JSON,
         partial(host.machine, os.environ)),
        ("process.json", "the agent's limits, memory, open files and control groups", Kind.JSON,
         partial(_process, scene.peer)),
        ("threads.json", "the agent's threads, and where each of them is", Kind.JSON,
         scene.peer.threads),
        ("device.json", "state and plan of the device, as pgc device --json", Kind.JSON,
         partial(_device, scene)),
        ("buffer.json", "what waits to be delivered, as pgc buffer status --json", Kind.JSON,
         partial(_buffer, scene)),
        ("samplers.json", "samplers, and what the plan makes of them", Kind.JSON,
         partial(_samplers, scene)),
        ("agent.log", "the end of the agent's log", Kind.LINES, partial(_log, scene)),
        ("state-directory.json", "names, sizes and modes in the state directory", Kind.JSON,
         partial(host.listing, scene.state_dir)),
    ]  # fmt: skip
    for path in dict.fromkeys((*PAGES, *pages)):
        name = path[1:].replace("?", "-").replace("/", "-")
        kind = _KINDS.get(path, Kind.PAGE)
        made.append((f"http/{name}.txt", f"GET {path}", kind, partial(scene.peer.page, path)))
    return [Part(*one, plain=one[0] in PLAIN) for one in made]


def further_pages(peer: Peer) -> list[str]:
    """Return the pages that the agent's index lists; none where it does not answer."""
    if peer.hangs:
        return []
    try:
        return list(listed(peer.page("/")))
    except Exception:  # noqa: BLE001  # each page says so for itself
        return []


def _configuration(scene: Scene) -> str:
    if scene.loaded is None:
        raise LeftOut(scene.invalid)
    return configuration.shown(scene.loaded)


def _process(peer: Peer) -> str:
    if peer.pid is None:
        raise LeftOut(peer.trouble)
    return process.facts(peer.pid)


def _device(scene: Scene) -> str:
    return msgspec.json.encode(scene.device()).decode()


def _samplers(scene: Scene) -> str:
    from pg_collector.cli import samplers

    if scene.loaded is None:
        return samplers.told(None)
    config = scene.loaded.config
    device = None if config.local.enabled else scene.device()
    return samplers.told(samplers.allowed_by(config, device))


def _buffer(scene: Scene) -> str:
    from pg_collector.buffer import storage
    from pg_collector.buffer_verbs import StatusRequest
    from pg_collector.cli.buffer_access import Stopped

    if scene.loaded is None:
        raise ConfigurationError("the configuration says where the buffer is, and is not valid")
    config = scene.loaded.config
    directory = storage.directory(config.buffers, scene.state_dir)
    name = str(directory.resolve()) if directory is not None else ""
    result = scene.peer.ask(StatusRequest(directory=name))
    if result is not None:
        return msgspec.json.encode(result).decode()
    place = storage.location(config.buffers, scene.state_dir)
    _refuse_unreadable(place)
    report = Stopped(place, config, None).report()
    return msgspec.json.encode(report).decode()


def _refuse_unreadable(place: Path) -> None:
    if place.is_dir() and not os.access(place, os.R_OK | os.W_OK | os.X_OK):
        raise PermissionError(13, "Permission denied", str(place))


def _log(scene: Scene) -> str:
    if scene.loaded is not None and scene.loaded.config.log.file is not None:
        return log_end.of_file(scene.loaded.config.log.file, scene.now, scene.since)
    return log_end.of_journal(scene.since, JOURNAL_WITHIN)
