"""The demo from its first word to its last: server, workload, agent, view, farewell."""

import contextlib
import errno
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from pg_collector import agent, logs
from pg_collector.agent import Agent
from pg_collector.clock import Clock
from pg_collector.config.model import (
    AuthMethod,
    Breaker,
    Breakers,
    Buffers,
    Config,
    Database,
    Durability,
    Http,
    Local,
    Log,
    LogFormat,
    LogLevel,
    Platform,
    Postgres,
    Sampling,
)
from pg_collector.control import SOCKET_NAME
from pg_collector.demo import account, binaries, farewell, shop, stored
from pg_collector.demo.far import Far
from pg_collector.demo.feed import Board, shown
from pg_collector.demo.outage import Outage, Times
from pg_collector.demo.place import Place
from pg_collector.demo.plain import PlainView
from pg_collector.demo.server import HOST, Interrupted, Server
from pg_collector.demo.view import View, Viewer
from pg_collector.demo.watch import TARGET, Watch
from pg_collector.demo.workload import Workload
from pg_collector.errors import StateError
from pg_collector.health.address import parse_address
from pg_collector.metrics import Metrics
from pg_collector.outlets import Outlet
from pg_collector.outlets.file import FileOutlet
from pg_collector.plan import OpenGrant
from pg_collector.privacy.scrub import scrub
from pg_collector.samplers import discover
from pg_collector.secret import Secret

USUAL_HTTP: Final = ("127.0.0.1", 8080)
_OFTEN: Final = {"activity": 2.0}  # seconds
_AT_MOST: Final = 5.0  # seconds between two turns of any other sampler
_TRIED_WITHIN: Final = 2.0  # seconds between two attempts while the platform is away


class Options(NamedTuple):
    """What the command line says. `http` None: the usual address, or another if that is taken."""

    seconds: float | None
    output: Path
    keep: bool
    http: str | None
    local: bool = False  # files, and no platform
    outage: float | None = None  # seconds; None: as fits


def run(options: Options) -> int:
    """Be the demo, in the main thread, until the time is up, SIGINT or SIGTERM.

    Returns the exit code. Raises CollectorError, with the remedy, where it cannot start.
    """
    stopping = threading.Event()
    board = Board()
    _leave_the_environment()
    with _ends_by_signal(stopping), contextlib.ExitStack() as stack:
        try:
            code = _run(options, board, stopping, stack)
        except Interrupted:
            _say("Ended before it began.")
            return 0
    if options.local:
        farewell.say(board, options.output.absolute() / TARGET)
    return code


def _run(
    options: Options, board: Board, stopping: threading.Event, stack: contextlib.ExitStack
) -> int:
    """Build everything up, watch, and leave it to `stack` to take everything down."""
    if options.local:
        _check_output(options.output)
    else:
        _check_platform()
    http = _address(options.http)
    tree = binaries.find()
    place = stack.enter_context(Place(account.find()))
    also = "" if options.local else " and a platform"
    _say(f"Starting a PostgreSQL{also} of its own in {place.path} ...")
    far = None if options.local else Far(place, stopping)
    if far is not None:
        stack.callback(far.stop)
    server = Server(place, binaries.reachable(tree, place), stopping)
    server.make()
    workload = Workload(server)
    stack.callback(workload.join)
    stack.callback(_leave, server, keep=options.keep)  # ends the workload's sessions
    stack.callback(workload.end)
    server.start(survives=options.keep)
    # Not before: a child that is to die with us is not to be forked beside another thread.
    making = stack.enter_context(ThreadPoolExecutor(1, "demo-platform")).submit(_made, far)
    passwords = shop.build(server)
    workload.start(passwords.owner)
    making.result()

    live = _live()
    password = place.write("password", passwords.monitor + "\n")
    config = _config(options, http, server, password, far, live=live)
    code = _watched(options, config, server, board, far=far, stopping=stopping, live=live)
    if far is not None and far.answers():
        for line in (*stored.ask(far, TARGET, shop.DATABASE), *farewell.next_steps()):
            _say(line)
    return code


def _made(far: Far | None) -> None:
    """Set the platform up and start it, while the shop is built."""
    if far is not None:
        far.make()
        far.start()


def _watched(
    options: Options,
    config: Config,
    server: Server,
    board: Board,
    *,
    far: Far | None,
    stopping: threading.Event,
    live: bool,
) -> int:
    """Run the agent, as `pgc start` does, with somebody watching."""
    viewers: list[Viewer] = []
    make = _view(config, server, far, live=live)
    sockets = (server.place.path / SOCKET_NAME,)
    outage = Outage(far, Times.within(options.seconds, options.outage)) if far else None

    def on_start(running: Agent) -> None:
        viewer = Viewer(
            running,
            Watch(running, board),
            make,
            seconds=options.seconds,
            alive=lambda: server.running,
            stopping=stopping,
        )
        viewers.append(viewer)
        viewer.start()
        if outage is not None:
            outage.start()

    def files(clock: Clock, metrics: Metrics) -> Outlet:
        return shown(FileOutlet(config.local, clock, metrics), board)

    try:
        if far is None:
            code = agent.run(config, OpenGrant(), files, sockets=sockets, on_start=on_start)
        else:
            code = agent.run(
                config,
                None,
                state_dir=config.state_dir,
                sockets=sockets,
                on_start=on_start,
                around=partial(shown, board=board),
            )
    finally:
        if outage is not None:
            outage.stop()
        for viewer in viewers:
            viewer.stop()
    if any(viewer.failed for viewer in viewers):
        if not server.running:
            _say(f"The demo's PostgreSQL has ended by itself: {server.last_words()}")
        return 1
    return code


