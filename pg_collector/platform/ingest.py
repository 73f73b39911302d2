"""A batch as it came, read: headers, inflated body, lines. Pure.

docs/specs/delivery.md says how a batch travels, docs/specs/samples.md what a line holds.
"""

import datetime as dt
import re
import sys
import zlib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from pg_collector.platform.plans import Ingest
from pg_collector.platform.problems import Problem, bad_request
from pg_collector.platform.store import Batch, Gap, Line, Rejected

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_KEY: Final = re.compile(
    r"(?P<stream>[A-Za-z0-9_.:-]{1,100})/(?P<first>[1-9][0-9]{0,17})-(?P<last>[1-9][0-9]{0,17})"
)
_LIFE: Final = re.compile(r"(?P<age>[1-9][0-9]{0,17})/(?P<life>[A-Za-z0-9_.:-]{1,100})")
_WINDOW: Final = 23  # as a power of two, bytes: what an inflating frame may make us keep
_GAP: Final = b'{"gap":'
_LONGEST_DETAIL: Final = 200
_VERSION: Final = 1


class _GapSpan(msgspec.Struct, frozen=True):
    first: int = msgspec.field(name="from")
    last: int = msgspec.field(name="to")
    reason: str


class _GapLine(msgspec.Struct, frozen=True):
    gap: _GapSpan


class _Sample(msgspec.Struct, frozen=True):
    """The members that a line must have, and those that are columns of ours."""

    v: int
    set: str
    schema: int
    target: str
    at: str
    every_s: float
    took_ms: float
    c: list[str]
    r: list[list[Any]]
    database: str | None = None
    delta: bool = False
    base: str | None = None


class _BadMoment(ValueError):
    """A text that is no moment."""


class _BadLine(Exception):
    """A line that is not taken, and why in a word."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class Envelope(NamedTuple):
    """What the headers of a batch say."""

    stream: str
    first: int
    last: int
    age: int
    life: str


def envelope(key: str, life: str) -> Envelope:
    """Read the headers Idempotency-Key and Pgc-Life. Raises Problem."""
    keyed = _KEY.fullmatch(key)
    if keyed is None or int(keyed["first"]) > int(keyed["last"]):
        raise bad_request("Idempotency-Key is not {stream}/{first}-{last}")
    lived = _LIFE.fullmatch(life)
    if lived is None:
        raise bad_request("Pgc-Life is not {start count}/{UUID}")
    return Envelope(
        keyed["stream"], int(keyed["first"]), int(keyed["last"]), int(lived["age"]), lived["life"]
    )


def inflated(body: bytes, encoding: str, limits: Ingest) -> bytes:
    """Return a body without its compression; never more than a batch may have. Raises Problem."""
    encoding = encoding.strip().lower() or "identity"
    if encoding not in limits.encodings:
        accepted = ", ".join(limits.encodings)
        raise Problem(
            415,
            "unsupported-encoding",
            f"{accepted} are taken",
            headers={"Accept-Encoding": accepted},
        )
    if encoding == "identity":
        content, whole = body, True
    elif encoding == "zstd":
        content, whole = _unpacked_zstd(body, limits.max_batch_bytes)
    else:
        content, whole = _unpacked_gzip(body, limits.max_batch_bytes)
    if len(content) > limits.max_batch_bytes:
        raise Problem(413, "too-large", f"at most {limits.max_batch_bytes} bytes when inflated")
    if not whole:
        raise bad_request(f"the body is not one whole piece of {encoding}")
    return content


def read(told: Envelope, device: str, content: bytes, limits: Ingest) -> Batch:
    """Return the batch of an inflated body; what no line can be is rejected. Raises Problem."""
    number = told.first
    lines: list[Line] = []
    gaps: list[Gap] = []
    rejected: list[Rejected] = []
    for text in content.removesuffix(b"\n").split(b"\n") if content else ():
        if number > told.last:
            raise bad_request(f"more lines than numbers: {told.last} is the last one")
        if text.startswith(_GAP):
            gaps.append(_gap(text, number, told.last))
            number = gaps[-1].last + 1
            continue
        found = _line(number, text, limits.max_line_bytes)
        (lines if isinstance(found, Line) else rejected).append(found)  # type: ignore[arg-type]
        number += 1
    if number != told.last + 1:
        raise bad_request(f"it ends with {number - 1}, not with {told.last}")
    return Batch(
        stream=told.stream,
        device=device,
        age=told.age,
        life=told.life,
        first=told.first,
        last=told.last,
        lines=lines,
        gaps=gaps,
        rejected=rejected,
    )


def moment(text: str) -> dt.datetime:
    """Read an RFC 3339 moment as UTC without a zone. Raises ValueError."""
    bad = _BadMoment(f"not a moment of RFC 3339: {text[:40]!r}")
    try:
        found = dt.datetime.fromisoformat(text)
        plain = found.astimezone(dt.UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        raise bad from None
    if found.tzinfo is None:
        raise bad
    return plain


def _line(number: int, text: bytes, longest: int) -> Line | Rejected:
    if len(text) > longest:
        return Rejected(number, "too-long", f"{len(text)} bytes, at most {longest}")
    try:
        return _sample(number, text.decode())
    except _BadLine as bad:
        return Rejected(number, bad.code, str(bad))
    except (msgspec.ValidationError, _BadMoment) as error:
        return Rejected(number, "invalid-line", _short(str(error)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Rejected(number, "invalid-json", _short(str(error)))


def _sample(number: int, text: str) -> Line:
    found = msgspec.json.decode(text, type=_Sample)
    if found.v != _VERSION:
        raise _BadLine("unknown-version", f"v is {found.v}")
    if any(len(row) != len(found.c) for row in found.r):
        raise _BadLine("invalid-line", "a row has not as many values as columns")
    if found.delta and found.base is None:
        raise _BadLine("invalid-line", "a delta without a base")
    base = moment(found.base) if found.delta and found.base is not None else None
    return Line(number, found.set, found.target, found.database, moment(found.at), base, text)


def _gap(text: bytes, number: int, last: int) -> Gap:
    try:
        span = msgspec.json.decode(text, type=_GapLine).gap
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise bad_request(f"the gap in the place of {number} cannot be read") from None
    if span.first != number or not number <= span.last <= last:
        raise bad_request(f"a gap from {span.first} to {span.last} in the place of {number}")
    return Gap(span.first, span.last, span.reason)


def _unpacked_zstd(body: bytes, most: int) -> tuple[bytes, bool]:
    options: Mapping[int, int] = {zstd.DecompressionParameter.window_log_max: _WINDOW}
    unpacker = zstd.ZstdDecompressor(options=dict(options))
    try:
        content = unpacker.decompress(body, max_length=most + 1)
    except zstd.ZstdError:
        return b"", False
    return content, unpacker.eof and not unpacker.unused_data


def _unpacked_gzip(body: bytes, most: int) -> tuple[bytes, bool]:
    unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        content = unpacker.decompress(body, most + 1)
    except zlib.error:
        return b"", False
    return content, unpacker.eof and not unpacker.unused_data


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_DETAIL else f"{text[:_LONGEST_DETAIL]}…"
