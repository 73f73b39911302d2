"""What was given, layer upon layer: the file, its drop-ins, variables, flags.

Maps merge, everything else replaces. A secret and the file that holds it are two ways to say one
thing, so that either replaces the other when it comes from a higher layer.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from pg_collector.config import document, rights
from pg_collector.config.document import Entry, Listing, Node, Scalar, Tree
from pg_collector.config.files import (
    MAX_CONFIG_BYTES,
    Unreadable,
    drop_ins,
    read_text,
    readable_by_everyone,
)
from pg_collector.config.problems import Origin, Problems, joined
from pg_collector.config.schema import Kind, SectionShape, Shape, config_shape

_FLAG: Final = "--set"
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")
_STRUCTURED: Final = (Kind.LIST, Kind.MAP, Kind.SECTION)


class Layers:
    """The merged tree as it grows. `complete` turns false where a part could not be read."""

    def __init__(self, samplers: Iterable[str], problems: Problems) -> None:
        self._samplers = frozenset(samplers)
        self._problems = problems
        self.tree = Tree({}, Origin("default"))
        self.files: list[Path] = []
        self.warnings: list[str] = []
        self.complete = True

    def add_file(self, path: Path) -> None:
        """Add the file, then the files of `config.d` beside it."""
        self._add_one(path)
        try:
            found, passed_over = drop_ins(path)
        except Unreadable as error:
            self._problems.add(error.origin, "", error.fault, error.remedy_beside(path))
            self.complete = False
            return
        self.warnings += passed_over
        for drop_in in found:
            self._add_one(drop_in)

    def add_text(self, text: str, source: str) -> None:
        """Add a whole document, such as the variable PGC_CONFIG."""
        if len(text) > MAX_CONFIG_BYTES:
            limit = MAX_CONFIG_BYTES // 1024
            self._problems.add(Origin(source), "", f"larger than {limit} kB", "use a file")
            self.complete = False
            return
        tree = None
        if _SURROGATE.search(text):  # how a variable shows bytes that are not UTF-8
            self._problems.add(Origin(source), "", "is not UTF-8", "encode it as UTF-8")
        else:
            tree = document.parse(text, source, self._problems, template=True)
        if tree is None:
            self.complete = False
        else:
            self.tree = merge(self.tree, tree)

    def add_flags(self, overrides: Sequence[str]) -> None:
        """Add `key=value` pairs as `--set` takes them: `databases[0].postgres.query_timeout=3s`."""
        for override in overrides:
            name, equals, text = override.partition("=")
            parts = re.sub(r"\[([0-9]+)\]", r".\1", name.strip()).split(".")
            if not equals or not all(parts):
                self._problems.add(
                    Origin(_FLAG), "", "not `key=value`", "write --set sampling.activity=5s"
                )
                continue
            if text == "null":
                self.put(parts, Scalar(None, Origin(_FLAG)))
            else:
                self.put_text(parts, text, _FLAG)

    def put_text(self, parts: Sequence[str], text: str, source: str) -> None:
        """Set the key to the text; where a list or a section is wanted, to the YAML in it."""
        origin = Origin(source)
        shape = shape_at(parts, self._samplers)
        if shape is None or shape.kind not in _STRUCTURED:
            self.put(parts, Scalar(text, origin))
            return
        if _SURROGATE.search(text):
            self._problems.add(origin, "", "is not UTF-8", "encode it as UTF-8")
            return
        node = document.parse_value(text, source, self._problems)
        if node is not None:
            self.put(parts, node)

    def put(self, parts: Sequence[str], node: Node) -> None:
        """Set the key to the node. Digits stand for the place in a list."""
        origin = node.origin
        if not _place(self.tree, parts):
            path = ""
            for part in parts:
                path = f"{path}[{part}]" if _is_place(part) else joined(path, part)
            self._problems.add(
                Origin(origin.source), path, "the list has no such place", "count from 0"
            )
            return
        self.tree = merge(self.tree, _branch(self.tree, parts, node))

    def _add_one(self, path: Path) -> None:
        self.files.append(path)
        try:
            text = read_text(path, MAX_CONFIG_BYTES)
        except Unreadable as error:
            self._problems.add(error.origin, "", error.fault, error.remedy_beside(path))
            self.complete = False
            return
        self.add_text(text, str(path))


def merge(lower: Tree, upper: Tree) -> Tree:
    """Return both, the upper one on top."""
    replaced = {f"{name}_file" for name in upper.entries}
    replaced |= {name.removesuffix("_file") for name in upper.entries if name.endswith("_file")}
    entries = {name: entry for name, entry in lower.entries.items() if name not in replaced}
    for name, entry in upper.entries.items():
        below = entries.get(name)
        if below is not None and isinstance(below.node, Tree) and isinstance(entry.node, Tree):
            entry = Entry(entry.origin, merge(below.node, entry.node))  # noqa: PLW2901
        entries[name] = entry
    return Tree(entries, lower.origin if lower.entries else upper.origin)


def shape_at(parts: Sequence[str], samplers: frozenset[str]) -> Shape | None:
    """Return the shape of the value at a path, or None where there is no such key."""
    shape = Shape(kind=Kind.SECTION, section=config_shape())
    for part in parts:
        below = _below(shape, part, samplers)
        if below is None:
            return None
        shape = below
    return shape


def _below(shape: Shape, part: str, samplers: frozenset[str]) -> Shape | None:
    section: SectionShape | None = shape.section
    if section is None:
        fits = _is_place(part) if shape.kind is Kind.LIST else shape.kind is Kind.MAP
        return shape.of if fits else None
    if part in section.keys:
        return section.keys[part].shape
    if section.beside is not None and part in samplers:
        return section.beside.shape.of
    return None


def _is_place(part: str) -> bool:
    """Say whether this is the number of a place in a list; `²` is a digit, and no number."""
    return part.isascii() and part.isdigit()


def _place(node: Node | None, parts: Sequence[str]) -> bool:
    """Say whether every place in a list exists, or is the next one."""
    for part in parts:
        if isinstance(node, Listing) and _is_place(part):
            if int(part[:6]) > len(node.items):
                return False
            node = node.items[int(part)] if int(part) < len(node.items) else None
        elif isinstance(node, Tree) and part in node.entries:
            node = node.entries[part].node
        else:
            node = None
            if _is_place(part) and part != "0":
                return False
    return True


def _branch(tree: Tree, parts: Sequence[str], node: Node) -> Tree:
    """Return a tree with nothing but the path to the node, and whole lists on the way."""
    head, *rest = parts
    below = tree.entries[head].node if head in tree.entries else None
    grown = _grown(below, rest, node) if rest else node
    return Tree({head: Entry(node.origin, grown)}, node.origin)


def _grown(below: Node | None, rest: Sequence[str], node: Node) -> Node:
    if not _is_place(rest[0]):
        return _branch(below if isinstance(below, Tree) else Tree({}, node.origin), rest, node)
    items = list(below.items) if isinstance(below, Listing) else []
    number = int(rest[0])
    old = items[number] if number < len(items) else None
    new = _grown(old, rest[1:], node) if rest[1:] else node
    if isinstance(old, Tree) and isinstance(new, Tree):
        new = merge(old, new)
    items[number : number + 1] = [new]
    return Listing(tuple(items), below.origin if below is not None else node.origin)


def too_open(paths: Iterable[Path], secrets: Mapping[str, Origin]) -> list[str]:
    """Return a warning for each file that holds a secret and that everybody may read."""
    sources = {origin.source for origin in secrets.values()}
    warnings = []
    for path in paths:
        mode = readable_by_everyone(path) if str(path) in sources else None
        if mode is not None:
            warnings.append(
                f"{path} holds a secret and every user of this host may read it (mode {mode}): "
                f"{rights.to_closed(path, path.parent)}"
            )
    return warnings
