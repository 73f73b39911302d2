"""YAML text as a tree of nodes that know their places.

The tree is built from the parser's events, not by recursion and without constructing anything, so
that neither depth nor aliases nor tags can hurt. Scalars stay texts: what `off` or `12` means is
decided by the key it stands under. https://yaml.org/spec/1.1/
"""

from collections.abc import Mapping
from typing import Final, NamedTuple, NoReturn

import msgspec
import yaml

from pg_collector.config.problems import Origin, Problems, joined, named

MAX_DEPTH: Final = 32
MAX_NODES: Final = 20_000  # aliases count as often as they are used

_LOADER: Final = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
_NULLS: Final = frozenset(("", "~", "null", "Null", "NULL"))


class Scalar(msgspec.Struct, frozen=True):
    """A text, or None for YAML's null. `template`: `${…}` in it is to be replaced."""

    text: str | None
    origin: Origin
    template: bool = False


class Listing(msgspec.Struct, frozen=True):
    """A list of nodes."""

    items: tuple["Node", ...]
    origin: Origin


class Entry(NamedTuple):
    """A key's place and its value."""

    origin: Origin
    node: "Node"


class Tree(msgspec.Struct, frozen=True):
    """A mapping of keys to nodes."""

    entries: Mapping[str, Entry]
    origin: Origin


Node = Scalar | Listing | Tree


class _Stop(Exception):
    """Nothing after this point can be read."""


class _Frame:
    """A collection under construction; `expanded` counts its nodes with aliases written out."""

    def __init__(self, origin: Origin, anchor: str | None, *, is_map: bool, path: str) -> None:
        self.origin = origin
        self.anchor = anchor
        self.is_map = is_map
        self.path = path
        self.key: tuple[str, Origin] | None = None
        self.entries: dict[str, Entry] = {}
        self.merged: list[Tree] = []
        self.items: list[Node] = []
        self.expanded = 1
        self.height = 1

    def child_path(self) -> str:
        """Return the dotted path of the value that comes next."""
        if not self.is_map:
            return f"{self.path}[{len(self.items)}]"
        return self.path if self.key is None else joined(self.path, self.key[0])


class _Known(NamedTuple):
    node: Node
    expanded: int
    height: int


def parse(text: str, source: str, problems: Problems, *, template: bool) -> Tree | None:
    """Return the document's tree, or None where it could not be read to its end.

    What is wrong goes to `problems`; a document that is empty is an empty tree.
    """
    root = parse_value(text, source, problems, template=template)
    if root is None or isinstance(root, Tree):
        return root
    if isinstance(root, Scalar) and root.text is None:
        return Tree({}, root.origin)
    problems.add(root.origin, "", "not a configuration", "write `key: value`, one key per line")
    return None


def parse_value(
    text: str, source: str, problems: Problems, *, template: bool = False
) -> Node | None:
    """Return the node that the whole text is, or None where it could not be read to its end."""
    builder = _Builder(source, problems, template=template)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.take(event)
    except _Stop:
        return None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line, mark.column) if mark else (0, 0)
        message, remedy = _explained(error.problem or "", text, line, column)
        problems.add(Origin(source, line + 1, column + 1), "", message, remedy)
        return None
    except yaml.reader.ReaderError as error:
        position = error.position if isinstance(error.position, int) else 0
        problems.add(
            place(text, position, source), "", "a control character", "remove it, or escape it"
        )
        return None
    return builder.root or Scalar(None, Origin(source, 1, 1))


def place(text: str, position: int, source: str) -> Origin:
    """Return the line and column of a position in the text."""
    before = text[:position]
    return Origin(source, before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1)


