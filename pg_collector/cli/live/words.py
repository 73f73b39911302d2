"""Figures for people: ages, sizes, counts. Pure; `-` is what is not known."""

from typing import Final

UNKNOWN: Final = "-"
_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400


def age(seconds: float | None) -> str:
    """Return seconds: `0.4s`, `45s`, `3m20s`, `2h05m`, `3d04h`."""
    if seconds is None:
        return UNKNOWN
    seconds = max(0.0, seconds)
    if seconds < 9.95:  # noqa: PLR2004  # of ten on without a tenth
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m{whole % _MINUTE:02d}s"
    if whole < _DAY:
        return f"{whole // _HOUR}h{whole % _HOUR // _MINUTE:02d}m"
    return f"{whole // _DAY}d{whole % _DAY // _HOUR:02d}h"


def size(count: float | None) -> str:
    """Return bytes: `812 B`, `34.5 kB`, `1.2 MB`."""
    if count is None:
        return UNKNOWN
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 999.5:  # noqa: PLR2004
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1_000
    return f"{count:.3g} TB"


def number(count: float | None) -> str:
    """Return a count or a rate: `0.2`, `17`, `12.3k`, `4M`."""
    if count is None:
        return UNKNOWN
    for unit in ("", "k", "M", "G"):
        if abs(count) < 999.5:  # noqa: PLR2004
            short = f"{count:.0f}" if float(count).is_integer() else f"{count:.3g}"
            return short + unit
        count /= 1_000
    return f"{count:.3g}T"


def ms(value: float | None) -> str:
    """Return milliseconds: `0.031`, `4.20`, `153`, `20154`."""
    if value is None:
        return UNKNOWN
    for limit, digits in ((1, 3), (10, 2), (100, 1)):
        if value < limit:
            return f"{value:.{digits}f}"
    return f"{value:.0f}"


def percent(ratio: float | None) -> str:
    """Return a part of a whole: `99.3%`."""
    return UNKNOWN if ratio is None else f"{ratio * 100:.1f}%"


def or_unknown(text: str | None) -> str:
    """Return a text, or the sign for none."""
    return text or UNKNOWN
