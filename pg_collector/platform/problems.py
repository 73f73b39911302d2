"""Problem documents: https://www.rfc-editor.org/rfc/rfc9457."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec

URN: Final = "urn:pg-collector:problem:"
CONTENT_TYPE: Final = "application/problem+json"

_BY_STATUS: Final[Mapping[int, str]] = {
    400: "bad-request",
    404: "not-found",
    405: "method-not-allowed",
    413: "too-large",
    415: "unsupported-encoding",
    429: "busy",
    500: "internal",
    503: "busy",
}


class Problem(Exception):
    """What a handler raises in the place of an answer."""

    def __init__(
        self,
        status: int,
        name: str,
        detail: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(f"{status} {name}")
        self.status = status
        self.name = name
        self.headers = dict(headers or {})
        if status == HTTPStatus.UNAUTHORIZED:
            self.headers.setdefault("WWW-Authenticate", 'Bearer realm="pg-collector"')
        if name == "busy":
            self.headers.setdefault("Retry-After", "1")
        self._members = members
        self._detail = detail

    def body(self) -> bytes:
        """Return the document."""
        told = {"detail": self._detail} if self._detail else {}
        return msgspec.json.encode(
            {
                "type": f"{URN}{self.name}",
                "title": self.name.replace("-", " "),
                "status": self.status,
                **told,
                **self._members,
            }
        )


def bad_request(detail: str) -> Problem:
    """Return the problem of what is malformed."""
    return Problem(HTTPStatus.BAD_REQUEST, "bad-request", detail)


def of_status(status: int, detail: str = "") -> Problem:
    """Return the problem that belongs to a status alone."""
    nearest = "bad-request" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "internal"
    return Problem(status, _BY_STATUS.get(status, nearest), detail)
