"""A configuration as text again: what `pgc config show` prints. No secret is in it."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pg_collector.config import conninfo, units
from pg_collector.config.expand import escape
from pg_collector.config.load import Loaded
from pg_collector.config.problems import DEFAULT, joined, one_line
from pg_collector.config.schema import Kind, SectionShape, Shape, config_shape
from pg_collector.secret import Secret

HIDDEN: Final = "(secret)"
_WRITTEN_PLAIN: Final = (Kind.INTEGER, Kind.DURATION, Kind.SIZE, Kind.PERCENT)
_PLAIN: Final = re.compile(r"[A-Za-z_./][A-Za-z0-9_./@%+-]*")
_WORDS: Final = frozenset(
    ("null", "true", "false", "yes", "no", "on", "off", "y", "n")  # YAML has its own ideas
)


def as_json(loaded: Loaded) -> dict[str, Any]:
    """Return the configuration as nested texts, numbers and lists, as a file would write them."""
    return _plain_section(config_shape(), loaded.config)


def as_yaml(loaded: Loaded, *, origins: bool = False) -> str:
    """Return the configuration as YAML that loads again, apart from the secrets.

    With `origins`, each line ends with the place where its value came from.
    """
    lines: list[str] = []
    for indent, path, text in _lines(config_shape(), loaded.config, "", ""):
        origin = loaded.origins.get(path, DEFAULT)
        note = f"  # {one_line(str(origin))}" if origins and path else ""
        lines.append(f"{indent}{text}{note}")
    return "\n".join(lines) + "\n"


def scalar_text(shape: Shape, value: Any) -> str:
    """Return one value as YAML writes it."""
    if shape.kind is Kind.LIST and shape.of is not None:
        return "[" + ", ".join(scalar_text(shape.of, item) for item in value) + "]"
    if shape.kind is Kind.MAP and shape.of is not None:
        pairs = (f"{_quoted(key)}: {scalar_text(shape.of, item)}" for key, item in value.items())
        return "{" + ", ".join(pairs) + "}"
    plain = _plain(shape, value)
    if plain is None or isinstance(plain, bool):
        return json.dumps(plain)
    if shape.kind in _WRITTEN_PLAIN or plain == HIDDEN:
        return str(plain)
    return _quoted(escape(plain))


def _plain_section(section: SectionShape, value: Any) -> dict[str, Any]:
    found = {key.name: _plain(key.shape, getattr(value, key.name)) for key in section.keys.values()}
    if section.beside is not None:
        found |= _plain(section.beside.shape, getattr(value, section.beside.name))
    return found


def _plain(shape: Shape, value: Any) -> Any:
    if value is None or shape.kind in (Kind.SWITCH, Kind.INTEGER):
        return "off" if value is None and shape.off else value
    if shape.section is not None:
        return _plain_section(shape.section, value)
    if shape.kind is Kind.LIST and shape.of is not None:
        return [_plain(shape.of, item) for item in value]
    if shape.kind is Kind.MAP and shape.of is not None:
        return {key: _plain(shape.of, item) for key, item in value.items()}
    if shape.kind in (Kind.DURATION, Kind.SIZE, Kind.PERCENT):
        return _measure(shape.kind, value)
    return _shown(shape, value)


def _lines(
    section: SectionShape, value: Any, path: str, indent: str
) -> Iterator[tuple[str, str, str]]:
    """Yield indentation, path and text of each line; a path only where a value stands."""
    for key in section.keys.values():
        below = joined(path, key.name)
        inner = getattr(value, key.name)
        if key.shape.section is not None:
            if not key.shape.section.keys:
                continue
            yield indent, "", f"{key.name}:"
            yield from _lines(key.shape.section, inner, below, indent + "  ")
        elif key.shape.of is not None and key.shape.of.section is not None:
            yield indent, "", f"{key.name}:"
            for number, item in enumerate(inner):
                yield from _item(key.shape.of.section, item, f"{below}[{number}]", indent + "  ")
        else:
            yield indent, below, f"{key.name}: {scalar_text(key.shape, inner)}"
    if section.beside is not None and section.beside.shape.of is not None:
        beside: Mapping[str, Any] = getattr(value, section.beside.name)
        for name, one in beside.items():
            yield indent, joined(path, name), f"{name}: {scalar_text(section.beside.shape.of, one)}"


def _item(
    section: SectionShape, value: Any, path: str, indent: str
) -> Iterator[tuple[str, str, str]]:
    for number, (inner, below, text) in enumerate(_lines(section, value, path, indent + "  ")):
        yield (f"{indent}- " if number == 0 else inner), below, text


def _measure(kind: Kind, value: float) -> str:
    if kind is Kind.DURATION:
        return units.duration_text(value)
    return units.size_text(int(value)) if kind is Kind.SIZE else units.percent_text(value)


def _shown(shape: Shape, value: Any) -> str:
    """Return the text; of a secret only a connection string, if all of it is harmless."""
    if isinstance(value, Secret):
        text = value.reveal()
        return text if shape.conninfo and conninfo.may_be_shown(text) else HIDDEN
    text = str(value)
    if shape.url:
        return _public(text)
    is_path = shape.place or shape.kind is Kind.PATH
    return f"./{text}" if is_path and text.startswith("~") else text  # no home directory


def _public(url: str) -> str:
    """Return a URL without what may be secret: user and password, query, fragment."""
    front, *hidden = re.split(r"[?#]", url, maxsplit=1)
    scheme, slashes, rest = front.rpartition("://")
    authority, slash, place = rest.partition("/")
    host = authority.rpartition("@")[2]
    query = f"?{HIDDEN}" if hidden else ""
    return f"{scheme}{slashes}{host}{slash}{place}{query}"


def _quoted(text: str) -> str:
    """Return the text as a YAML scalar that is read as this text everywhere."""
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(char if char.isprintable() else _escaped(char) for char in quoted)


def _escaped(char: str) -> str:
    code = ord(char)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004  # BMP
