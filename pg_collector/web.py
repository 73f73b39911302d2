"""HTTP as a client: bounded exchanges with one far side. The only place that knows requests.

requests as it comes follows a 302 with a GET and calls that a success, lets variables of the
environment replace the authorities of a session (https://github.com/psf/requests/issues/3829),
inflates whatever it is sent, and has no limit for a whole exchange. So its adapter is used without
its session: no redirects, no cookies, no .netrc, no environment but what is read here, once.
docs/specs/delivery.md says what holds.
"""

import base64
import http.client
import ipaddress
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

from urllib3.exceptions import HTTPError

from pg_collector import __version__, lean
from pg_collector.clock import Clock
from pg_collector.config.model import Platform
from pg_collector.config.proxy import PORTS, parse, shown
from pg_collector.errors import ConfigurationError, DeliveryError, Unexpected, Unreachable
from pg_collector.exchange import MAX_REPLY, POOLS, Exchange, tls_context
from pg_collector.resolve import Resolver
from pg_collector.secret import Secret
from pg_collector.trust import Stamp, stamp, system_bundle
from pg_collector.web_trouble import refused_by_proxy, unreachable
from pg_collector.wire import Wire

# The first two guess the encoding of a text, for which nobody asks here; 2.5 MB. The third is for
# names of hosts beyond ASCII: who meets one imports it then.
with lean.without("charset_normalizer", "chardet"), lean.stand_in("idna"):
    import requests
    from requests.adapters import HTTPAdapter

_CHUNK: Final = 8192
_SECRET_LEAST: Final = 8  # characters; less is a word that may stand anywhere
_PROXY_AUTHENTICATION_REQUIRED: Final = 407
_OURS: Final = {
    "User-Agent": f"pg-collector/{__version__}",
    "Accept": "application/json, application/problem+json",
    "Accept-Encoding": "identity",  # whatever comes all the same is inflated within a cap
}


