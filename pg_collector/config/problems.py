"""What is wrong, where, and what to do about it; all of it at once."""

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from pg_collector.errors import ConfigurationError


class Origin(NamedTuple):
    """Where a value came from: a place in a file, a variable, a flag, or `default`."""

    source: str
    line: int = 0  # from 1; 0: the source has no lines
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


DEFAULT = Origin("default")


class Problem(msgspec.Struct, frozen=True):
    """One thing to mend. `path` is the dotted path of the key; empty for a file as a whole."""

    origin: Origin
    path: str
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        parts = [str(self.origin)] if self.origin != DEFAULT else []
        parts += [self.path] if self.path else []
        text = ": ".join([*parts, self.message])
        return one_line(f"{text}; {self.remedy}" if self.remedy else text)


class InvalidConfiguration(ConfigurationError):
    """Every problem of one reading; its text is one problem per line."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


class Problems:
    """Gathers problems while a configuration is read."""

    def __init__(self) -> None:
        self._found: list[Problem] = []

    def add(self, origin: Origin, path: str, message: str, remedy: str = "") -> None:
        """Note one; the same one twice counts once."""
        problem = Problem(origin, path, message, remedy)
        if problem not in self._found:
            self._found.append(problem)

    def __bool__(self) -> bool:
        return bool(self._found)

    def raise_any(self) -> None:
        """Raise `InvalidConfiguration` with all of them, in the order of their places."""
        if self._found:
            raise InvalidConfiguration(sorted(self._found, key=lambda problem: problem.origin))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ` - did you mean 'x'?`, or nothing where no known word is near."""
    names = list(known)
    folded = {name.lower().replace("-", "_"): name for name in names}
    plain = word[:100].lower().replace("-", "_")
    near = difflib.get_close_matches(plain, folded, n=1, cutoff=0.6)
    return f" - did you mean '{folded[near[0]]}'?" if near else ""


def named(word: str) -> str:
    """Return a key in quotes; one that is no plain name is not repeated: it may hold a secret."""
    return f"'{word}'" if _PLAIN_NAME.fullmatch(word) else "(not a plain name)"


def joined(path: str, key: str) -> str:
    """Return the dotted path of a key under `path`."""
    shown = key if _PLAIN_NAME.fullmatch(key) else "?"
    return f"{path}.{shown}" if path else shown


def one_line(text: str) -> str:
    """Return the text without line breaks and other characters that a terminal might obey."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,62}")
