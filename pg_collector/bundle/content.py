"""Texts of a bundle, and how each kind of them is scrubbed: value by value where it has values.

Scrubbing a whole line of JSON could eat its quotes, so that what is structured is taken apart
first. What comes out is still of its kind.
"""

import contextlib
import enum
import json
import re
from collections.abc import Iterator
from typing import Any, Final

from pg_collector.privacy.scrub import LOG_LIMIT, scrub

_BLOCK: Final = LOG_LIMIT // 2  # code points scrubbed at once, in whole lines
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')
_YAML: Final = re.compile(r"(?P<key>[ ]*(?:- )?[\w.-]+: )(?P<value>.*?)(?P<note>  # .*)?")


class Kind(enum.Enum):
    """What a text is."""

    TEXT = "text"
    JSON = "json"
    LINES = "JSON lines"  # others may stand between them
    YAML = "yaml"  # as `pgc config show` writes it
    METRICS = "metrics"
    PAGE = "page"  # JSON where it can be read so, else text


def scrubbed(text: str, kind: Kind) -> str:
    """Return a text as the log would show it: without credentials, without a server's details."""
    if kind in {Kind.JSON, Kind.PAGE}:
        with contextlib.suppress(ValueError):  # then as any text
            return json.dumps(_inside(json.loads(text)), indent=2, ensure_ascii=False) + "\n"
    if kind is Kind.LINES:
        return "".join(_lines(text))
    if kind is Kind.YAML:
        return "".join(f"{_yaml(line)}\n" for line in text.splitlines())
    if kind is Kind.METRICS:
        return "".join(f"{_metric(line)}\n" for line in text.splitlines())
    return "".join(map(scrub, _blocks(text)))


def _inside(value: Any) -> Any:
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, dict):
        return {scrub(name): _inside(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_inside(one) for one in value]
    return value


def _lines(text: str) -> Iterator[str]:
    """Yield the lines; those that are no JSON go together, as a trace does."""
    others: list[str] = []
    for line in text.splitlines(keepends=True):
        try:
            found = json.loads(line) if line.startswith("{") else None
        except ValueError:
            found = None
        if found is None:
            others.append(line)
            continue
        yield from map(scrub, _blocks("".join(others)))
        others.clear()
        yield json.dumps(_inside(found), ensure_ascii=False, separators=(",", ":")) + "\n"
    yield from map(scrub, _blocks("".join(others)))


def _yaml(line: str) -> str:
    found = _YAML.fullmatch(line)
    if found is None:
        return scrub(line)
    return found["key"] + scrub(found["value"]) + scrub(found["note"] or "")


def _metric(line: str) -> str:
    if line.startswith("#"):
        return scrub(line)
    return _QUOTED.sub(lambda value: f'"{scrub(value[1])}"', line)


def _blocks(text: str) -> Iterator[str]:
    """Yield whole lines, as many together as are scrubbed at once."""
    block: list[str] = []
    length = 0
    for line in text.splitlines(keepends=True):
        if block and length + len(line) > _BLOCK:
            yield "".join(block)
            block, length = [], 0
        block.append(line)
        length += len(line)
    if block:
        yield "".join(block)
