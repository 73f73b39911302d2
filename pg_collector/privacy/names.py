"""Names that people gave: of tables, columns, roles, applications. What the levels make of them.

Level `full` replaces each by a token, the same one wherever the name stands, so that groups, joins
and aliases survive; only who has this installation's secret can tell which name it is. Level
`custom` hides those that match a pattern. PostgreSQL's own words are nobody's secret and stay.

All that reads SQL here reads what the lexer has masked: strings are `'?'`, comments are gone.
"""

import functools
import hashlib
import pkgutil
import re
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from pg_collector.errors import ConfigurationError
from pg_collector.privacy.copy_data import INLINE_COPY_DATA
from pg_collector.privacy.segments import NO_START, NO_WORD, TOKEN, WORD
from pg_collector.privacy.statements import UNRECOGNIZED

HIDDEN: Final = "?"  # a name that matched a pattern; in SQL in double quotes
SECRET_BYTES: Final = 32
_NAME_BYTES: Final = 63  # NAMEDATALEN - 1
_CACHED: Final = 4096  # names

# What a server writes in place of a statement, and what we do.
_FIXED: Final = "|".join(
    re.escape(text)
    for text in (
        *("<insufficient privilege>", "<backend information not available>", "<FASTPATH>"),
        *("<command string not enabled>", UNRECOGNIZED, INLINE_COPY_DATA),
        *("<email>", "<card>", "<ssn>", "<phone>"),
    )
)
_QUOTED: Final = r"(?:[uU]&)?\"[^\"]*+\"(?:\"[^\"]*+\")*"
_IN_WORD: Final = f"[^{NO_WORD}]"
# What can begin none of these, and the name behind it. A name in quotes that touches a word keeps
# them, or two names would become one. Words come first: there are most of them.
_NAME = re.compile(
    r"([\x00-!#$&(-;=-@\[-^`{-\x7f]*+)"
    rf"([^{NO_START}uU]{_IN_WORD}*+|[uU](?!&\"){_IN_WORD}*+|'\?'|{_FIXED}|%s(?!{_IN_WORD})|%\([^()]*+\)s"
    rf"|(?<!{_IN_WORD}){_QUOTED}(?!{_IN_WORD})|(?P<touching>{_QUOTED})|{WORD}|['\"<%]|\Z)",
    re.ASCII,
)
_CAPITALS = re.compile("[A-Z]+")
# Tokens, and names that a server makes of numbers.
_MADE = re.compile(
    rf"{TOKEN.pattern}|pg_toast_[0-9]+(?:_index)?|pg_(?:toast_)?temp_[0-9]+", re.ASCII
)


class _Replacements(dict[str, str]):
    """What stands for each name as it is written in SQL, worked out once."""

    def __init__(self, work_out: Callable[[str], str]) -> None:
        super().__init__()
        self._work_out = work_out

    def __missing__(self, written: str) -> str:
        found = self._work_out(written)
        if len(written) <= _NAME_BYTES:
            if len(self) >= _CACHED:
                self.clear()
            self[written] = found
        return found

    def in_sql(self, masked: str) -> str:
        """Return a masked text with what stands for each of its names."""
        parts = _NAME.split(masked)  # by four: two that are no name, a name, the same if it touches
        names = list(map(self.__getitem__, parts[2::4]))
        for place, touching in enumerate(parts[3::4]):
            if touching and not names[place].endswith('"'):
                names[place] = f'"{names[place]}"'
        parts[2::4] = names
        del parts[3::4]
        return "".join(parts)


class Names(Protocol):
    """What a level makes of names."""

    def of(self, name: str) -> str:
        """Return what stands for a name as a catalog has it, such as a table's."""

    def in_sql(self, masked: str) -> str:
        """Return a masked text with its names replaced."""


class Tokens:
    """Level full: each name becomes `i_` and 8 hex digits of its hash, keyed with a secret."""

    def __init__(self, secret: bytes) -> None:
        """Raise ValueError where the secret is too short to be one."""
        if len(secret) < SECRET_BYTES:
            raise ValueError(f"a secret of {len(secret)} bytes")
        self._secret = secret
        self._words = sql_words()
        self._written = _Replacements(self._replaced)

    def of(self, name: str) -> str:
        """Return the token of a name; PostgreSQL's own words stay."""
        if name in self._words or _MADE.fullmatch(name) or name == HIDDEN:
            return name
        text = name.encode("utf-8", "surrogatepass")[:_NAME_BYTES]
        return f"i_{hashlib.blake2s(text, digest_size=4, key=self._secret).hexdigest()}"

    def in_sql(self, masked: str) -> str:
        """Return a masked text with a token for every name."""
        return self._written.in_sql(masked)

    def _replaced(self, written: str) -> str:
        if written.startswith("%("):
            return f"%({self.of(written[2:-2])})s"
        name = _folded(_read(written)) if '"' not in written else _read(written)
        token = self.of(name) if name else name
        return written if token == name else token


def _read(written: str) -> str:
    """Return the name that stands in SQL, without its quotes; nothing where it is none."""
    first, quote, rest = written.partition('"')
    if quote:
        return rest[:-1].replace('""', '"')
    if first[:1] in "'%<":
        return ""
    return first