class Reply(NamedTuple):
    """A complete answer. Header names are in lower case; the body is inflated."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float  # the whole exchange took
    secrets: tuple[str, ...] = ()  # of the question: the far side may repeat them

    def without_secrets(self, text: str) -> str:
        """Return what the far side said without what it was told in confidence."""
        for secret in self.secrets:
            text = text.replace(secret, "?")
        return text


class Web:
    """Exchanges with the host of `platform.url`, one at a time, over a kept-alive connection.

    For one thread; `interrupt` is for any. Certificates are verified always, against the file that
    is in force at the moment of connecting.
    """

    def __init__(
        self, platform: Platform, clock: Clock, environ: Mapping[str, str] | None = None
    ) -> None:
        """Prepare; nothing is connected yet.

        Proxies come from `platform`, else from HTTPS_PROXY and NO_PROXY in `environ`. Raises
        ConfigurationError where the URL, the proxy or the system's authorities cannot be used.
        """
        url = urlsplit(platform.url or "")
        if url.scheme not in PORTS or not url.hostname:
            raise ConfigurationError("platform.url is missing", remedy="Write https://host/path.")
        self.url = (platform.url or "").rstrip("/")
        self._clock = clock
        self._timeout = platform.timeout
        self._proxy = _proxy(platform, os.environ if environ is None else environ)
        self._login = _login(self._proxy)
        self._place = f"{url.hostname}:{url.port or PORTS[url.scheme]}"
        if self._proxy:
            self._place += f" by the proxy {shown(self._proxy.reveal())}"
        self._authorities = _authorities(platform.ca_file) if url.scheme == "https" else None
        pair = platform.client_cert
        own = pair.cert_file, pair.key_file
        self._own = (str(own[0]), str(own[1])) if own[0] and own[1] else None
        self._revoked = str(platform.crl_file) if platform.crl_file else None
        self._stamps: dict[str, Stamp | None] = {}  # of the files, as the adapter knows them
        self._wire = Wire()
        self._pid = os.getpid()
        self._resolver = Resolver()
        self._adapter: _Adapter | None = None

    @property
    def place(self) -> str:
        """Host and port of the far side, and of the proxy where there is one."""
        return self._place

    @property
    def authorities(self) -> str | None:
        """The file of the authorities that are trusted; None where nothing is encrypted."""
        return self._authorities

    @property
    def timeout(self) -> float:
        """Seconds that an exchange may take."""
        return self._timeout.total

    def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
        *,
        within: float | None = None,
        secrets: tuple[str, ...] = (),
    ) -> Reply:
        """Ask for `path` below the URL and return the answer, whatever its status.

        It is to be there `within` so many seconds, by default `platform.timeout.total`. `secrets`
        are the texts in headers and body that nobody else may see.
        Where a kept connection proves closed before anything came, it is asked again at once.
        Raises Unreachable where no complete answer came in time, Unexpected where it cannot be
        the far side's.
        """
        request = requests.Request(method, f"{self.url}{path}", {**_OURS, **headers}, data=body)
        with Exchange(
            self._place,
            connect=self._timeout.connect,
            total=self._timeout.total if within is None else within,
            clock=self._clock,
            wire=self._wire,
            resolver=self._resolver,
        ) as exchange:
            try:
                reply = self._attempt(request, exchange)
            except _Closed:
                reply = self._attempt(request, exchange)
        told = (*secrets, *self._login)
        return reply._replace(secrets=tuple(one for one in told if len(one) >= _SECRET_LEAST))

    def interrupt(self) -> None:
        """End the exchange under way, and refuse every later one: the agent stops. Any thread."""
        self._wire.cut()

    def close(self) -> None:
        """Close the connection; the next exchange opens a new one."""
        adapter, self._adapter = self._adapter, None
        if adapter is not None:
            adapter.close()

    def _attempt(self, request: requests.Request, exchange: Exchange) -> Reply:
        exchange.fresh = False
        try:
            found = self._opened().send(
                self._prepared(request),
                stream=True,
                timeout=(self._timeout.connect, self._timeout.total),
                verify=self._authorities or True,
                cert=self._own,
                proxies={"http": self._proxy.reveal(), "https": self._proxy.reveal()}
                if self._proxy
                else {},
            )
            reply = _read(found, exchange)
        except (DeliveryError, OSError, HTTPError, http.client.HTTPException) as error:
            self.close()
            trouble = unreachable(error, self._place)
            if trouble is not error and not exchange.fresh and not exchange.received:
                raise _Closed from None
            raise trouble from None  # the library's error may hold what is secret
        if reply.status == _PROXY_AUTHENTICATION_REQUIRED:
            raise refused_by_proxy(reply.status, self._place)
        return reply

    def _prepared(self, request: requests.Request) -> requests.PreparedRequest:
        for name, value in request.headers.items():
            if not value.isprintable() or not value.isascii():  # the library would show it
                raise Unreachable(f"{self._place}: the header {name} holds what none may hold")
        return request.prepare()

    def _opened(self) -> "_Adapter":
        """Return the adapter; a new one in a child process, whose connections are its parent's."""
        if self._pid != os.getpid():
            self._pid, self._adapter = os.getpid(), None
            self._resolver = Resolver()
        named = (self._authorities, self._revoked, *(self._own or ()))
        stamps = {file: stamp(Path(file)) for file in named if file is not None}
        for file, found in stamps.items():
            if found is None:
                raise Unreachable(
                    f"{self._place}: the file {file} is missing",
                    remedy="See platform.ca_file, platform.crl_file and platform.client_cert.",
                )
        if self._adapter is not None and stamps != self._stamps:
            self.close()  # a file was replaced; a context that read the old one keeps it
        if self._adapter is None:
            self._stamps = stamps
            self._adapter = _Adapter(self._authorities, self._revoked)
        return self._adapter


