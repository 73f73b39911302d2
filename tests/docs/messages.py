"""Every message that a user of the package can meet, read from its source.

A message enters the world at a sink: an error of ours, a line of the log from warning up, what a
vital or a state says, a problem or a warning of the configuration, a print to stderr. Where a
sink is given a parameter of the function around it, the calls of that function are sinks, too.
Names are followed to what was assigned to them, calls to what they return. What a message varies
in becomes `…`; what is nothing but that hands another message on, which is found where it begins.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from tests.docs.texts import HOLE, File, Known, Texts, assigned, called, plain, read, says

_ROOT: Final = "CollectorError"
_LEVELS: Final = frozenset({"warning", "error", "critical", "exception"})
# Below anything else no message can begin.
_BRANCHES: Final = (
    ast.stmt,
    ast.expr,
    ast.excepthandler,
    ast.keyword,
    ast.match_case,
    ast.withitem,
)
_SELF: Final = frozenset({"self", "cls"})


class Message(NamedTuple):
    """A message, where it begins, and the sink through which it leaves."""

    text: str
    place: str  # "pg/trouble.py:93"
    kind: str  # "StateError", "log.warning", "Vital"


class _Sink(NamedTuple):
    """Which argument of a call is a message."""

    kind: str
    position: int | None
    keyword: str = ""

    def of(self, call: ast.Call) -> ast.expr | None:
        for named in call.keywords:
            if self.keyword and named.arg == self.keyword:
                return named.value
        if self.position is None:
            return None
        for place, one in enumerate(call.args[: self.position + 1]):
            if isinstance(one, ast.Starred):
                return ast.Subscript(one.value, ast.Constant(self.position - place))
            if place == self.position:
                return one
        return None


# What is no error of ours: the sinks of a call by the name that is called. What Python and psycopg
# raise with words of ours ends behind a colon of a message.
_SINKS: Final[Mapping[str, tuple[_Sink, ...]]] = {
    "BadParameter": (_Sink("BadParameter", 0),),
    "SystemExit": (_Sink("SystemExit", 0),),
    "ValueError": (_Sink("ValueError", 0),),
    "Vital": (_Sink("Vital", None, "reason"), _Sink("Vital", None, "remedy")),
    "State": (_Sink("State", None, "message"), _Sink("State", None, "remedy")),
    "Standing": (_Sink("Standing", 1, "reason"), _Sink("Standing", 2, "remedy")),
    "Reply": (_Sink("Reply", None, "error"), _Sink("Reply", None, "remedy")),
    "Paused": (_Sink("Paused", 2, "why"),),
    "Stop": (_Sink("Stop", 0), _Sink("Stop", 1)),
    "Sampler": (_Sink("Sampler", None, "remedy"),),
    "Trouble": (_Sink("Trouble", 0), _Sink("Trouble", 1)),
    "Problem": (_Sink("Problem", 2),),
    "_fault": (_Sink("Problem", 1),),
    "Finding": (_Sink("Finding", 1, "found"),),
    "Rejected": (_Sink("Rejected", 2),),
    "_BadLine": (_Sink("Rejected", 1),),
    "_BadMoment": (_Sink("Rejected", 0),),
    "_note": (_Sink("log", 0),),
    "as_note": (_Sink("log", 0),),
    "text": (_Sink("HTTP", 1),),
    "_refusal": (_Sink("HTTP", 1),),
    **{
        name: (_Sink(name, 0), _Sink(name, 1))
        for name in (
            "ConnectionResetError",
            "FileExistsError",
            "OSError",
            "QueryCanceled",
            "TimeoutError",
        )
    },
    "DeadlineExceeded": (_Sink("DeadlineExceeded", 0),),
    "Interrupted": (_Sink("Interrupted", 0),),
}


def messages(package: Path) -> list[Message]:
    """Return every message in the package's source, each once for each place."""
    return _Walk(package).messages()


class _Site(NamedTuple):
    """Where a message may begin, with the functions around it."""

    file: File
    node: ast.Call | ast.Tuple | ast.AugAssign
    around: tuple[ast.FunctionDef, ...]


