"""What an expression of a source can come to, as texts: names and calls are followed.

What a text varies in becomes `…`. This is no interpreter: of the assignments before a use those of
the narrowest block count that has any, whichever branch is taken.
"""

import ast
import functools
import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

HOLE: Final = "…"
_DEEPEST: Final = 8  # names that lead to names
_MOST: Final = 64  # texts that one place can come to
_AMOUNT: Final = re.compile(rf".|{HOLE} ?[A-Za-z%]{{1,5}}")  # with its unit, or a mere sign
_FORMAT: Final = re.compile(r"%[-\d.]*[sdrfgi]|\{[\w.!:]*\}")


class File(NamedTuple):
    """A file of the source."""

    name: str
    tree: ast.Module
    constants: Mapping[str, list[ast.expr]]  # what a name at the top is
    attributes: dict[str, list[ast.expr]]  # what is assigned to self.<name>, in any class


class Known(NamedTuple):
    """What all files have, by name."""

    functions: Mapping[str, list[tuple[File, ast.FunctionDef]]]
    attributes: Mapping[str, list[File]]  # where something is assigned to self.<name>
    constants: Mapping[str, list[File]]  # where it is a name at the top


class Texts:
    """What an expression can come to, as texts."""

    def __init__(
        self,
        known: Known,
        file: File,
        around: Iterable[ast.FunctionDef],
        depth: int = 0,
    ) -> None:
        self._known = known
        self._file = file
        self._around = tuple(around)
        self._depth = depth

    def of(self, node: ast.expr) -> list[str]:
        """Return the texts; a part that nothing is known of is a hole."""
        if self._depth > _DEEPEST:
            return [HOLE]
        self._depth += 1
        try:
            return list(dict.fromkeys(self._of(node)))[:_MOST]
        finally:
            self._depth -= 1

    def _of(self, node: ast.expr) -> list[str]:
        match node:
            case ast.Constant(value=value):
                return [] if value is None else [value if isinstance(value, str) else HOLE]
            case ast.JoinedStr(values=values):
                return self._joined([self._piece(one) for one in values])
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return self._joined([self.of(left) or [HOLE], self.of(right) or [HOLE]])
        if (parts := _parts(node)) is not None:
            return [text for one in parts for text in self.of(one)]
        found = [(texts, one) for texts, one in self._behind(node) if one is not node]
        return [text for texts, one in found for text in texts.of(one)] or [HOLE]

    def _piece(self, node: ast.expr) -> list[str]:
        """Return what stands in one place of an f-string."""
        if isinstance(node, ast.FormattedValue):
            short = isinstance(node.value, ast.Name | ast.IfExp | ast.Call)
            texts = self.of(node.value) if short else []
            return [HOLE if _AMOUNT.fullmatch(text) else text for text in texts] or [HOLE]
        return self.of(node)

    def _behind(self, node: ast.expr) -> Iterator[tuple["Texts", ast.expr]]:
        """Yield what a name, a call, or a place in something stands for, and where to read it."""
        match node:
            case ast.Name(id=name):
                yield from self._named(name, getattr(node, "lineno", 0))
            case ast.Attribute(value=ast.Name(id="self"), attr=name):
                yield from ((self, one) for one in self._file.attributes.get(name, ()))
            case ast.Attribute(value=ast.Subscript(), attr=name):
                for file in self._known.attributes.get(name, ()):
                    texts = Texts(self._known, file, (), self._depth)
                    yield from ((texts, one) for one in file.attributes[name])
            case ast.Call(func=ast.Attribute(value=ast.Name() as owner, attr="get")):
                yield from self._inside(owner, None)
                yield from ((self, one) for one in node.args[1:])
            case ast.Call(func=ast.Name() | ast.Attribute(value=ast.Name())):
                yield from self._returned(called(node))
            case ast.Subscript(value=value, slice=ast.Constant(value=int(place))):
                yield from self._inside(value, place)
            case ast.Subscript(value=value):
                yield from self._inside(value, None)
            case _:
                yield self, node

    def _inside(self, node: ast.expr, place: int | None) -> Iterator[tuple["Texts", ast.expr]]:
        """Yield what stands at a place, or at all of them, of what a node stands for."""
        if self._depth > _DEEPEST:
            return
        self._depth += 1
        for texts, one in list(self._behind(node)):
            if isinstance(one, ast.Dict):
                yield from ((texts, value) for value in one.values)
            elif isinstance(one, ast.Tuple | ast.List):
                elements = one.elts if place is None else one.elts[place : place + 1]
                yield from ((texts, value) for value in elements)
            elif one is not node:
                yield from texts._inside(one, place)
        self._depth -= 1

    def _returned(self, name: str) -> Iterator[tuple["Texts", ast.expr]]:
        known = self._known.functions.get(name, [])
        here = [one for one in known if one[0] is self._file] or (known if len(known) == 1 else [])
        for file, function in here:
            texts = Texts(self._known, file, (function,), self._depth)
            for node in ast.walk(function):
                if isinstance(node, ast.Return) and node.value is not None:
                    yield texts, node.value

    def _named(self, name: str, line: int) -> Iterator[tuple["Texts", ast.expr]]:
        """Yield what a name stands for in a line: of a function around it, or at the top."""
        for function in reversed(self._around):
            if values := _assigned(function, name, line):
                yield from ((self, one) for one in values)
                return
            if name in {one.arg for one in ast.walk(function.args) if isinstance(one, ast.arg)}:
                return
        files = (
            [self._file] if name in self._file.constants else self._known.constants.get(name, [])
        )
        if len(files) == 1:
            texts = Texts(self._known, files[0], (), self._depth)
            yield from ((texts, one) for one in files[0].constants[name])

    @staticmethod
    def _joined(parts: Iterable[list[str]]) -> list[str]:
        return ["".join(one) for one in itertools.islice(itertools.product(*parts), _MOST)]