class _Closed(Exception):
    """A connection that was kept alive was closed by the far side in the meantime."""


class _Adapter(HTTPAdapter):
    """One connection, of our bounded kind, never tried again behind our back."""

    def __init__(self, authorities: str | None, revoked: str | None) -> None:
        self._authorities = authorities
        self._revoked = revoked
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, ssl_context=tls_context(self._revoked), **options)
        self.poolmanager.pool_classes_by_scheme = POOLS

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        if proxy in self.proxy_manager:
            return self.proxy_manager[proxy]
        outer = tls_context()  # a proxy is not shown our certificate
        if self._authorities is not None:
            outer.load_verify_locations(self._authorities)
        manager = super().proxy_manager_for(
            proxy, ssl_context=tls_context(self._revoked), proxy_ssl_context=outer, **options
        )
        manager.pool_classes_by_scheme = POOLS
        return manager


def _read(found: requests.Response, exchange: Exchange) -> Reply:
    """Read the body; the socket counts what comes, so that this ends."""
    raw = found.raw
    headers = {name.lower(): value for name, value in found.headers.items()}
    body = bytearray()
    try:
        while chunk := raw.read(_CHUNK, decode_content=False):
            body += chunk
    except BaseException:
        raw.close()
        raise
    raw.release_conn()
    inflated = _inflated(bytes(body), headers.get("content-encoding", "identity"), exchange)
    return Reply(found.status_code, headers, inflated, exchange.seconds)


def _inflated(body: bytes, encoding: str, exchange: Exchange) -> bytes:
    encoding = encoding.strip().lower()
    if encoding in {"identity", ""} or not body:
        return body
    if encoding == "gzip":
        unpacker = zlib.decompressobj(wbits=31)
        try:
            found = unpacker.decompress(body, MAX_REPLY)
        except zlib.error:
            found = b""
        if unpacker.eof:
            return found
    raise Unexpected(f"{exchange.place}: unexpected answer, packed as it was not asked for")


def _authorities(ca_file: str) -> str:
    if ca_file != "system":
        return ca_file
    bundle = system_bundle()
    if bundle is None:
        raise ConfigurationError(
            "this system has no certificates of authorities",
            remedy="Install ca-certificates, or set platform.ca_file.",
        )
    return str(bundle)


def _login(proxy: Secret | None) -> tuple[str, ...]:
    """Return what a proxy is told of us, as its header has it, and the password alone."""
    parts = urlsplit(proxy.reveal() if proxy else "")
    if not parts.password:
        return ()
    user, password = unquote(parts.username or ""), unquote(parts.password)
    header = base64.b64encode(f"{user}:{password}".encode("latin-1", "replace")).decode()
    return header, password


def _proxy(platform: Platform, environ: Mapping[str, str]) -> Secret | None:
    """Return the proxy for the URL, if there is one. Raises ConfigurationError."""
    url = urlsplit(platform.url or "")
    proxy = platform.proxy
    if proxy is None and url.scheme == "https":
        named = environ.get("https_proxy") or environ.get("HTTPS_PROXY")
        proxy = Secret(named) if named else None
    without = platform.no_proxy
    if without is None:
        without = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    port = url.port or PORTS[url.scheme]
    if not proxy or _bypassed(url.hostname or "", port, without):
        return None
    try:
        return Secret(parse(proxy.reveal()))
    except ValueError as error:
        raise ConfigurationError(
            f"the proxy is {error}", remedy="Write platform.proxy as http://host:3128."
        ) from None


def _bypassed(host: str, port: int, without: str) -> bool:
    """Say whether a list as in NO_PROXY names the host: names, suffixes, networks, or `*`."""
    if proxy_bypass_environment(f"{host}:{port}", {"no": without}):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    for one in without.split(","):
        try:
            if address in ipaddress.ip_network(one.strip(), strict=False):
                return True
        except ValueError:
            continue  # a name
    return False
