"""`pgc platform start`: builds the parts, serves, ends in order."""

import contextlib
import logging
import signal
import ssl
import threading
import time
from pathlib import Path
from typing import Final, NamedTuple

from pg_collector import signals
from pg_collector.errors import StateError
from pg_collector.platform import plans
from pg_collector.platform.api import Admin, DeviceCalls, Samples
from pg_collector.platform.chaos import parse
from pg_collector.platform.identity import Identity
from pg_collector.platform.keys import KeyRing
from pg_collector.platform.metering import Numbers
from pg_collector.platform.place import Place
from pg_collector.platform.router import Router
from pg_collector.platform.store import Store
from pg_collector.platform.web_server import WebServer

log = logging.getLogger(__name__)

HOUR: Final = 3600.0
_SOON: Final = 5.0  # seconds between two turns of what is done all the time


class Options(NamedTuple):
    """How to serve."""

    directory: Path
    host: str = "127.0.0.1"
    port: int = 8443
    certificate: Path | None = None
    key: Path | None = None
    plans: Path | None = None
    token_seconds: float = HOUR
    threads: int = 8
    chaos: str = ""
    retention: float | None = None  # seconds


def serve(options: Options) -> None:
    """Serve until SIGTERM or SIGINT. Raises StateError, ConfigurationError, OSError."""
    offers = plans.load(options.plans)
    chaos = parse(options.chaos)
    place = Place(options.directory)
    with contextlib.ExitStack() as stack:
        stack.enter_context(place.taken())
        tls = _context(options)
        identity = Identity(place.identity)
        stack.callback(identity.close)
        numbers = Numbers()
        numbers.started.set_to_current_time()
        store = Store(place.samples, numbers, retention=options.retention)
        stack.callback(store.close)
        devices = DeviceCalls(
            identity,
            KeyRing(place.signing),
            offers,
            numbers,
            token_seconds=options.token_seconds,
        )
        router = Router(
            [
                *devices.routes(),
                *Samples(devices, store, numbers).routes(),
                *Admin(identity, store, numbers).routes(),
            ],
            observer=numbers.observe,
            around=chaos.around,
        )
        largest = max(offer.plan.ingest.max_batch_bytes for offer in offers.values())
        server = WebServer(
            router,
            options.host,
            options.port,
            threads=options.threads,
            max_body=2 * largest,
            tls=tls,
        )
        upkeep = _Upkeep(identity)
        stack.callback(upkeep.stop)
        upkeep.start()

        def end(*_: object) -> None:
            chaos.stopping.set()
            server.stop()

        ends = dict.fromkeys((signal.SIGTERM, signal.SIGINT), end)
        # It would warn of every request that waits for a thread; a histogram tells that.
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)
        with signals.handled(ends):
            log.info("platform listens on %s", server.url)
            server.run()
    log.info("platform has ended")


class _Upkeep:
    """A thread that does what is due now and then."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, within a moment."""
        self._stopping.set()
        self._thread.join(_SOON)

    def _run(self) -> None:
        hourly = 0.0
        while not self._stopping.wait(_SOON):
            try:
                self._identity.flush_contacts()
                if time.monotonic() >= hourly:
                    self._identity.forget_old_tokens()
                    hourly = time.monotonic() + HOUR
            except Exception:
                log.exception("upkeep failed")


def _context(options: Options) -> ssl.SSLContext | None:
    if options.certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(options.certificate, options.key)
    except OSError as error:  # ssl.SSLError is one
        raise StateError(
            f"{options.certificate} cannot be used: {error}",
            remedy="--certificate is the chain as PEM, --key the key of that certificate.",
        ) from error
    return context
