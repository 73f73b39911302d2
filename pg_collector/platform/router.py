"""A small WSGI application: routes, bodies, problem documents. What it serves others know."""

import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, NamedTuple, Protocol, TypeVar
from urllib.parse import parse_qs

import msgspec

from pg_collector.platform.problems import CONTENT_TYPE, Problem, bad_request, of_status

log = logging.getLogger(__name__)

JSON: Final = "application/json"
SMALL: Final = 64 * 1024  # bytes: the largest body, but of samples
UNROUTED: Final = "other"

T = TypeVar("T")
Environ = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """One request. `parts` are what stood in the braces of its route's path."""

    method: str
    path: str
    query: Mapping[str, str]
    parts: Mapping[str, str]
    environ: Environ

    def header(self, name: str) -> str:
        """Return a header; empty where it is missing."""
        value: str = self.environ.get(f"HTTP_{name.upper().replace('-', '_')}", "")
        return value

    @property
    def bearer(self) -> str:
        """The token of the Authorization header; empty where there is none."""
        scheme, _, token = self.header("Authorization").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else ""

    def body(self, limit: int = SMALL) -> bytes:
        """Return the body as it came. Raises Problem where it is longer."""
        length = int(self.environ.get("CONTENT_LENGTH") or 0)
        if length > limit:
            raise Problem(413, "too-large", f"at most {limit} bytes")
        content: bytes = self.environ["wsgi.input"].read(length)
        return content

    def json(self, kind: type[T]) -> T:
        """Return the body as an object of `kind`. Raises Problem."""
        try:
            return msgspec.json.decode(self.body(), type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise bad_request(str(error)) from None


@dataclass(frozen=True)
class Response:
    """One answer."""

    status: int = 200
    body: bytes = b""
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


def json(document: object, headers: Mapping[str, str] | None = None) -> Response:
    """Return a document as an answer."""
    return Response(body=msgspec.json.encode(document), headers=headers or {})


Handler = Callable[[Request], Response]


class HangUp(Exception):
    """Close the connection without an answer; the server has to see to it."""


class Route(NamedTuple):
    """What answers one method of one path; `{name}` in it stands for a part without a slash."""

    method: str
    path: str
    handler: Handler


class Observer(Protocol):
    """Whoever wants to know of every answer."""

    def __call__(self, route: str, status: int, seconds: float, received: int) -> None:
        """Take the route, the status, how long it took, and the bytes of the request's body."""


class Router:
    """The WSGI application. `around` may do something before and after a handler."""

    def __init__(
        self,
        routes: Iterable[Route],
        *,
        observer: Observer,
        around: Callable[[Request, Handler], Response],
    ) -> None:
        self._routes: list[tuple[re.Pattern[str], Route]] = [
            (re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(route.path))), route)
            for route in routes
        ]
        self._observe = observer
        self._around = around

    def __call__(
        self, environ: Environ, start_response: Callable[[str, list[tuple[str, str]]], object]
    ) -> Iterable[bytes]:
        """Answer a request. Raises HangUp where a handler does."""
        started = time.perf_counter()
        name, response = self._answer(environ)
        received = int(environ.get("CONTENT_LENGTH") or 0)
        self._observe(name, response.status, time.perf_counter() - started, received)
        headers = {
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            **response.headers,
        }
        if response.status != HTTPStatus.NO_CONTENT:
            headers["Content-Type"] = response.content_type
            headers["Content-Length"] = str(len(response.body))
        phrase = HTTPStatus(response.status).phrase
        start_response(f"{response.status} {phrase}", list(headers.items()))
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [response.body]

    def _answer(self, environ: Environ) -> tuple[str, Response]:
        name = UNROUTED
        try:
            route, parts = self._find(environ["REQUEST_METHOD"], environ.get("PATH_INFO", ""))
            name = f"{route.method} {route.path}"
            request = Request(
                environ["REQUEST_METHOD"],
                environ["PATH_INFO"],
                _query(environ.get("QUERY_STRING", "")),
                parts,
                environ,
            )
            return name, self._around(request, route.handler)
        except Problem as problem:
            return name, _problem(problem)
        except HangUp:
            raise
        except Exception:
            log.exception("a request failed: %s", name)
            return name, _problem(of_status(500))

    def _find(self, method: str, path: str) -> tuple[Route, Mapping[str, str]]:
        allowed = []
        for pattern, route in self._routes:
            found = pattern.fullmatch(path)
            if found is None:
                continue
            if route.method == method or (method == "HEAD" and route.method == "GET"):
                return route, found.groupdict()
            allowed.append(route.method)
        if allowed:
            raise Problem(405, "method-not-allowed", headers={"Allow": ", ".join(sorted(allowed))})
        raise of_status(404)


def _problem(problem: Problem) -> Response:
    return Response(problem.status, problem.body(), CONTENT_TYPE, problem.headers)


def _query(text: str) -> dict[str, str]:
    try:
        found = parse_qs(text, keep_blank_values=True, max_num_fields=20, errors="strict")
    except ValueError:
        raise bad_request("the query cannot be read") from None
    if any(len(values) > 1 for values in found.values()):
        raise bad_request("a parameter of the query stands there twice")
    return {name: values[0] for name, values in found.items()}