def _folded(name: str) -> str:
    """Return a name without quotes as PostgreSQL reads it: A to Z become lower case."""
    return _CAPITALS.sub(lambda found: found[0].lower(), name)


@functools.cache
def sql_words() -> frozenset[str]:
    """Return PostgreSQL's own words: keywords, and names in pg_catalog, of versions 12 to 18."""
    text = pkgutil.get_data("pg_collector.privacy", "sql_words.txt")
    if text is None:
        raise FileNotFoundError("sql_words.txt")
    return frozenset(text.decode("ascii").split())


MOST_PATTERNS: Final = 50
LONGEST_PATTERN: Final = 200
SLOW: Final = 0.05  # seconds that a pattern may take for a text of 64 kB
_REGEX: Final = "re:"
_PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+|[^\x00-\x7f]+")


class Patterns:
    """Level custom: names that match a pattern are hidden.

    A plain pattern matches whole parts of a name, in any case: `ssn` matches customer_ssn and
    customerSSN, not assn. `re:` and a regular expression is looked for in names, and in masked
    texts as they are.
    """

    def __init__(self, patterns: Sequence[str], *, tried: bool = True) -> None:
        """Raise ConfigurationError for a pattern that is none.

        Also for one that takes too long, unless they were `tried` before: that takes its time, and
        what passed once is not to be refused by a busy machine.
        """
        if len(patterns) > MOST_PATTERNS:
            raise ConfigurationError(
                f"{len(patterns)} masking patterns",
                remedy=f"Use {MOST_PATTERNS} at most: a regular expression (re:) can join several.",
            )
        self._regexes = tuple(
            _compiled(text.removeprefix(_REGEX), tried=tried)
            for text in patterns
            if text.startswith(_REGEX)
        )
        self._plain = tuple(_plain(text) for text in patterns if not text.startswith(_REGEX))
        self._written = _Replacements(self._replaced)

    def of(self, name: str) -> str:
        """Return the name, or HIDDEN where it matches."""
        parts = _parts(name)
        hidden = any(one in parts for one in self._plain)
        return HIDDEN if hidden or any(one.search(name) for one in self._regexes) else name

    def in_sql(self, masked: str) -> str:
        """Return a masked text with `"?"` for every name that matches."""
        text = self._written.in_sql(masked)
        for one in self._regexes:
            text = one.sub(HIDDEN, text)
        return text

    def _replaced(self, written: str) -> str:
        if written.startswith("%("):
            return f"%({self.of(written[2:-2])})s"
        name = _read(written)
        return f'"{HIDDEN}"' if name and self.of(name) != name else written


class Plain:
    """Levels none and basic: names stay."""

    def of(self, name: str) -> str:
        """Return the name."""
        return name

    def in_sql(self, masked: str) -> str:
        """Return the text."""
        return masked


def _plain(text: str) -> str:
    parts = _parts(text)
    if parts == "__":
        raise ConfigurationError(
            f"the masking pattern {text!r} has no letter and no digit",
            remedy="Write a word, such as ssn, or a regular expression: re:^secret_",
        )
    return parts


def _parts(name: str) -> str:
    """Return the parts of a name, in lower case, each between underscores."""
    return f"_{'_'.join(part.lower() for part in _PART.findall(name))}_"


def _compiled(text: str, *, tried: bool) -> re.Pattern[str]:
    """Return a regular expression that takes no longer than SLOW for any text we have thought of.

    Raises ConfigurationError.
    """
    if len(text) > LONGEST_PATTERN:
        raise ConfigurationError(
            f"a masking pattern of {len(text)} characters",
            remedy=f"A pattern has {LONGEST_PATTERN} at most: make several of it.",
        )
    try:
        pattern = re.compile(text, re.IGNORECASE)
    except re.error as error:
        raise ConfigurationError(
            f"the masking pattern re:{text} is no regular expression: {error}",
            remedy="See https://docs.python.org/3/library/re.html#regular-expression-syntax",
        ) from error
    if pattern.search(""):
        raise ConfigurationError(
            f"the masking pattern re:{text} matches where nothing is",
            remedy="Let it match one character at least: + instead of *.",
        )
    if not tried and _is_slow(pattern, text):
        raise ConfigurationError(
            f"the masking pattern re:{text} takes too long for some texts",
            remedy="Repeat nothing that repeats itself, as in (a+)+, and begin with a fixed word.",
        )
    return pattern


def _is_slow(pattern: re.Pattern[str], text: str) -> bool:
    """Try it on runs of what it could take, longer and longer, each almost a match."""
    runs = [one for one in dict.fromkeys((*text, *"a0 _.")) if one.isprintable()]
    words = [*runs, *(word for word in re.findall(r"\w+", text))]
    lengths = [*range(8, 40, 2), *(64 << step for step in range(11))]
    for word in words:
        for length in lengths:
            probe = (word * (length // len(word) + 1))[:length] + "\x00"
            started = time.thread_time()
            pattern.sub(HIDDEN, probe)
            if time.thread_time() - started > SLOW:
                return True
    return False