class _Builder:
    """Takes the parser's events one after the other."""

    def __init__(self, source: str, problems: Problems, *, template: bool) -> None:
        self._source = source
        self._problems = problems
        self._template = template
        self._frames: list[_Frame] = []
        self._anchors: dict[str, _Known | None] = {}  # None: not complete yet
        self.root: Node | None = None
        self._documents = 0
        self._nodes = 0

    def take(self, event: yaml.Event) -> None:
        """Add what the event says to the tree."""
        mark = event.start_mark
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (0, 0)
        origin = Origin(self._source, line, column)
        if isinstance(event, yaml.DocumentStartEvent):
            self._document(origin)
        elif isinstance(event, yaml.ScalarEvent):
            self._tag(event, origin)
            plain = not event.style
            text = None if plain and event.value in _NULLS else event.value
            scalar = Scalar(text, origin, template=self._template)
            self._value(_Known(scalar, 1, 0), origin, event.anchor, key_text=event.value)
        elif isinstance(event, yaml.AliasEvent):
            self._value(self._alias(event.anchor, origin), origin, None)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._open(event, origin)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._close()

    def _document(self, origin: Origin) -> None:
        self._documents += 1
        if self._documents > 1:
            self._stop(origin, "a second document", "remove the `---` and what follows it")

    def _tag(self, event: yaml.NodeEvent, origin: Origin) -> None:
        if getattr(event, "tag", None) is not None:
            self._stop(
                origin,
                "YAML tags are not supported",
                "put a text that begins with `!` into quotes",
            )

    def _alias(self, anchor: str | None, origin: Origin) -> _Known:
        remedy = "put a text that begins with `*` into quotes"
        if anchor is None or anchor not in self._anchors:
            self._stop(origin, "an alias without its anchor", remedy)
        known = self._anchors[anchor]
        if known is None:
            self._stop(origin, "an alias inside of what it stands for", remedy)
        return known

    def _open(self, event: yaml.CollectionStartEvent, origin: Origin) -> None:
        self._tag(event, origin)
        if self._frames and self._frames[-1].is_map and self._frames[-1].key is None:
            self._stop(origin, "a key must be a text", "write `key: value`")
        if len(self._frames) >= MAX_DEPTH:
            self._stop(origin, "nested too deeply", f"at most {MAX_DEPTH} levels")
        is_map = isinstance(event, yaml.MappingStartEvent)
        path = self._frames[-1].child_path() if self._frames else ""
        self._frames.append(_Frame(origin, event.anchor, is_map=is_map, path=path))
        if event.anchor is not None:
            self._anchors[event.anchor] = None

    def _close(self) -> None:
        frame = self._frames.pop()
        node: Node
        if frame.is_map:
            entries = dict(frame.entries)
            for merged in frame.merged:
                for key, entry in merged.entries.items():
                    entries.setdefault(key, entry)
            node = Tree(entries, frame.origin)
        else:
            node = Listing(tuple(frame.items), frame.origin)
        self._value(_Known(node, frame.expanded, frame.height), frame.origin, frame.anchor)

    def _value(
        self, known: _Known, origin: Origin, anchor: str | None, key_text: str | None = None
    ) -> None:
        if anchor is not None:
            self._anchors[anchor] = known
        if not self._frames:
            self.root = known.node
            return
        frame = self._frames[-1]
        if frame.is_map and frame.key is None:
            frame.key = (self._key(known.node, key_text, origin), origin)
            return
        self._weigh(frame, known, origin)
        if frame.key is None:
            frame.items.append(known.node)
            return
        self._entry(frame, known.node, *frame.key)
        frame.key = None

    def _key(self, node: Node, text: str | None, origin: Origin) -> str:
        if text is None and isinstance(node, Scalar):
            text = node.text
        if text is None:
            self._stop(origin, "a key must be a text", "write `key: value`")
        return text

    def _entry(self, frame: _Frame, node: Node, key: str, origin: Origin) -> None:
        if key == "<<":
            self._merge(frame, node, origin)
        elif key in frame.entries:
            first = frame.entries[key].origin
            self._problems.add(
                origin,
                frame.child_path(),
                f"{named(key)} for the second time, first in line {first.line}",
                "keep one of them",
            )
        else:
            frame.entries[key] = Entry(origin, node)

    def _merge(self, frame: _Frame, node: Node, origin: Origin) -> None:
        nodes = node.items if isinstance(node, Listing) else (node,)
        for one in nodes:
            if isinstance(one, Tree):
                frame.merged.append(one)
            else:
                self._problems.add(
                    origin, frame.path, "`<<` merges keys and values only", "write `<<: *anchor`"
                )

    def _weigh(self, frame: _Frame, known: _Known, origin: Origin) -> None:
        frame.expanded += known.expanded
        frame.height = max(frame.height, known.height + 1)
        self._nodes += 1
        if max(frame.expanded, self._nodes) > MAX_NODES:
            self._stop(origin, "too many values", f"at most {MAX_NODES}, aliases written out")
        if len(self._frames) + known.height > MAX_DEPTH:
            self._stop(origin, "nested too deeply", f"at most {MAX_DEPTH} levels")

    def _stop(self, origin: Origin, message: str, remedy: str) -> NoReturn:
        path = self._frames[-1].child_path() if self._frames else ""
        self._problems.add(origin, path, message, remedy)
        raise _Stop


_EXPLAINED: Final = (
    ("maximum nesting depth", "nested too deeply", f"at most {MAX_DEPTH} levels"),
    ("mapping values are not allowed", "a second `: ` in one value, or a wrong indentation",
     "put a text that holds `: ` into quotes"),
    ("end of stream", "a quote or bracket is never closed", "close it"),
    ("expected ',' or", "a bracket is never closed, or a comma is missing", "write `[a, b]`"),
    ("could not find expected ':'", "a key without `:`", "write `key: value`"),
    ("unknown escape", "an unknown escape in double quotes", "use single quotes for plain text"),
    ("directive", "a line that begins with `%`", "put a text that begins with `%` into quotes"),
    ("tag", "YAML tags are not supported", "put a text that begins with `!` into quotes"),
    ("duplicate anchor", "the same anchor twice", "give each its own name"),
    ("alphabetic or numeric character", "a `*` or `&` without a name",
     "put a text that begins with `*` or `&` into quotes"),
    ("expected key", "a wrong indentation, or a bracket too many",
     "give all keys of a section the same indentation"),
    ("document start", "something after the end of the document", "remove it"),
    ("indicator", "a wrong indentation", "give all keys of a section the same indentation"),
    ("block end", "a wrong indentation", "give all keys of a section the same indentation"),
    ("sequence entries are not allowed", "a list where none can be",
     "begin it in the line below its key"),
)  # fmt: skip


def _explained(problem: str, text: str, line: int, column: int) -> tuple[str, str]:
    """Say it in words of ours: the parser's repeat parts of the text, which may be secret."""
    lines = text.splitlines()
    if "cannot start any token" in problem:
        here = lines[line][column : column + 1] if line < len(lines) else ""
        if here == "\t":
            return "a tab where YAML takes spaces only", "indent with spaces"
        return "a character that YAML reserves", "put a text that begins with @, ` or % into quotes"
    for part, message, remedy in _EXPLAINED:
        if part in problem:
            return message, remedy
    return "not valid YAML", "look at the quotes and the indentation here and in the line above"
