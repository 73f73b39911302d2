"""The file that `pgc config init` writes: every key at its default, as a comment, explained.

Lines that begin with `##` are words; those that begin with a single `#` are keys, and stay valid
when the sign is taken away.
"""

import textwrap
from collections.abc import Iterator, Mapping
from typing import Final

from pg_collector.config.guide import FULL_HEAD
from pg_collector.config.reference import default_text, type_text
from pg_collector.config.render import scalar_text
from pg_collector.config.schema import Key, Kind, SectionShape, config_shape
from pg_collector.samplers._sampler import Sampler

_WIDTH: Final = 98
_ACTIVE: Final = {"name": "local", "conn_string": "postgresql:///postgres"}


def full(samplers: Mapping[str, Sampler]) -> str:
    """Return the text of the file; as it is, it describes one local database."""
    lines = [FULL_HEAD]
    section = config_shape()
    databases = section.keys["databases"]
    lines += _words(f"Required: {databases.description}", "")
    lines.append("databases:")
    if databases.shape.of is not None and databases.shape.of.section is not None:
        lines += _database(databases.shape.of.section)
    for key in section.keys.values():
        if key is not databases:
            lines += ["", *_commented(key, "", "", samplers)]
    return "\n".join(lines) + "\n"


def _database(section: SectionShape) -> Iterator[str]:
    margin = "    "
    for number, key in enumerate(section.keys.values()):
        if key.name in _ACTIVE:
            yield from _words(key.description, margin)
            yield f"{'  - ' if number == 0 else margin}{key.name}: {_ACTIVE[key.name]}"
        elif key.name == "postgres" and key.shape.section is not None:
            yield from _words(key.shape.section.title, margin)
            yield f"{margin}{key.name}:"
            inner = margin + "  "
            for below in key.shape.section.keys.values():
                if below.name in _ACTIVE:
                    yield from _words(below.description, inner)
                    yield f"{inner}{below.name}: {_ACTIVE[below.name]}"
                else:
                    yield from _commented(below, inner, "", {})
        else:
            yield from _commented(key, margin, "", {})


def _commented(
    key: Key, margin: str, indent: str, samplers: Mapping[str, Sampler]
) -> Iterator[str]:
    """Yield a key as a comment whose sign stands at `margin`; in a section, so are its keys."""
    section = key.shape.section
    if section is None:
        bounds = f" ({type_text(key.shape)})" if key.shape.kind not in _SELF_EVIDENT else ""
        yield from _words(key.description + bounds, margin, indent)
        yield f"{margin}#{indent}{key.name}: {default_text(key)}"
        return
    if not section.keys:
        return
    yield from _words(section.title, margin, indent)
    yield f"{margin}#{indent}{key.name}:"
    for below in section.keys.values():
        yield from _commented(below, margin, indent + "  ", samplers)
    if section.beside is not None and section.beside.shape.of is not None:
        yield from _words(section.beside.description, margin, indent + "  ")
        for name, sampler in samplers.items():
            every = scalar_text(section.beside.shape.of, sampler.every)
            yield f"{margin}#{indent}  {name}: {every}"


def _words(text: str, margin: str, indent: str = "") -> list[str]:
    lead = f"{margin}##{indent} "
    return textwrap.wrap(
        text, _WIDTH, initial_indent=lead, subsequent_indent=lead, break_on_hyphens=False
    )


_SELF_EVIDENT: Final = (Kind.TEXT, Kind.PATH, Kind.SECRET, Kind.SWITCH, Kind.LIST, Kind.MAP)
