"""What the platform's answers mean: a receipt, or an error by what the sender does next. Pure.

The table is that of docs/specs/delivery.md. Problem documents:
https://www.rfc-editor.org/rfc/rfc9457.
"""

import datetime as dt
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

import msgspec

from pg_collector.errors import (
    Busy,
    DeliveryError,
    Held,
    Refused,
    SequenceGap,
    StreamConflict,
    TooLarge,
    Unexpected,
    Unreachable,
)
from pg_collector.meet import meet
from pg_collector.outlets import Receipt
from pg_collector.pacing import LONGEST_RETRY_AFTER
from pg_collector.sample import Batch
from pg_collector.web import Reply

URN: Final = "urn:pg-collector:problem:"

_LONGEST_TEXT: Final = 300
_PAGES: Final = ("text/html", "application/xhtml")
_WRONG_ADDRESS: Final = "Is platform.url right? Something else answers there."
_STRANGER: Final = (
    "Something on the way answers in the platform's place, such as the login page of a network: "
    "log in there, or set platform.proxy. Else look at platform.url."
)
_ASK: Final = "The platform's log or its support can tell why."
_SERVER_ERROR: Final = 500
_BEYOND: Final = 600  # no status has a meaning from here on
_HELD: Final[Mapping[int, str]] = {
    HTTPStatus.UNAUTHORIZED: "Look at the activation: pgc device.",
    HTTPStatus.PAYMENT_REQUIRED: "The subscription does not cover this agent.",
    HTTPStatus.FORBIDDEN: "This device or its key may not deliver.",
    HTTPStatus.NOT_FOUND: _WRONG_ADDRESS,
    HTTPStatus.METHOD_NOT_ALLOWED: _WRONG_ADDRESS,
    HTTPStatus.GONE: _WRONG_ADDRESS,
    HTTPStatus.NOT_IMPLEMENTED: _WRONG_ADDRESS,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "It takes neither zstd nor gzip; is it too old?",
}
_REFUSED: Final = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)
_PASSING: Final = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY)


class Rejection(msgspec.Struct, frozen=True):
    """A line that the platform did not take, while it took its neighbours."""

    seq: int
    code: str = ""
    detail: str = ""


class Acknowledgement(msgspec.Struct, frozen=True):
    """What the platform says of a batch that it has committed."""

    stream: str
    first: int
    last: int
    ack_through: int
    rejected: tuple[Rejection, ...] = ()
    policy_etag: str = ""
    commands_pending: bool = False


class Problem(msgspec.Struct, frozen=True):
    """A problem document, as far as it is read here."""

    type: str = ""
    title: str = ""
    detail: str = ""
    expected: int | None = None

    @property
    def name(self) -> str:
        """The last part of the URN; empty for documents that are not the platform's."""
        return self.type.removeprefix(URN) if self.type.startswith(URN) else ""


meet(Acknowledgement, Problem)  # the sender reads these, and who talks to the key service


def judge(reply: Reply, batch: Batch, now: dt.datetime) -> Receipt:
    """Return what the platform has committed of a batch; raise a DeliveryError where nothing."""
    if HTTPStatus.OK <= reply.status < HTTPStatus.MULTIPLE_CHOICES:
        return _receipt(reply, batch)
    problem = _problem(reply)
    if reply.status == HTTPStatus.CONFLICT:
        if problem.name == "already-committed":
            return _receipt(reply, batch)
        raise _conflict(problem, _said(reply, problem))
    raise failed(reply, now)


def failed(reply: Reply, now: dt.datetime) -> DeliveryError:
    """Return what an answer means that is neither a success nor about numbers."""
    problem = _problem(reply)
    return _error(reply, problem, _said(reply, problem), retry_after(reply, now))


def retry_after(reply: Reply, now: dt.datetime) -> float | None:
    """Return the seconds that an answer asks for, an hour at most; None where it asks nothing.

    Both forms of https://www.rfc-editor.org/rfc/rfc9110#field.retry-after; a date counts from the
    answer's own date, else from `now`. What is neither, or past, asks for nothing.
    """
    text = reply.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), LONGEST_RETRY_AFTER)
    until = date(text)
    if until is None:
        return None
    seconds = (until - (date(reply.headers.get("date", "")) or now)).total_seconds()
    return min(seconds, LONGEST_RETRY_AFTER) if seconds >= 0 else None