def _parts(node: ast.expr) -> list[ast.expr] | None:
    """Return the expressions of which a node is one or another; None where it is no such node."""
    parts: list[ast.expr] | None = None
    match node:
        case ast.BinOp(left=left, op=ast.Mod()):
            parts = [left]
        case ast.IfExp(body=body, orelse=orelse):
            parts = [body, orelse]
        case ast.BoolOp(values=values) | ast.Tuple(elts=values) | ast.Dict(values=values):
            parts = values
        case ast.List(elts=[_, *_] as values):
            parts = values
        case ast.ListComp(elt=element) | ast.GeneratorExp(elt=element):
            parts = [element]
        case ast.Call(func=ast.Attribute(value=ast.Constant(value=str()), attr="join")):
            parts = node.args[:1]
        case ast.Call(func=ast.Attribute(value=value, attr="format" | "strip")):
            parts = [value]
    return parts


@functools.cache
def _assigned(function: ast.FunctionDef, name: str, line: int) -> list[ast.expr]:
    """Return what a name may be in a line of a function: of the narrowest block that says so."""
    for block in _blocks(function, line):
        values: list[ast.expr] = []
        for statement in reversed(block):
            if line and statement.lineno > line:
                continue
            values += [value for known, value in assignments(statement) if known == name]
            if values and isinstance(statement, ast.Assign | ast.AnnAssign):
                break  # what stands before is over
        if values:
            return values
    return [value for known, value in assignments(function) if known == name]


@functools.cache
def _blocks(function: ast.FunctionDef, line: int) -> list[list[ast.stmt]]:
    """Return the blocks around a line, the narrowest first."""
    found = [
        block
        for node in ast.walk(function)
        for name in ("body", "orelse", "finalbody")
        if isinstance(block := getattr(node, name, None), list) and block
        if block[0].lineno <= line <= (block[-1].end_lineno or 0)
    ]
    return sorted(found, key=lambda block: (block[-1].end_lineno or 0) - block[0].lineno)


@functools.cache
def assignments(tree: ast.AST) -> list[tuple[str, ast.expr]]:
    """Return names (`x`, `self.x`) and what is assigned to them, anywhere in the tree."""
    return [pair for node in ast.walk(tree) for pair in assigned(node)]


def assigned(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Yield names and what this very node assigns to them."""
    match node:
        case ast.Assign(targets=targets, value=value):
            for target in targets:
                yield from _pairs(target, value)
        case ast.AnnAssign(target=target, value=ast.expr() as value):
            yield from _pairs(target, value)
        case ast.NamedExpr(target=target, value=value):
            yield from _pairs(target, value)
        case ast.For(target=target, iter=each) | ast.comprehension(target=target, iter=each):
            yield from _pairs(target, ast.Subscript(each, ast.Name("any")))


def _pairs(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(target, ast.Tuple):
        for place, one in enumerate(target.elts):
            yield from _pairs(one, ast.Subscript(value, ast.Constant(place)))
    elif isinstance(target, ast.Name | ast.Attribute):
        yield ast.unparse(target), value


def read(package: Path, path: Path) -> File:
    """Read a file; its attributes are for the walk to note."""
    tree = ast.parse(path.read_text())
    constants: dict[str, list[ast.expr]] = defaultdict(list)
    for node in tree.body:
        for name, value in assigned(node):
            constants[name].append(value)
    return File(str(path.relative_to(package)), tree, constants, defaultdict(list))


def says(text: str) -> bool:
    """Whether there are words in it."""
    return re.search(r"[A-Za-z]{2}", text) is not None


def plain(text: str) -> str:
    """Return a template with its variable parts as holes, in one line."""
    return re.sub(rf"{HOLE}(?:{HOLE})+", HOLE, " ".join(_FORMAT.sub(HOLE, text).split()))


def called(node: ast.AST) -> str:
    """Return the name that a call ends in; nothing where it is no call of a name."""
    if not isinstance(node, ast.Call):
        return ""
    return getattr(node.func, "id", getattr(node.func, "attr", ""))
