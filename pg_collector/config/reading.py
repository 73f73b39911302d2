"""From the merged tree to plain values, finding every fault on the way."""

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import NODEFAULT

from pg_collector.config import rights, scalars
from pg_collector.config.document import Listing, Node, Scalar, Tree
from pg_collector.config.expand import expand
from pg_collector.config.files import Unreadable, is_place, read_secret
from pg_collector.config.problems import (
    DEFAULT,
    Origin,
    Problems,
    did_you_mean,
    joined,
    named,
)
from pg_collector.config.schema import (
    Key,
    Kind,
    SectionShape,
    Shape,
    config_shape,
    documented,
)
from pg_collector.errors import ConfigurationError
from pg_collector.secret import Secret

_EXPECTED: Final = {
    Kind.SECTION: ("must hold keys and values", "write its keys below it, indented"),
    Kind.MAP: ("must hold keys and values", "write `{key: value}`"),
    Kind.LIST: ("must be a list", "write `[first, second]`"),
}
_REFERENCE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)")
_ANY_NAME: Final = "no-name"  # stands in for a missing one, so that the rest can be checked


class Reading:
    """One walk along the shape of the configuration and the tree of what was given.

    Where a value is wrong its default stands in and its path goes to `bad`, so that the walk can
    go on and rules know what not to judge.
    """

    def __init__(
        self, samplers: Collection[str], environ: Mapping[str, str], problems: Problems
    ) -> None:
        self._samplers = sorted(samplers)
        self._environ = environ
        self._problems = problems
        self.origins: dict[str, Origin] = {}
        self.given: dict[str, Scalar] = {}  # secrets as they were written, by path
        self.bad: set[str] = set()
        self.used: set[str] = set()  # names of variables that a value refers to

    def config(self, tree: Tree) -> dict[str, Any]:
        """Return the values of a whole configuration, ready for `msgspec.convert`."""
        return self._section(config_shape(), tree, "")

    def fault(self, origin: Origin, path: str, message: str, remedy: str) -> None:
        """Note a problem, and that the value at `path` is not to be judged further."""
        self._problems.add(origin, path, message, remedy)
        self.bad.add(path)

    def sound(self, *paths: str) -> bool:
        """Say whether the values at these paths are what was asked for, not stand-ins."""
        return not any(
            path == bad or path.startswith((f"{bad}.", f"{bad}["))
            for path in paths
            for bad in self.bad
        )

    def place(self, path: str) -> Origin:
        """Return where the value came from, or the nearest part of the tree above it."""
        while path:
            if path in self.origins:
                return self.origins[path]
            cut = max(path.rfind("."), path.rfind("["))
            path = path[: max(cut, 0)]
        return DEFAULT

    def _section(self, shape: SectionShape, tree: Tree | None, path: str) -> dict[str, Any]:
        entries = tree.entries if tree is not None else {}
        if tree is not None and path:
            self.origins[path] = tree.origin
        values: dict[str, Any] = {}
        for name, key in shape.keys.items():
            entry = entries.get(name)
            node = entry.node if entry is not None else None
            values[name] = self._value(key.shape, node, joined(path, name), key.default)
        for twin, name in shape.twins.items():
            if twin in entries:
                self._twin(values, twin, name, entries[twin].node, path)
        if shape.beside is not None:
            values[shape.beside.name] = self._beside(shape.beside, entries, path)
        known = {*shape.keys, *shape.twins, *(self._samplers if shape.beside else ())}
        for name, entry in entries.items():
            if name not in known:
                self._unknown(name, entry.origin, path, known)
        return values

    def _value(self, shape: Shape, node: Node | None, path: str, default: Any) -> Any:
        empty = node is None or (isinstance(node, Scalar) and node.text is None)
        if shape.section is not None:
            tree = node if isinstance(node, Tree) else None
            if tree is None and not empty:
                self._misshapen(shape, node, path)
            return self._section(shape.section, tree, path)
        if node is None:
            return self._missing(path, default)
        self.origins[path] = node.origin
        if shape.kind is Kind.LIST:
            return self._list(shape, node, path, empty=empty)
        if shape.kind is Kind.MAP:
            return self._map(shape, node, path, empty=empty)
        return self._scalar(shape, node, path, default)

    def _missing(self, path: str, default: Any) -> Any:
        if default is not NODEFAULT:
            self.origins[path] = DEFAULT
            return default
        if path == "databases":
            return []
        if path.rpartition(".")[0] not in self.bad:
            self.fault(self.place(path), path, "missing", "give each database a name of its own")
        return _ANY_NAME

    def _list(self, shape: Shape, node: Node, path: str, *, empty: bool) -> list[Any]:
        if empty:
            return []
        if not isinstance(node, Listing) or shape.of is None:
            self._misshapen(shape, node, path)
            return []
        items: list[Any] = []
        for number, item in enumerate(node.items):
            below = f"{path}[{number}]"
            value = self._value(shape.of, item, below, "")
            self._sampler(value, item.origin, below, wanted=shape.of_samplers)
            items.append(value)
        return items

    def _map(self, shape: Shape, node: Node, path: str, *, empty: bool) -> dict[str, Any]:
        if empty:
            return {}
        if not isinstance(node, Tree) or shape.of is None:
            self._misshapen(shape, node, path)
            return {}
        values: dict[str, Any] = {}
        for name, entry in node.entries.items():
            below = joined(path, name)
            if self._sampler(name, entry.origin, below, wanted=shape.of_samplers):
                values[name] = self._value(shape.of, entry.node, below, None)
        return {name: value for name, value in values.items() if value is not None}

    def _beside(self, key: Key, entries: Mapping[str, Any], path: str) -> dict[str, Any]:
        """Read the keys of a field that has none of its own: `sampling.activity`."""
        if key.shape.of is None:
            raise TypeError("only a map can stand beside other keys")
        found: dict[str, Any] = {}
        for name in self._samplers:
            if name in entries:
                below = joined(path, name)
                value = self._value(key.shape.of, entries[name].node, below, None)
                if value is not None:
                    found[name] = value
        return found

    def _scalar(self, shape: Shape, node: Node, path: str, default: Any) -> Any:
        stand_in = _ANY_NAME if default is NODEFAULT else default
        if not isinstance(node, Scalar):
            self.fault(node.origin, path, f"must be one {shape.kind}", "write it behind the colon")
            return stand_in
        if node.template:
            self.used.update(_REFERENCE.findall(node.text or ""))
        try:
            full = expand(node, self._environ)
            if shape.optional and not full:
                return None
            if shape.kind is Kind.SECRET:
                self.given[path] = node
            return scalars.convert(shape, full)
        except ConfigurationError as error:
            self.fault(node.origin, path, str(error), error.remedy)
            return stand_in

    def _twin(self, values: dict[str, Any], twin: str, name: str, node: Node, path: str) -> None:
        """Read `x_file`, the file that holds the secret `x`."""
        below, plain = joined(path, twin), joined(path, name)
        if twin in values:  # a field of its own: whoever uses it reads the file
            file = values[twin]
        else:
            file = self._scalar(Shape(kind=Kind.PATH, optional=True), node, below, None)
        if file is None:
            return
        if self.origins.get(plain, DEFAULT) != DEFAULT and values[name] is not None:
            self.fault(node.origin, below, f"{named(name)} is set, too", "keep one of the two")
            return
        secret = self.secret_file(file, node.origin, below)
        if twin not in values and secret is not None:
            values[name] = secret
            self.origins[plain] = node.origin

    def secret_file(self, file: Path, origin: Origin, path: str) -> Secret | None:
        """Return the secret that the file holds, or note why not."""
        try:
            text = read_secret(file)
            value: Secret = scalars.convert(Shape(kind=Kind.SECRET), text)
        except Unreadable as error:
            self.refuse_file(error, origin, path)
            return None
        except ConfigurationError as error:
            self.fault(origin, path, str(error), error.remedy)
            return None
        return value

    def closed(self, file: Path, path: str) -> str:
        """Return what keeps the file that is named at `path` from everybody else."""
        source = _file(self.place(path))
        return rights.to_closed(file, source.parent if source is not None else None)

    def refuse_file(self, error: Unreadable, origin: Origin, path: str) -> None:
        """Note why the file that is named at `path` cannot be used."""
        if is_place(error.path):
            self.fault(origin, path, str(error), error.remedy_beside(_file(origin)))
        else:  # where a path should be, a secret may stand by mistake: name real places only
            self.fault(origin, path, f"the file {error.fault}", "write its path")

    def _sampler(self, name: object, origin: Origin, path: str, *, wanted: bool) -> bool:
        """Say whether the name may stand here."""
        if not wanted or not isinstance(name, str) or name in self._samplers or path in self.bad:
            return True
        hint = did_you_mean(name, self._samplers)
        remedy = f"the samplers are: {', '.join(self._samplers)}"
        self.fault(origin, path, f"no sampler of this name{hint}", remedy)
        return False

    def _misshapen(self, shape: Shape, node: Node | None, path: str) -> None:
        origin = node.origin if node is not None else DEFAULT
        self.fault(origin, path, *_EXPECTED[shape.kind])

    def _unknown(self, name: str, origin: Origin, path: str, known: Iterable[str]) -> None:
        hint = did_you_mean(name, known) or _elsewhere(name, path)
        remedy = f"the keys here are: {', '.join(sorted(known)) or 'none'}"
        if hint:
            remedy = "correct it, or remove it"
        self.fault(origin, joined(path, name), f"unknown key {named(name)}{hint}", remedy)


def _file(origin: Origin) -> Path | None:
    """Return the configuration file that a value is from; None where it is from none."""
    return Path(origin.source) if origin.line else None


def _elsewhere(name: str, here: str) -> str:
    """Say where a key of this name belongs."""
    for path, _, _ in documented(config_shape()):
        if path.rpartition(".")[2].removesuffix("[]") == name and path != here:
            return f" - did you mean '{path}'?"
    return ""


def converted(
    values: dict[str, Any], target: type[Any], reading: Reading, problems: Problems
) -> Any:
    """Return the values as `target`, or None where msgspec refuses what `Reading` let pass."""
    try:
        return msgspec.convert(values, target)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$.")
        path = path.rstrip("`")
        problems.add(reading.place(path), path, message, "look at the reference of this key")
        return None
