"""The model's types as a tree of shapes: what a file may hold under each key."""

import enum
import functools
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import inspect

from pg_collector.config.model import Config
from pg_collector.secret import Secret


class Kind(enum.StrEnum):
    """What a value is, in the words of the reference."""

    SWITCH = "true or false"
    INTEGER = "number"
    DURATION = "duration"
    SIZE = "size"
    PERCENT = "percentage"
    TEXT = "text"
    PATH = "path"
    SECRET = "secret text"  # noqa: S105  # the kind's name
    CHOICE = "choice"
    SECTION = "section"
    LIST = "list"
    MAP = "keys and values"


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of value with its bounds; `of` is what a list or map holds."""

    kind: Kind
    optional: bool = False
    off: bool = False  # `off` means none
    conninfo: bool = False  # secret only as far as the connection string holds a secret
    url: bool = False  # what may be secret in it is not shown
    place: bool = False  # a text that may be a path
    least: float | None = None
    most: float | None = None
    longest: int | None = None
    choices: tuple[str, ...] = ()
    section: "SectionShape | None" = None
    of: "Shape | None" = None
    of_samplers: bool = False  # the list's items, or the map's keys, are names of samplers


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """One key of a section."""

    name: str
    shape: Shape
    description: str
    default: Any  # `msgspec.NODEFAULT`: there is none


class SectionShape(msgspec.Struct, frozen=True, kw_only=True):
    """A section's keys. `beside` is the field whose own keys stand beside the others."""

    title: str
    keys: Mapping[str, Key]
    beside: Key | None = None

    @property
    def twins(self) -> Mapping[str, str]:
        """Names `x_file` of files that may hold the secret `x`, each with the `x` it is for."""
        secrets = (key.name for key in self.keys.values() if key.shape.kind is Kind.SECRET)
        return {f"{name}_file": name for name in secrets}


class Documented(NamedTuple):
    """A key as the reference lists it; `key` is None for the head of a section."""

    path: str
    section: SectionShape
    key: Key | None


@functools.cache
def config_shape() -> SectionShape:
    """Return the shape of a whole configuration."""
    described = inspect.type_info(Config)
    if not isinstance(described, inspect.StructType):
        raise TypeError("the configuration must be a Struct")
    return _section(described)


def documented(section: SectionShape, path: str = "") -> Iterator[Documented]:
    """Yield the head of a section, its keys, then the sections in it."""
    yield Documented(path, section, None)
    inner: list[tuple[str, SectionShape]] = []
    for key in section.keys.values():
        below = f"{path}.{key.name}" if path else key.name
        nested, suffix = key.shape, ""
        if nested.kind is Kind.LIST and nested.of is not None:
            nested, suffix = nested.of, "[]"
        if nested.section is not None:
            inner.append((below + suffix, nested.section))
        if key.shape.section is None:
            yield Documented(below, section, key)
    if section.beside is not None:
        yield Documented(f"{path}.<sampler>", section, section.beside)
    for below, nested_section in inner:
        yield from documented(nested_section, below)


def _section(described: inspect.StructType, instance: object = None) -> SectionShape:
    """Read a section's fields; the defaults are those of `instance`, where one is given."""
    keys: dict[str, Key] = {}
    beside: Key | None = None
    for field in described.fields:
        plain, description, extra = _unwrapped(field.type)
        default = field.default
        if field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        if instance is not None:
            default = getattr(instance, field.name)
        key = Key(
            name=field.name,
            shape=_shape(plain, extra, default),
            description=description,
            default=default,
        )
        if extra.get("beside"):
            beside = key
        else:
            keys[field.name] = key
    title = (described.cls.__doc__ or "").strip().splitlines()[0]
    return SectionShape(title=title, keys=types.MappingProxyType(keys), beside=beside)


def _unwrapped(described: inspect.Type) -> tuple[inspect.Type, str, Mapping[str, Any]]:
    """Split a type from its description and our own marks."""
    if not isinstance(described, inspect.Metadata):
        return described, "", {}
    description = (described.extra_json_schema or {}).get("description", "")
    return described.type, description, described.extra or {}


def _shape(described: inspect.Type, extra: Mapping[str, Any], default: object = None) -> Shape:
    if isinstance(described, inspect.Metadata):
        return _shape(described.type, {**extra, **(described.extra or {})}, default)
    if isinstance(described, inspect.UnionType):
        inner = [one for one in described.types if not isinstance(one, inspect.NoneType)]
        if len(inner) != 1:
            raise TypeError("only `X | None` can be read from a file")
        shape = _shape(inner[0], extra)
        return msgspec.structs.replace(shape, optional=True, off=bool(extra.get("off")))
    if isinstance(described, inspect.IntType | inspect.FloatType):
        kind = _UNITS[extra.get("unit", "")]
        return Shape(kind=kind, least=described.ge, most=described.le)
    if isinstance(described, inspect.StructType):
        instance = default if isinstance(default, described.cls) else None
        return Shape(kind=Kind.SECTION, section=_section(described, instance))
    if isinstance(described, inspect.VarTupleType | inspect.DictType):
        return _collection(described, of_samplers=extra.get("of") == "samplers")
    shape = _scalar(described)
    marks = {mark: bool(extra.get(mark)) for mark in ("conninfo", "url", "place")}
    return msgspec.structs.replace(shape, **marks)


def _collection(described: inspect.VarTupleType | inspect.DictType, *, of_samplers: bool) -> Shape:
    if isinstance(described, inspect.DictType):
        kind, inner = Kind.MAP, described.value_type
    else:
        kind, inner = Kind.LIST, described.item_type
    return Shape(kind=kind, of=_shape(inner, {}), of_samplers=of_samplers)


def _scalar(described: inspect.Type) -> Shape:
    if isinstance(described, inspect.BoolType):
        return Shape(kind=Kind.SWITCH)
    if isinstance(described, inspect.StrType):
        return Shape(kind=Kind.TEXT, longest=described.max_length)
    if isinstance(described, inspect.EnumType):
        return Shape(kind=Kind.CHOICE, choices=tuple(one.value for one in described.cls))
    if isinstance(described, inspect.LiteralType):
        return Shape(kind=Kind.CHOICE, choices=tuple(str(one) for one in described.values))
    if isinstance(described, inspect.CustomType) and described.cls is Secret:
        return Shape(kind=Kind.SECRET)
    if isinstance(described, inspect.CustomType) and described.cls is Path:
        return Shape(kind=Kind.PATH)
    raise TypeError(f"the configuration cannot hold {described}")


_UNITS: Final = {
    "": Kind.INTEGER,
    "duration": Kind.DURATION,
    "size": Kind.SIZE,
    "percent": Kind.PERCENT,
}
