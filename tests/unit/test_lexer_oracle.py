"""The lexer against PostgreSQL's own scanner (libpg_query, PostgreSQL 18)."""

import importlib
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pg_collector.privacy import endings, lexer
from pg_collector.privacy.scanner import Span
from tests.support import sql_texts
from tests.unit.test_lexer import CASES

# Imported by name: its stubs are no valid Python, so a type checker must not follow them.
postgast = importlib.import_module("postgast")
pg_query_pb2 = importlib.import_module("postgast.pg_query_pb2")

LITERALS = frozenset(
    pg_query_pb2.Token.Value(name)
    for name in (
        *("SCONST", "USCONST", "XCONST", "BCONST", "ICONST", "FCONST"),
        *("SQL_COMMENT", "C_COMMENT"),
    )
)
NAMES = frozenset(pg_query_pb2.Token.Value(name) for name in ("IDENT", "UIDENT"))
BLANK = b" \t\n\r\f\v"


def complaint(text: str) -> str | None:
    """Return what the lexer did wrong, "" for nothing, None where the scanner gives up."""
    raw = text.encode()
    if b"\0" in raw:
        return None
    try:
        tokens = postgast.scan(text).tokens
    except postgast.PgQueryError:
        return None
    places = [0]
    for character in text:
        places.append(places[-1] + len(character.encode()))
    covered = _covered(lexer.spans(text), places)
    # Where a word touches a string, what follows may be hidden; the server's reading alone hides
    # no name even then.
    strict, touched = lexer.read(text, escapes=False, curly=False)
    named = _covered(strict, places) if touched else covered
    for token in tokens:
        shown = raw[token.start : token.end]
        hidden = covered[token.start : token.end]
        if token.token in LITERALS:
            # Between the pieces of one string the newline stays.
            if any(not h and s not in BLANK for s, h in zip(shown, hidden, strict=True)):
                return f"uncovered: {shown!r}"
        elif (
            (token.token in NAMES or token.keyword_kind)
            and any(named[token.start : token.end])
            and _must_stay(text, shown, raw[token.end : token.end + 1])
        ):
            return f"touched: {shown!r}"
    return ""


def _covered(spans: list[Span], places: list[int]) -> bytearray:
    """Return one byte for each of the text's, 1 where it is hidden; `places` are in bytes."""
    covered = bytearray(places[-1])
    for start, end, _kind in spans:
        covered[places[start] : places[end]] = b"\1" * (places[end] - places[start])
    return covered


def _must_stay(text: str, name: bytes, following: bytes) -> bool:
    """Return whether `name` should have been kept: the exceptions are those of the spec."""
    if "\\'" in text or lexer._CURLY.search(text):  # two readings: one of them may hide names
        return False
    if b'"' in name:
        return len(name) <= endings.NAME_LENGTH + 2 and b"'" not in name
    return following != b'"'  # the e of e"it's"


def complaints(texts: Iterable[str]) -> tuple[list[str], int]:
    """Return the complaints with their texts, and how many texts the scanner could read."""
    found, readable = [], 0
    for text in texts:
        answer = complaint(text)
        readable += answer is not None
        if answer:
            found.append(f"{answer} in {text!r}")
    return found, readable


def test_generated_statements_leave_no_literal_byte_uncovered() -> None:
    texts = [t.sql for t in sql_texts.texts(21, 40_000, mode="standard", typed=False)]
    found, readable = complaints(texts)
    assert found[:5] == []
    assert readable > 0.85 * len(texts)


def test_soups_of_tokens_leave_no_literal_byte_uncovered() -> None:
    rng = sql_texts.seeded(22)
    found, readable = complaints(sql_texts.soup(rng, 14) for _ in range(120_000))
    assert found[:5] == []
    assert readable > 30_000


def test_hand_written_texts_leave_no_literal_byte_uncovered() -> None:
    found, readable = complaints(text for text, _ in CASES)
    assert found == []
    assert readable > 20


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(st.lists(st.one_of(st.sampled_from(sql_texts.ATOMS), st.text(max_size=3)), max_size=20))
def test_any_text_leaves_no_literal_byte_uncovered(parts: list[str]) -> None:
    assert not complaint("".join(parts))


GLUED = [
    "select a from t where b='x'and c='y'or d like'z'escape'!'order by e",
    "select case when a='x'then'y'else'z'end from t where b in('x')limit 1",
    "select 'a'as b, 'c'collate \"C\" from t union select 'd'from u",
    "select timestamp '2020-01-01'at time zone 'utc', interval '1'day, 'x'is not null",
    "select U&'d!0061'uescape'!', 'x'between'y'and'z', extract(year from date'2020-01-01')",
    "create function f() returns text as 'x'language sql",
    "create function f() returns text language 'sql'as 'x'immutable strict",
    "alter role r password 'x'valid until 'y'",
    "create subscription s connection 'x'publication p",
    "copy t from 'f'delimiter ','null ''csv header",
    "select array_agg(a order by 'x'desc nulls last)filter(where b='x')over w from t group by 'x'",
]


@pytest.mark.parametrize("text", GLUED)
def test_valid_sql_may_glue_a_keyword_to_a_string(text: str) -> None:
    postgast.parse(text)  # or it raises
    assert lexer.spans(text) == lexer.read(text, escapes=False, curly=False)[0]
