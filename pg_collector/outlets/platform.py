"""The platform: batches over HTTPS, as docs/specs/delivery.md says; `answers` reads the answers."""

import datetime as dt
import gzip
import logging
import sys
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final

from pg_collector.clock import Clock
from pg_collector.config.model import Compression, Platform
from pg_collector.errors import Held
from pg_collector.metrics import REMOTE_ERRORS, Metrics
from pg_collector.outlets import Receipt
from pg_collector.outlets.answers import date, judge
from pg_collector.sample import Batch
from pg_collector.web import Reply, Web

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

log = logging.getLogger(__name__)

Unauthorized = Callable[[str, Callable[[], bool]], None]

SKEW_WORTH_TELLING: Final = 5.0  # seconds
LEAST: Final = 0.1  # seconds for another attempt of the same delivery
ATTEMPTS: Final = 3  # of one delivery: as it is, with another token, with another encoding

_ZSTD_LEVEL: Final = 3
_GZIP_LEVEL: Final = 6


class PlatformOutlet:
    """An `Outlet` that posts batches to `platform.url`; for one thread.

    `token` gives the access token of the moment, and may raise a DeliveryError. When the platform
    refuses one, `unauthorized` is told which, and the batch is repeated once if `token` gives
    another one then. It may wait for that one until the function it is given says that this outlet
    was interrupted; `abandon` has that looked at. Beside what these two take, a delivery takes
    `platform.timeout.total` at most.
    `acknowledged` hears of each success, `held` of what only a person can change.
    """

    name = "platform"

    def __init__(
        self,
        platform: Platform,
        clock: Clock,
        metrics: Metrics,
        *,
        token: Callable[[], str],
        unauthorized: Unauthorized = lambda _token, _gave_up: None,
        abandon: Callable[[], None] = lambda: None,
        acknowledged: Callable[[Receipt], None] = lambda _receipt: None,
        held: Callable[[Held], None] = lambda _error: None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare; nothing is connected yet. Raises ConfigurationError as `Web` does."""
        self._web = Web(platform, clock, environ)
        self._clock = clock
        self._token = token
        self._unauthorized = unauthorized
        self._abandon = abandon
        self._gave_up = threading.Event()
        self._acknowledged = acknowledged
        self._held = held
        self._encoding = platform.compression
        self._total = platform.timeout.total
        self._skewed = False
        metrics.introduce_output(self.name, *REMOTE_ERRORS)
        self._bytes_total = metrics.output_bytes_total.labels(self.name)
        self._uncompressed_total = metrics.output_uncompressed_bytes_total.labels(self.name)
        self._skew = metrics.clock_skew_seconds

    def deliver(self, batch: Batch) -> Receipt:
        """Post a batch; return what the platform has committed of it. Raises a DeliveryError."""
        reply, sent = self._posted(batch)
        try:
            receipt = judge(reply, batch, self._clock.now())
        except Held as error:
            self._held(error)
            raise
        self._watch_clock(reply)
        self._acknowledged(receipt)
        return receipt._replace(sent=sent)

    def interrupt(self) -> None:
        """End a delivery under way, and refuse later ones: the agent stops. From any thread."""
        self._gave_up.set()
        self._abandon()
        self._web.interrupt()

    def close(self) -> None:
        """Close the connection."""
        self._web.close()

    def _posted(self, batch: Batch) -> tuple[Reply, int]:
        """Post, again with gzip where zstd is not known, again where there is a newer token."""
        body = batch.body
        token = self._token()
        left = self._total
        for _ in range(ATTEMPTS - 1):
            reply, sent = self._post(batch, body, token, left)
            left = max(LEAST, left - reply.seconds)
            unknown = reply.status == HTTPStatus.UNSUPPORTED_MEDIA_TYPE
            if unknown and self._encoding is not Compression.GZIP:
                log.info("the platform does not take %s: gzip from now on", self._encoding)
                self._encoding = Compression.GZIP
            elif reply.status == HTTPStatus.UNAUTHORIZED:
                self._unauthorized(token, self._gave_up.is_set)
                refused, token = token, self._token()
                if token == refused:
                    return reply, sent
            else:
                return reply, sent
        return self._post(batch, body, token, left)

    def _post(self, batch: Batch, body: bytes, token: str, within: float) -> tuple[Reply, int]:
        packed = _packed(body, self._encoding)
        headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/x-ndjson",
            "Content-Encoding": self._encoding.value,
            "Idempotency-Key": f"{batch.stream}/{batch.first}-{batch.last}",
            "Pgc-Life": batch.life,
        }
        reply = self._web.request(
            "POST", "/v1/samples", headers, packed, within=within, secrets=(token,)
        )
        self._bytes_total.inc(len(packed))
        self._uncompressed_total.inc(len(body))
        return reply, len(packed)

    def _watch_clock(self, reply: Reply) -> None:
        """Compare the clocks; the answer's was read somewhere within the exchange."""
        theirs = date(reply.headers.get("date", ""))
        if theirs is None:
            return
        middle = self._clock.now() - dt.timedelta(seconds=reply.seconds / 2)
        # The header has whole seconds, cut off.
        ahead = (middle - theirs).total_seconds() - 0.5
        self._skew.set(ahead)
        skewed = abs(ahead) > SKEW_WORTH_TELLING
        if skewed and not self._skewed:
            way = "ahead of" if ahead > 0 else "behind"
            log.warning("this host's clock is %.0f s %s the platform's", abs(ahead), way)
        self._skewed = skewed


def _packed(body: bytes, encoding: Compression) -> bytes:
    if encoding is Compression.ZSTD:
        return zstd.compress(body, level=_ZSTD_LEVEL)
    return gzip.compress(body, compresslevel=_GZIP_LEVEL, mtime=0)