class _Walk:
    def __init__(self, package: Path) -> None:
        self._functions: dict[str, list[tuple[File, ast.FunctionDef]]] = defaultdict(list)
        self._classes: dict[str, list[tuple[File, ast.ClassDef]]] = defaultdict(list)
        self._sites: list[_Site] = []
        attributes: dict[str, list[File]] = defaultdict(list)
        constants: dict[str, list[File]] = defaultdict(list)
        for path in sorted(package.rglob("*.py")):
            file = read(package, path)
            self._visit(file, file.tree, ())
            for name in file.attributes:
                attributes[name].append(file)
            for name in file.constants:
                constants[name].append(file)
        self._known = Known(self._functions, attributes, constants)
        self._errors = self._find_errors()
        self._sinks: dict[str, set[_Sink]] = defaultdict(set)  # of whatever may be called
        self._found: set[Message] = set()
        for name, sinks in _SINKS.items():
            self._sinks[name].update(sinks)
        for name in self._errors:
            self._sinks[name].update(self._of_error(name))

    def messages(self) -> list[Message]:
        known = -1
        while known != (known := sum(map(len, self._sinks.values()))):
            self._found.clear()
            for site in self._sites:
                self._look(site)
        return sorted(self._found, key=_order)

    def _visit(self, file: File, node: ast.AST, around: tuple[ast.FunctionDef, ...]) -> None:
        """Note what there is in a file: functions, classes, and where a message may begin."""
        if isinstance(node, ast.FunctionDef):
            self._functions[node.name].append((file, node))
            around = (*around, node)
        elif isinstance(node, ast.ClassDef):
            self._classes[node.name].append((file, node))
        elif isinstance(node, ast.Call | ast.Tuple | ast.AugAssign):
            self._sites.append(_Site(file, node, around))
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for name, value in assigned(node):
                if name.startswith("self."):
                    file.attributes[name.removeprefix("self.")].append(value)
        for name in node._fields:
            below = getattr(node, name, None)
            for child in below if isinstance(below, list) else (below,):
                if isinstance(child, _BRANCHES):
                    self._visit(file, child, around)

    def _find_errors(self) -> set[str]:
        found = {_ROOT}
        parents = {
            name: {ast.unparse(base) for _, node in nodes for base in node.bases}
            for name, nodes in self._classes.items()
        }
        while more := {name for name, bases in parents.items() if bases & found} - found:
            found |= more
        return found

    def _of_error(self, name: str) -> Iterator[_Sink]:
        """Yield the arguments of an error that are its message: texts that its parent is given."""
        for _, node in self._classes[name]:
            made = (one for one in node.body if isinstance(one, ast.FunctionDef))
            own = next((one for one in made if one.name == "__init__"), None)
            if own is None:
                yield _Sink(name, 0, "message")
                continue
            up = (one for one in ast.walk(own) if called(one) == "__init__")
            used = {
                one.id
                for call in up
                if isinstance(call, ast.Call) and call.args
                for one in ast.walk(call.args[0])
                if isinstance(one, ast.Name)
            }
            for position, argument in enumerate(own.args.args[1:]):
                if argument.arg in used and _is_text(argument):
                    yield _Sink(name, position, argument.arg)

    # --- sinks

    def _look(self, site: _Site) -> None:
        node = site.node
        if isinstance(node, ast.Call):
            for sink in list(self._sinks_of(site.file, node)):
                value = _bare(sink.of(node))
                if value is not None and not self._handed_on(value, sink, site.around):
                    self._note(site, value, sink)
        elif isinstance(node, ast.Tuple):
            self._note_row(site.file, node)
        elif ast.unparse(node.target).endswith("warnings"):
            self._note(site, node.value, _Sink("warning", 0))

    def _sinks_of(self, file: File, call: ast.Call) -> Iterator[_Sink]:
        name = called(call)
        owner = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""
        if owner in {"log", "logging"} and name in _LEVELS:
            first = call.args[0]
            bare = isinstance(first, ast.Constant) and not says(plain(str(first.value)))
            for position in range(1, len(call.args)) if bare else (0,):
                yield _Sink(f"log.{name}", position)
        elif owner == "log" and name == "log":
            yield _Sink("log.log", 1)
        elif owner.endswith("warnings") and name == "append":
            yield _Sink("warning", 0)
        elif owner.endswith("problems") and name == "add":
            yield _Sink("Problem", 2, "message")
        elif (name == "print" and "stderr" in _keyword(call, "file")) or (
            name == "echo" and _keyword(call, "err")
        ):
            yield _Sink("stderr", 0)
        elif _keyword(call, "level").endswith(".OK"):
            return  # a finding that all is well
        elif name in self._errors or name in _SINKS or self._is_here(file, name):
            yield from self._sinks.get(name, ())

    def _is_here(self, file: File, name: str) -> bool:
        """Whether a call of this name in this file means the one function that we know."""
        where = {there.name for there, _ in self._functions[name] or self._classes[name]}
        return file.name in where or len(where) == 1

    def _handed_on(self, value: ast.expr, sink: _Sink, around: tuple[ast.FunctionDef, ...]) -> bool:
        """Make the calls of the function around a sink, where the message is its parameter."""
        if not isinstance(value, ast.Name) or not around:
            return False
        function = around[-1]
        names = [one.arg for one in (*function.args.posonlyargs, *function.args.args)]
        if names and names[0] in _SELF:
            names.pop(0)
        known = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
        parameter = next((one for one in known if one.arg == value.id), None)
        if parameter is None or not _is_text(parameter):
            return False
        position = names.index(value.id) if value.id in names else None
        name = function.name
        if name == "__init__":
            name = next(
                k for k, n in self._classes.items() if any(function in c.body for _, c in n)
            )
        if name not in self._errors:
            self._sinks[name].add(_Sink(sink.kind, position, value.id))
        return True

    def _note(self, site: _Site, value: ast.expr, sink: _Sink) -> None:
        line = getattr(value, "lineno", site.node.lineno)
        for one in Texts(self._known, site.file, site.around).of(value):
            text = plain(one)
            if says(text):
                self._found.add(Message(text, f"{site.file.name}:{line}", sink.kind))

    def _note_row(self, file: File, row: ast.Tuple) -> None:
        """Take a row of a table that sorts foreign words to errors: (words, error, remedy)."""
        match row.elts:
            case [ast.Constant(value=str(words)), ast.Name(id=kind), *_] if kind in self._errors:
                place = f"{file.name}:{row.lineno}"
                self._found.add(Message(f"{HOLE}{words}{HOLE}", place, kind))


def _keyword(call: ast.Call, name: str) -> str:
    return next((ast.unparse(one.value) for one in call.keywords if one.arg == name), "")


def _is_text(argument: ast.arg) -> bool:
    return argument.annotation is not None and "str" in ast.unparse(argument.annotation)


def _bare(value: ast.expr | None) -> ast.expr | None:
    """Return a message without what every one of the CLI wears: `printable(f"pgc: {text}")`."""
    match value:
        case ast.Call(func=ast.Name(id="printable"), args=[inner]):
            return _bare(inner)
        case ast.JoinedStr(values=[ast.Constant(value="pgc: "), ast.FormattedValue(value=inner)]):
            return _bare(inner)
    return value


def _order(message: Message) -> tuple[str, int, str]:
    file, _, line = message.place.partition(":")
    return file, int(line), message.text
