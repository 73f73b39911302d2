"""Durations, sizes and percentages: from the text of a file to numbers, and back.

Every reader raises `ValueError` with a sentence that says how to write it; the text itself is not
in it, because it may be a secret in the wrong place.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_SECONDS: Final[Mapping[str, float]] = MappingProxyType(
    {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
)
_BYTES: Final[Mapping[str, int]] = MappingProxyType(  # PostgreSQL's: powers of 1024
    {"B": 1, "kB": 1024, "MB": 1024**2, "GB": 1024**3, "TB": 1024**4}
)
_AMOUNT: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,25})?) ?([A-Za-z%]{0,12})")

_DURATION_FORM = "write a number and a unit: 500ms, 10s, 5m, 1h or 1d"
_SIZE_FORM = "write a number and a unit: 64kB, 4MB or 1GB (1 MB is 1024 kB, as in PostgreSQL)"
_PERCENT_FORM = "write a number and a percent sign: 10%"


def duration(text: str) -> float:
    """Return seconds for `500ms`, `10s`, `5m`, `1h`, `1d` or `0`."""
    number, unit = _amount(text, "a duration", _DURATION_FORM)
    if not unit and number == 0:
        return 0.0
    if unit == "ms":
        return number / 1000  # exact where a product with 0.001 is not
    factor = _factor(unit, _SECONDS, "duration", _DURATION_FORM)
    return number * factor


def size(text: str) -> int:
    """Return bytes for `64kB`, `4MB`, `1GB`, `1TB`, `512B` or `0`."""
    number, unit = _amount(text, "a size", _SIZE_FORM)
    if not unit and number == 0:
        return 0
    count = number * _factor(unit, _BYTES, "size", _SIZE_FORM)
    if count != int(count):
        raise ValueError(f"not a whole number of bytes; {_SIZE_FORM}")
    return int(count)


def percent(text: str) -> float:
    """Return a fraction for `10%` or `0`: 10 % is 0.1."""
    number, unit = _amount(text, "a percentage", _PERCENT_FORM)
    if unit != "%" and number != 0:
        raise ValueError(f"a percentage needs its sign; {_PERCENT_FORM}")
    return number / 100


def duration_text(seconds: float) -> str:
    """Return the shortest text that `duration` reads back as the same number."""
    for unit in ("d", "h", "m"):
        count = seconds / _SECONDS[unit]
        if count >= 1 and count == int(count):
            return f"{int(count)}{unit}"
    if seconds == int(seconds):
        return f"{int(seconds)}s"
    milliseconds = round(seconds * 1000)
    if milliseconds / 1000 == seconds:
        return f"{milliseconds}ms"
    return f"{seconds:.25f}".rstrip("0").rstrip(".") + "s"


def size_text(count: int) -> str:
    """Return the shortest text that `size` reads back as the same number."""
    for unit in ("TB", "GB", "MB", "kB"):
        if count and count % _BYTES[unit] == 0:
            return f"{count // _BYTES[unit]}{unit}"
    return f"{count}B" if count else "0"


def percent_text(fraction: float) -> str:
    """Return the text that `percent` reads back as the same number."""
    short = f"{fraction * 100:.6f}".rstrip("0").rstrip(".")
    if float(short) / 100 == fraction:
        return f"{short}%"
    return f"{fraction * 100:.25f}".rstrip("0").rstrip(".") + "%"


def _amount(text: str, what: str, form: str) -> tuple[float, str]:
    match = _AMOUNT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not {what}; {form}")
    return float(match[1]), match[2]


def _factor(unit: str, units: Mapping[str, float], what: str, form: str) -> float:
    if not unit:
        raise ValueError(f"a {what} needs a unit; {form}")
    if unit in units:
        return units[unit]
    alike = [known for known in units if known.lower() == unit.lower()]
    if alike:
        raise ValueError(f"'{unit}' is not a unit - did you mean '{alike[0]}'? {form}")
    raise ValueError(f"not a unit of {what}; {form}")