def date(text: str) -> dt.datetime | None:
    """Read a date as HTTP writes it; None if it is none."""
    try:
        found = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=dt.UTC)


def short(text: str) -> str:
    """Make a text of the far side fit for a log line."""
    plain = "".join(char if char.isprintable() else " " for char in text)
    return plain if len(plain) <= _LONGEST_TEXT else f"{plain[:_LONGEST_TEXT]}…"


def _joined(reply: Reply, *parts: str) -> str:
    """Put parts of an answer into one line, without what the far side was told in confidence."""
    return short(reply.without_secrets(": ".join(filter(None, parts)))).strip()


def _said(reply: Reply, problem: Problem) -> str:
    return _joined(reply, f"{reply.status} {problem.title}", problem.detail)


def _error(reply: Reply, problem: Problem, said: str, asked: float | None) -> DeliveryError:
    status = reply.status
    busy = status == HTTPStatus.SERVICE_UNAVAILABLE and asked is not None
    if busy or status == HTTPStatus.TOO_MANY_REQUESTS:
        return Busy(said, retry_after=asked)
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return TooLarge(said)
    if status in _REFUSED:
        return Refused(said)
    if status in _PASSING or (_SERVER_ERROR <= status < _BEYOND and status not in _HELD):
        remedy = _STRANGER if status == HTTPStatus.NETWORK_AUTHENTICATION_REQUIRED else _ASK
        return Unreachable(said, remedy=remedy, retry_after=asked)
    if HTTPStatus.BAD_REQUEST <= status < _BEYOND:
        remedy = _HELD.get(status, _ASK)
        return Held(said, remedy=remedy, retry_after=asked, problem=problem.name, status=status)
    return stranger(reply) or Unexpected(
        f"unexpected answer: {said}", remedy=_WRONG_ADDRESS, retry_after=asked
    )


def stranger(reply: Reply) -> Unexpected | None:
    """Return what to say of a web page, or the way to one, in the platform's place."""
    try:
        place = urlsplit(reply.headers.get("location", "")).hostname
    except ValueError:
        place = None
    if HTTPStatus.MULTIPLE_CHOICES <= reply.status < HTTPStatus.BAD_REQUEST and place:
        said = f"{reply.status}, a redirect to {short(reply.without_secrets(place))}"
    elif reply.headers.get("content-type", "").lower().startswith(_PAGES):
        said = f"{reply.status} with a web page"
    else:
        return None
    return Unexpected(f"unexpected answer: {said}", remedy=_STRANGER)


def _conflict(problem: Problem, said: str) -> DeliveryError:
    if problem.name == "sequence-gap" and problem.expected is not None:
        return SequenceGap(said, expected=problem.expected)
    if problem.name == "stream-conflict":
        return StreamConflict(said)
    return Held(said, remedy=_ASK, problem=problem.name)


def _receipt(reply: Reply, batch: Batch) -> Receipt:
    """Return what an acknowledgement of this very batch says. Raises Unexpected."""
    try:
        found = msgspec.json.decode(reply.body, type=Acknowledgement)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise stranger(reply) or Unexpected(
            f"unexpected answer: {reply.status} without an acknowledgement", remedy=_WRONG_ADDRESS
        ) from None
    if (found.stream, found.first, found.last) != (batch.stream, batch.first, batch.last):
        raise Unexpected("unexpected answer: an acknowledgement of another batch", remedy=_ASK)
    sound = all(found.first <= one.seq <= found.ack_through for one in found.rejected)
    if not sound or not found.first <= found.ack_through <= found.last:
        raise Unexpected("unexpected answer: it acknowledges what was not sent", remedy=_ASK)
    return Receipt(
        found.ack_through,
        {one.seq: _joined(reply, one.code, one.detail) for one in found.rejected},
        policy_etag=found.policy_etag,
        commands_pending=found.commands_pending,
    )


def _problem(reply: Reply) -> Problem:
    """Return the problem document; an empty one where the answer is none."""
    try:
        return msgspec.json.decode(reply.body, type=Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Problem()
