"""Generators of SQL texts: statements with secrets in every place, and soups of awkward tokens.

Every secret is made of letters that no template has four of in a row (`CANARY`), or of digits,
so one cheap search over a masked text finds any piece of any secret.
"""

import random
import re
from collections.abc import Callable, Iterator
from typing import Final, Literal, NamedTuple, TypeAlias

LETTERS: Final = "qxzjQXZJ"
LEAK: Final = re.compile(r"[qxzjQXZJ]{4}|[0-9]{4}")
POOL: Final = 600  # fragments made per kind; statements draw from them

# L a literal, N a number, C a comment or a space, W a bare secret word, S a plain string,
# R a row of a COPY, Q a secret in double quotes that is too long for a name, A a string with an
# apostrophe inside that nobody escaped.
STATEMENTS: Final = (
    "select a, %L from t1 where b = %L and c in (%L, %L)%C limit %N",
    "%Cselect u.id %C, u.e -- %W\n from users u where e = %L and f ~ %L or g->>%S = %S",
    "insert into t (a, b, c) values (%L, %N, %L), (%L, %N, now())%C on conflict do nothing",
    "update t set a = %L, b = b + %N%Cwhere id = $1 and d = %L returning a.b, %L",
    "with x as (select %L as n %C) select * from x where n like %L||%L",
    'select "a b", "T"."c""d" from "My Table" where foo$$bar = %L and a$1 = %S',
    "select e %L, b %S, x %L, n%S, u&%S from t",
    "select %L::text, cast(%L as int), interval %S day, array[%L,%L], t.a[%N:%N]",
    "select a@>%L, b@-%N, c-%N, d- -%N, e/%N, f*/%C%N, a -%C- %N",
    "delete from t where a between %L and %L or b=%N or c<%N%C",
    "create role bob login password %S",
    "alter user bob with encrypted password %W",
    'create user bob in group g password "%W"',
    "alter role bob password%C%W valid until %S",
    "create user bob identified by %W",
    "alter user mapping for bob server s options (set password %S, add token %S)",
    "create subscription s connection %S publication p",
    "create server s foreign data wrapper w options (host %S, x %S)",
    "set app.token = %W",
    "set local app.tenant to %W, %W",
    'set session "app.x" = "%W"',
    "begin; set app.jwt = %W; select %L; commit",
    "alter role bob in database d set app.key = %W",
    "alter database d set search_path to %W, public",
    "alter system set primary_conninfo = %S",
    "create function f() returns int set app.key = %W language sql as %L",
    "create function f() returns int begin atomic; select %L; update t set a = %N; end; select %L",
    "do %L language plpgsql",
    "do $outer$ begin perform %S; /* %W */ end $outer$; select %L",
    "comment on table t is %L",
    "create type mood as enum (%S, %S)",
    "create table t (a text default %L, b int check (b > %N) %C)",
    "create table t_1 partition of t for values in (%L, %L)",
    "copy (select %L) to program %S",
    "copy t from stdin;\n%R\n%R\n\\.\n",
    "copy t (a, b) from stdin with (format csv);\n%R\n%R",
    "notify ch, %S; declare c cursor for select %L",
    "prepare transaction %S",
    "explain (analyze, buffers) select %L from t where a = %N%C",
    "execute p(%L, %L, %N)",
    "call p(%L, $2, %N)",
    "create policy p on t using (a = %L); create view v as select %L",
    "select case when a = %L then %N else %N end from t order by 1, 2 fetch first %N rows only",
    "select * from dblink(%S, %L) as t(a int)",
    "select %NFROM t where a=%Nand b=%L",
    'select U&"d!t", %L from t where u = %L',
    "select * from t where a = %L\n -- %W\n and b = %L /* %W /* %W */ %W */",
    "vacuum (parallel %N) t; analyze t%C",
    "select a from t where b = %Q and c = %L",
    "select a from t where b = %A and c = %L%C order by d",
    "update t set a = %A, b = %S where c = %N",
    "insert into t (a, b, c) values (%A, %S, %A), (%S, %A, %L) returning a",
    "alter role bob password %A valid until %S",
    "alter role bob login password '%W %W' %W %W' createdb",
    "create subscription s connection %A publication p",
    'create subscription s connection "host=x password=%W" publication p',
    "alter subscription s connection %W",
    "create server s foreign data wrapper w options (host %S, password %W)",
    "alter user mapping for bob server s options (set password %W%N, add token %W)",
    "set my-app.token = %W",
    "set local my.1x to %W",
    "alter role bob set my-app.token = %W",
    "create function f() returns int set my-app.key = %W language sql as %L",
    "copy t from stdin with csv header\n%R\n%R",
    "copy t (a, b) from stdin (format csv, null %S)\n%R\n%R",
    "copy t from stdin with delimiter ',' csv force not null a, b\n%R",
    "copy t from stdin csv where a > %N\n%R",
    "select a from t where b = \u2018%W %W\u2019 and c = \u201c%W\u201d%C and d = %L",
)
EXPRESSIONS: Final = (
    "va := va + (select %L)",
    "(select count(*) from t where a = %L) > %N",
    "a || %L || %S",
)
TYPED: Final = (
    "%W",
    "%W%W-%N",
    "\\connect postgres://u:%W@h/d",
    "psql -h h -U u -W %W",
    '{"password": "%W"}',
    "select %L; %W is my %W",
    "%N,%W,%W",
    "postgres://u:%W@h/d?x=%W",
)

