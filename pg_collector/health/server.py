"""The agent's HTTP server: health and numbers, for probes, Prometheus and people.

A few threads serve it, and nobody can hold them: a request must arrive within the read timeout as a
whole, an answer must be taken within the write timeout. When all threads are taken, newcomers wait
in the lobby until they have asked; then the client that has kept a thread waiting longest loses it,
and every answer is the last on its connection.
"""

import hmac
import logging
import ssl
import threading
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Final

from pg_collector.config.certificates import server_context
from pg_collector.config.files import Unreadable, read_secret
from pg_collector.config.model import Http, IpAllowlist
from pg_collector.errors import ConfigurationError, StateError
from pg_collector.health.address import parse_address, remedy
from pg_collector.health.conversation import METHODS
from pg_collector.health.guests import FORWARDED, Guests, Seldom
from pg_collector.health.listener import Listener
from pg_collector.health.pages import Page, Pages, text
from pg_collector.health.vitals import Vitals
from pg_collector.metrics import Metrics
from pg_collector.trust import Stamp, stamp

log = logging.getLogger(__name__)
audit = logging.getLogger("pg_collector.audit")

_END: Final = 1.0  # second for the accepting thread's end
_GOODBYE: Final = 0.3  # seconds for the last answers


class HealthServer:
    """Serves the pages on `http.address`; `off` serves nothing.

    Raises ConfigurationError if the address, the token file or the certificate cannot be used.
    """

    def __init__(
        self,
        http: Http,
        vitals: Vitals,
        metrics: Metrics,
        *,
        version: Mapping[str, str],
        allowlist: IpAllowlist = IpAllowlist(),  # noqa: B008  # it is frozen
    ) -> None:
        self._http = http
        self._guests = Guests(http, allowlist)
        self._turned_away = Seldom(_refused)
        self._endpoint = None if http.address == "off" else parse_address(http.address)
        self._pages = Pages(vitals, metrics, version)
        self._metrics = metrics
        self._vitals = vitals
        self._token = _token(http)
        self._stamps = _stamps(http)
        self._tls = _tls(http)
        self._server: Listener | None = None
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port that it listens on, or None."""
        return self._server.server_address[:2] if self._server else None  # type: ignore[return-value]

    def page(self, path: str, accept: str) -> Page:
        """Return what a welcome visitor would be answered, whether it listens or not."""
        return self._pages.get(path, accept)

    def admit(self, allowlist: IpAllowlist) -> None:
        """Let others in from the next request on."""
        self._guests = Guests(self._http, allowlist)

    def renew(self) -> None:
        """Show another certificate from the next connection on, where its file was replaced."""
        stamps = _stamps(self._http)
        if stamps == self._stamps or self._server is None:
            return
        try:
            self._server.tls = _tls(self._http)
        except ConfigurationError as error:  # of a pair, one file may be there before the other
            log.warning(
                "the certificate stays as it was: %s", error, extra={"remedy": error.remedy}
            )
            return
        self._stamps = stamps
        log.info("the certificate of the HTTP endpoint was replaced")

    def start(self) -> None:
        """Listen, and serve from a thread of its own. Raises StateError if it cannot listen."""
        if self._endpoint is None:
            return
        try:
            self._server = Listener(
                self._endpoint, self._http, self._answer, self._knock, self._tls
            )
        except OSError as error:
            raise StateError(
                f"cannot listen on {self._http.address}: {error.strerror or error}",
                remedy=remedy(error, self._endpoint[1]),
            ) from error
        self._server.heart = self._vitals.heart("http")
        self._thread = threading.Thread(target=self._server.serve_forever, name="http", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop within a second, whatever clients do."""
        if self._server is None or self._thread is None:
            return
        self._server.wake()
        self._thread.join(_END)
        self._server.server_close()
        self._server.end(_GOODBYE)
        self._server = self._thread = None

    def _knock(self, peer: str) -> bool:
        welcome = self._guests.may_knock(peer)
        if not welcome:
            self._refuse(peer, "address")
        return welcome

    def _refuse(self, peer: str, reason: str) -> None:
        self._metrics.http_requests_refused_total.labels(reason).inc()
        self._turned_away.note(f"{peer}: {reason}")

    def _answer(self, request: BaseHTTPRequestHandler) -> Page:
        forwarded = request.headers.get_all(FORWARDED, [])
        peer = request.client_address[0]
        if not self._guests.may_enter(peer, forwarded):
            self._refuse(peer, "address")
            return text(HTTPStatus.FORBIDDEN, "this address is not on the list")
        if request.command not in METHODS:
            return text(HTTPStatus.METHOD_NOT_ALLOWED, "GET and HEAD only")
        if self._token and not hmac.compare_digest(_bearer(request), self._token):
            self._refuse(peer, "token")
            return text(HTTPStatus.UNAUTHORIZED, "a bearer token is needed: http.token_file has it")
        try:
            return self._pages.get(request.path, request.headers.get("Accept", ""))
        except Exception:
            self._metrics.panics_recovered_total.labels("health").inc()
            log.exception("a page failed")
            return text(HTTPStatus.INTERNAL_SERVER_ERROR, "this page failed; the log says why")


def _refused(who: str, times: int) -> None:
    audit.info("a request was not let in: %s", who, extra={"times": times})


def _token(http: Http) -> bytes | None:
    if http.token_file is None:
        return None
    try:
        return read_secret(http.token_file).encode()
    except Unreadable as error:
        raise ConfigurationError(f"http.token_file {error}", remedy=error.remedy) from None


def _tls(http: Http) -> ssl.SSLContext | None:
    if http.tls.cert_file is None:
        return None
    try:
        return server_context(http.tls.cert_file, http.tls.key_file)
    except Unreadable as error:
        raise ConfigurationError(
            f"http.tls (cert_file, key_file): {error}", remedy=error.remedy
        ) from error


def _stamps(http: Http) -> list[Stamp | None]:
    return [stamp(file) for file in (http.tls.cert_file, http.tls.key_file) if file is not None]


def _bearer(request: BaseHTTPRequestHandler) -> bytes:
    scheme, _, token = str(request.headers.get("Authorization", "")).partition(" ")
    return token.strip().encode() if scheme.lower() == "bearer" else b""