def _config(
    options: Options, http: str, server: Server, password: Path, far: Far | None, *, live: bool
) -> Config:
    """Return the configuration that a file would hold for this server."""
    intervals = {
        name: _OFTEN.get(name, min(_AT_MOST, sampler.every)) for name, sampler in discover().items()
    }
    uri = f"postgresql://{shop.MONITOR}@{HOST}:{server.port}/{shop.DATABASE}?sslmode=disable"
    postgres = Postgres(
        conn_string=Secret(uri), auth_method=AuthMethod.PASSWORD, password_file=password
    )
    config = Config(
        databases=(Database(name=TARGET, postgres=postgres),),
        sampling=Sampling(every=intervals, budget=None),  # it is there to be watched
        http=Http(address=http),
        log=Log(level=LogLevel.WARNING if live else LogLevel.INFO, format=LogFormat.CONSOLE),
    )
    if far is None:
        return msgspec.structs.replace(
            config,
            buffers=Buffers(durability=Durability.MEMORY),
            local=Local(enabled=True, path=options.output.absolute()),
        )
    soon = Breaker(failures=3, reset=_TRIED_WITHIN)
    return msgspec.structs.replace(
        config,
        api_key=Secret(far.api_key),
        state_dir=server.place.path / "state",
        platform=Platform(
            url=far.url, no_proxy="*", linger=1.0, resume_delay_max=0.5, retry_max=_TRIED_WITHIN
        ),
        breakers=Breakers(platform=soon, identity=soon),
    )


def _view(config: Config, server: Server, far: Far | None, *, live: bool) -> Callable[[], View]:
    """Return what makes the fitting view, and send the log where it does no harm."""
    where = f"platform: {far.url}" if far else f"files: {config.local.path / TARGET}"
    links = [f"{where}   Ctrl-C ends the demo"]
    if config.http.address != "off":
        links.insert(0, f"http://{config.http.address}/healthz   /status   /metrics")
    links.insert(0, f"RUNTIME_DIRECTORY={server.place.path} pgc top")
    title = f"PG Collector watches PostgreSQL {server.version} on {HOST}:{server.port}"
    if not live:
        logs.setup(config.log, scrub=scrub)
        for text in (title, *links):
            _say(text)
        return PlainView
    from pg_collector.demo.screen import LiveView, Notices  # noqa: PLC0415  # rich, for people only

    notices = Notices()
    logs.setup(config.log, scrub=scrub, stream=notices if sys.stderr.isatty() else None)
    return partial(LiveView, title, links, notices)


def _leave(server: Server, *, keep: bool) -> None:
    """Stop the server, or say how to reach the one that stays."""
    if not (keep and server.running):
        server.stop()
        return
    server.end_sessions(shop.OWNER)
    passfile = server.pass_file()
    server.place.keep()
    psql = shutil.which("psql") or server.tree / "bin" / "psql"
    uri = f"postgresql://postgres@{HOST}:{server.port}/{shop.DATABASE}?passfile={passfile}"
    _say(
        f"\nThe server stays. Look into it:\n  {psql} '{uri}'\n"
        f"Remove it:\n  kill -INT {server.pid}; sleep 2; rm -r {server.place.path}"
    )


def _check_platform() -> None:
    """Raise StateError where the packages of the platform are missing."""
    missing = [name for name in ("duckdb", "waitress") if find_spec(name) is None]
    if missing:
        raise StateError(
            f"the demo's platform needs the package {missing[0]}",
            remedy="pip install 'pg-collector[demo]', or see it without: pgc demo --local.",
        )


def _check_output(path: Path) -> None:
    """Raise StateError where nothing can be written to the output directory."""
    remedy = "Name another directory: --output DIR."
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as probe:
            probe.write(b"?")
    except OSError as error:
        raise StateError(f"cannot write to {path}: {error.strerror}", remedy=remedy) from error


def _address(wanted: str | None) -> str:
    """Return the address to serve health and metrics on; raise ConfigurationError if it is none."""
    if wanted is not None:
        if wanted != "off":
            parse_address(wanted)
        return wanted
    host, port = USUAL_HTTP
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise StateError(
                    f"cannot listen on {host}: {error.strerror}",
                    remedy="Name an address, or do without: --http off.",
                ) from error
        else:
            return f"{host}:{port}"
        with socket.socket() as other:
            other.bind((host, 0))
            free = other.getsockname()[1]
    _say(f"Port {port} is taken; health and metrics are on {host}:{free} instead.")
    return f"{host}:{free}"


def _live() -> bool:
    """Whether somebody looks at a terminal that can be drawn on."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in {"dumb", "unknown"}


def _leave_the_environment() -> None:
    """Forget libpq's variables: they mean the user's own server, and would lead there."""
    for name in [name for name in os.environ if _is_libpqs(name)]:
        del os.environ[name]


def _is_libpqs(name: str) -> bool:
    return name.startswith("PG") and not name.startswith("PGC_")


@contextlib.contextmanager
def _ends_by_signal(stopping: threading.Event) -> Iterator[None]:
    """Let the signals set `stopping`: the agent listens to two of them, while it runs only."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # not with nohup
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: stopping.set()) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _say(text: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(text, flush=True)  # noqa: T201  # talking is what it is for