# What the server's standard_conforming_strings makes of a backslash: "standard" is on.
Mode: TypeAlias = Literal["standard", "escapes"]
Fragment: TypeAlias = Callable[[random.Random, Mode], str]


class Text(NamedTuple):
    """A generated text. `typed`: no statement, so only level basic's activity rules can help."""

    sql: str
    typed: bool


def seeded(seed: int) -> random.Random:
    """Return a generator that says the same for the same seed."""
    return random.Random(seed)  # noqa: S311 - repeatable on purpose


def _secret(rng: random.Random) -> str:
    return "".join(rng.choices(LETTERS, k=rng.randrange(6, 15)))


def _content(rng: random.Random) -> str:
    """Return a secret with what trips lexers inside or around it."""
    awkward = ("'", "''", "\\", "\\\\", "--", "/*", "*/", "$$", "$a$", '"', ";", "\n", " ", "é", "")
    parts = [_secret(rng)]
    for _ in range(rng.randrange(3)):
        parts += (rng.choice(awkward), _secret(rng))
    if not rng.randrange(4):
        parts.append(rng.choice(awkward))
    return "".join(parts)


def _plain(rng: random.Random, mode: Mode) -> str:
    content = _content(rng)
    if mode == "escapes":
        return _escaped(rng, mode)[1:]
    return "'" + content.replace("'", "''") + "'"


def _escaped(rng: random.Random, _mode: Mode) -> str:
    quote = rng.choice(("\\'", "''"))
    pieces = [_content(rng).replace("\\", "\\\\").replace("'", quote)]
    while not rng.randrange(4):
        pieces.append(_content(rng).replace("\\", "\\\\").replace("'", quote))
    gap = rng.choice(("'\n'", "' \r\n\t'", "' -- x'y\n  -- z\n'"))
    return rng.choice("eE") + "'" + gap.join(pieces) + "'"


def _other(rng: random.Random, _mode: Mode) -> str:
    bare = _secret(rng)
    return rng.choice(
        (
            f"b'{bare}'",
            f"X'{bare}'",
            f"x'{bare}'\n'{bare}'",
            f"U&'{bare}''\\0061{bare}'",
            f"u&'{bare}!0061' uescape '!'",
            f"N'{bare}''{bare}'",
        )
    )


def _dollar(rng: random.Random, _mode: Mode) -> str:
    tag = rng.choice(("", "a", "fn", "é1", "_", "A2b"))
    inside = "$1 $b$ $ " if tag != "" else "$1 $b $ "
    body = _content(rng).replace("$$", inside).replace("$a$", inside)
    return f"${tag}${body}${tag}$"


