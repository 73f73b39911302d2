"""PostgreSQL's text format to values that are ready for JSON.

int for integers and oids, float, bool, str, list, None, and what JSON itself gives; nothing else
leaves this room. Text never fails: a session in another encoding can put any bytes into
pg_stat_activity. NaN and infinities, which JSON has not, are None.
https://www.postgresql.org/docs/current/datatype.html
"""

import math
from datetime import timedelta

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap, Loader
from psycopg.types.datetime import IntervalLoader

_REPLACEMENT = "\ufffd"
_NO_FRACTION = 19  # the length of 2026-11-22 18:00:00


class Text(Loader):
    """Any type as its text; bytes that are not UTF-8 become U+FFFD, and NUL does, too."""

    def load(self, data: Buffer) -> str:
        """Never raises."""
        text = str(data, "utf-8", "replace")
        return text if "\0" not in text else text.replace("\0", _REPLACEMENT)


class Float(Loader):
    """float4 and float8."""

    def load(self, data: Buffer) -> float | None:
        """Return the number, or None where it is not finite."""
        number = float(data)
        return number if math.isfinite(number) else None


class Numeric(Loader):
    """numeric: whole ones exact, others as float."""

    def load(self, data: Buffer) -> int | float | None:
        """Return the number, or None for NaN and infinities."""
        text = bytes(data)
        whole, point, fraction = text.partition(b".")
        if not point or not fraction.strip(b"0"):
            try:
                return int(whole)
            except ValueError:
                return None  # NaN, Infinity
        return float(text)


class Timestamptz(Loader):
    """timestamptz as RFC 3339 in UTC with microseconds; the session's TimeZone is UTC."""

    def load(self, data: Buffer) -> str | None:
        """Return `2026-11-22T18:00:00.123456Z`, or None for infinities and years beyond 9999."""
        text = str(data, "ascii")
        if text[10:11] != " " or not text.endswith("+00"):
            return None
        return _rfc3339(text[:-3]) + "Z"


class Timestamp(Loader):
    """timestamp without time zone, in the same form but without the `Z`."""

    def load(self, data: Buffer) -> str | None:
        """Return `2026-11-22T18:00:00.123456`, or None for infinities and years beyond 9999."""
        text = str(data, "ascii")
        if text[10:11] != " " or text.endswith("BC"):
            return None
        return _rfc3339(text)


class Interval(IntervalLoader):
    """interval as seconds; a month counts 30 days."""

    def load(self, data: Buffer) -> float | None:  # type: ignore[override]
        """Return seconds, or None for infinities."""
        if bytes(data[-8:]) == b"infinity":
            return None
        span: timedelta = super().load(data)
        return span.total_seconds()


def _rfc3339(text: str) -> str:
    """Turn PostgreSQL's ISO form, which drops trailing zeros, into the fixed one."""
    fraction = ".000000" if len(text) == _NO_FRACTION else text[_NO_FRACTION:].ljust(7, "0")
    return f"{text[:10]}T{text[11:_NO_FRACTION]}{fraction}"


_OURS: dict[str, type[Loader]] = {
    "float4": Float,
    "float8": Float,
    "numeric": Numeric,
    "timestamptz": Timestamptz,
    "timestamp": Timestamp,
    "interval": Interval,
}
# psycopg's own loaders give int, bool and parsed JSON for these.
_THEIRS = frozenset({"int2", "int4", "int8", "oid", "bool", "json", "jsonb"})


def _adapters() -> AdaptersMap:
    adapters = AdaptersMap(psycopg.adapters)
    adapters.register_loader(0, Text)  # a type that psycopg does not know
    for info in psycopg.adapters.types:
        if info.name not in _THEIRS:
            adapters.register_loader(info.oid, _OURS.get(info.name, Text))
    return adapters


ADAPTERS = _adapters()
