"""From the text of one scalar to the value its key wants."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from pg_collector.config import units
from pg_collector.config.files import expanded
from pg_collector.config.problems import did_you_mean
from pg_collector.config.schema import Kind, Shape
from pg_collector.errors import ConfigurationError
from pg_collector.secret import Secret

_YES: Final = frozenset(("true", "yes", "on"))
_NO: Final = frozenset(("false", "no", "off"))
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,18}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f\x80-\x9f\ud800-\udfff]")


def convert(shape: Shape, text: str | None) -> Any:
    """Return the value that the text stands for under a key of this shape.

    Raises `ConfigurationError` with message and remedy. They repeat nothing of the text: it may be
    a secret under the wrong key.
    """
    if text is None:
        raise ConfigurationError("has no value", remedy="give it one, or remove the line")
    if _CONTROL.search(text):
        raise ConfigurationError("holds a control character or a line break", remedy="remove it")
    if shape.off and text.lower() == "off":
        return None
    try:
        return _READERS[shape.kind](shape, text)
    except ValueError as error:
        message, _, remedy = str(error).partition("; ")
        raise ConfigurationError(message, remedy=remedy) from None


def bound_text(kind: Kind, bound: float) -> str:
    """Return a bound the way a file would write it."""
    if kind is Kind.DURATION:
        return units.duration_text(bound)
    if kind is Kind.SIZE:
        return units.size_text(int(bound))
    if kind is Kind.PERCENT:
        return units.percent_text(bound)
    return str(int(bound))


def _switch(_shape: Shape, text: str) -> bool:
    word = text.lower()
    if word not in _YES | _NO:
        raise ValueError("neither true nor false; write true or false")
    return word in _YES


def _integer(shape: Shape, text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise ValueError("not a whole number; write digits only")
    return int(_bounded(shape, int(text)))


def _duration(shape: Shape, text: str) -> float:
    return _bounded(shape, units.duration(text))


def _size(shape: Shape, text: str) -> int:
    return int(_bounded(shape, units.size(text)))


def _percent(shape: Shape, text: str) -> float:
    return _bounded(shape, units.percent(text))


def _choice(shape: Shape, text: str) -> str:
    if text.lower() in shape.choices:  # LOG_LEVEL=INFO is common
        return text.lower()
    hint = did_you_mean(text, shape.choices)
    raise ValueError(f"not one of the choices{hint}; choose {' or '.join(shape.choices)}")


def _text(shape: Shape, text: str) -> str:
    if shape.longest is not None and len(text.encode()) > shape.longest:
        raise ValueError(f"longer than {shape.longest} bytes; shorten it")
    return str(expanded(text)) if shape.place and text else text


def _path(_shape: Shape, text: str) -> Path:
    if not text:
        raise ValueError("an empty path; name a place")
    return expanded(text)


def _secret(_shape: Shape, text: str) -> Secret:
    return Secret(text)


def _bounded(shape: Shape, number: float) -> float:
    if shape.least is not None and number < shape.least:
        least = bound_text(shape.kind, shape.least)
        raise ValueError(f"too small; write at least {least}")
    if shape.most is not None and number > shape.most:
        most = bound_text(shape.kind, shape.most)
        raise ValueError(f"too large; write at most {most}")
    return number


_READERS: Final[dict[Kind, Callable[[Shape, str], Any]]] = {
    Kind.SWITCH: _switch,
    Kind.INTEGER: _integer,
    Kind.DURATION: _duration,
    Kind.SIZE: _size,
    Kind.PERCENT: _percent,
    Kind.CHOICE: _choice,
    Kind.TEXT: _text,
    Kind.PATH: _path,
    Kind.SECRET: _secret,
}