def _number(rng: random.Random, _mode: Mode = "standard") -> str:
    digits = "".join(rng.choices("0123456789", k=rng.randrange(4, 12)))
    return rng.choice(
        (digits, digits, f".{digits}", f"{digits}.", f"{digits}.{digits}", f"{digits}e-{digits}")
    )


def _comment(rng: random.Random, _mode: Mode) -> str:
    body = _content(rng).replace("*/", "*").replace("/*", "").strip("*/")
    nested = f"/*{body}/*{body}*/ {body}**/"
    line = "--" + body.replace("\n", " ")
    return rng.choice((" ", " ", f"/*{body}*/", nested, line + "\n", line + "\r", f"/*/{body}*/"))


def _row(rng: random.Random, _mode: Mode) -> str:
    return rng.choice("\t,|").join((_secret(rng), _number(rng), _content(rng)))


def _apostrophes(rng: random.Random, _mode: Mode) -> str:
    words = [_secret(rng)]
    for _ in range(rng.randrange(1, 4)):
        words += ("'", _secret(rng), rng.choice((" ", ", ", "")), _secret(rng))
    return "'" + "".join(words) + "'"


def _literal(rng: random.Random, mode: Mode) -> str:
    return rng.choice((_plain, _plain, _escaped, _dollar, _other, _number))(rng, mode)


FRAGMENTS: Final[dict[str, Fragment]] = {
    "L": _literal,
    "S": _plain,
    "N": _number,
    "C": _comment,
    "R": _row,
    "A": _apostrophes,
    "Q": lambda rng, _mode: '"' + "".join(rng.choices(LETTERS, k=rng.randrange(64, 90))) + '"',
    "W": lambda rng, _mode: _secret(rng),
}


def _split(template: str) -> tuple[str, str]:
    """Return a template for the % operator, and the kinds of its slots."""
    return re.sub("%[A-Z]", "%s", template), "".join(re.findall("%([A-Z])", template))


def texts(seed: int, count: int, *, mode: Mode, typed: bool = True) -> Iterator[Text]:
    r"""Yield `count` whole texts, the same for the same seed.

    mode: "escapes" writes them for standard_conforming_strings = off (`\'` ends no string).
    typed: with what people type that is no statement.
    """
    rng = seeded(seed)
    pools = {kind: [make(rng, mode) for _ in range(POOL)] for kind, make in FRAGMENTS.items()}
    kinds = [(*_split(template), False) for template in (*STATEMENTS, *EXPRESSIONS)]
    if typed:
        kinds += [(*_split(template), True) for template in TYPED]
    number, places = rng.random, len(kinds)
    for _ in range(count):
        form, slots, is_typed = kinds[int(number() * places)]
        sql = form % tuple([pools[slot][int(number() * POOL)] for slot in slots])
        yield Text(sql, is_typed)


def cut(rng: random.Random, text: str) -> str:
    """Return a random prefix of `text`; one of four is the whole."""
    return text if rng.random() < 0.25 else text[: int(rng.random() * len(text))]


ATOMS: Final = (
    *("'", "''", "'a'", "E'", "e", "b'", "X'", "N'", "U&'", "\\", "\\'", "\\\\", '"', '"a"', '""'),
    *("$", "$$", "$a$", "$b", "$1", "$é$", "a$$", "/", "*", "/*", "*/", "-", "--", "\n", "\r", " "),
    *("1", "1.", ".5", "0x1f", "1e", "1e5", "_", "a", "x", "é", "FROM", "and", "\u00a0", "\u3000"),
    *(";", ",", "(", ")", "?", "@", "\t", "\x0b", "\u2028", "..", ":", "::", "UESCAPE", "!"),
)


def soup(rng: random.Random, length: int) -> str:
    """Return up to `length` tokens and half tokens, joined."""
    return "".join(rng.choices(ATOMS, k=rng.randrange(1, length + 1)))
