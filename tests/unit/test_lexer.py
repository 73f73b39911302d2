"""The lexer reads a text as PostgreSQL's scanner does, in linear time."""

import re
import time

import pytest

from pg_collector.privacy import lexer
from pg_collector.privacy.scanner import Reading, Span, Way, scan
from tests.support import sql_texts

CASES = [
    # identifiers
    ("select foo$$bar, a$1, é$x$ from t1", "select foo$$bar, a$1, é$x$ from t1"),
    ("select a\u00a0b\u3000c\ufeff1", "select a\u00a0b\u3000c\ufeff1"),
    ('select "a b"."c""d", U&"e"', 'select "a b"."c""d", U&"e"'),
    (f'select "{"n" * 63}"', f'select "{"n" * 63}"'),
    (f'select "{"n" * 64}"', "select '?'"),
    ("select \"a', 'secret\" x", "select '?' x"),
    ('select "unterminated secret', "select '?'"),
    ('select e"it\'s"', "select '?'"),
    # strings
    ("select 'a', '', 'it''s', ''''", "select '?', '?', '?', '?'"),
    ("select 'open secret", "select '?'"),
    (r"select E'a\'b', e'c\\', E'd''e'", "select '?', '?', '?'"),
    ("select E'open\\", "select '?'"),
    ("select xe'a', N'b', n'c'", "select xe'?', N'?', n'?'"),
    ("select B'01', x'ff', U&'d\\0061' uescape '!'", "select '?', '?', '?' uescape '?'"),
    ("select B'0''1'", "select '?'"),
    ("select E'a'\n'b\\'secret' tail", "select '?' tail"),
    ("select E'a' -- c'\n --d\n 'b\\'secret' tail", "select '?' tail"),
    ("select E'a' 'b\\' || 'secret'", "select '?' '?'"),
    # dollar quotes
    ("select $$a 'b' $1$$, $é1$ $$ $e$ $é1$, 1", "select '?', '?', ?"),
    ("select 1$$x$$", "select ?'?'"),
    ("select $1, $2::int, $a, $ from t", "select $1, $2::int, $a, $ from t"),
    ("select $a$ open $b$ secret", "select '?'"),
    ("select $1$$secret$$", "select $1'?'"),
    # comments
    ("select 1 -- secret\n, b -- secret\r, c", "select ?  \n, b  \r, c"),
    ("select a -- secret\u2028 secret\u0085 secret", "select a  "),
    ("select /* a /* b */ secret */ c", "select   c"),
    ("select /*/ secret */ c, /**/ d /* secret", "select   c,   d  "),
    ("select a @/* secret */ b, c +-- secret", "select a @  b, c + "),
    ("select a - -b, c / d, e*/f", "select a - -b, c / d, e*/f"),
    # numbers
    ("select 1, 1.5, .5, 5., 1e5, 1.5e-3", "select ?, ?, ?, ?, ?, ?"),
    ("select 0x1F, 0o17, 0b11, 1_000, 1_0.0_1", "select ?, ?, ?, ?, ?"),
    ("select 1secret, 0xsecret, 1__2", "select ?, ?, ?"),
    ("select 1FROM t where id=1and b=2", "select ?FROM t where id=?and b=?"),
    ("select 1..10, a[1:2], t.c", "select ?..?, a[?:?], t.c"),
    ("select 550e8400-e29b-41d4-a716-446655440000", "select ?"),
    ("select deadbeef-e29b-41d4-a716-aaaaaabbbbbb", "select ?"),
    ("select deadbeef-e29b-41d", "select ?"),
    ("select $123456789", "select ?"),
    # placeholders of drivers
    ("select :x, %s, %(name)s, ?, a ? b", "select :x, %s, %(name)s, ?, a ? b"),
    # typographic quotes: letters for the server, quotes for the author
    ("where a = \u2018secret value\u2019 and b", "where a = '?' and b"),
    ("where a = \u201csecret value\u201d and b", "where a = '?' and b"),
    # those of another encoding: replaced, WIN1252's in LATIN1, UTF-8's in LATIN1 and WIN1252
    ("where a = \ufffdsecret value\ufffd and b", "where a = '?'"),
    ("where a = (\x91secret value\x92) and b", "where a = ('?'"),
    ("where a = \xe2\x80\x98secret value\xe2\x80\x99 and b", "where a = '?'"),
    ("where a = \xe2\u20ac\u02dcsecret value\xe2\u20ac\u2122 and b", "where a = '?'"),
    (
        "where \"\ufffda\" = '\ufffdb' and t.\ufffdt\ufffd = caf\ufffd",
        "where \"\ufffda\" = '?' and t.\ufffdt\ufffd = caf\ufffd",
    ),
    ("where a = \u2018O\u2019Brien Secret\u2019 and b", "where a = '?' and b"),
    ("where a = \u2018secret value", "where a = '?'"),
    ("where a = \u2018x\u2018\u2019\u201c \u2019 and b", "where a = '?' and b"),
    # a quote that touches a word may be an apostrophe
    ("where a = 'O'Secret' and b", "where a = '?'"),
    ("where a = 'l'\xe9t\xe9 secret', b", "where a = '?'"),
    ("where a = 'don't say ''secret'' secret', b", "where a = '?'"),
    ("where a = 'x'and b = 'y'or c", "where a = '?'and b = '?'or c"),
    ("where a = 'x'android secret', b", "where a = '?'"),
    ("where a = $$x$$secret', b", "where a = '?'"),
    # both backslash modes at once
    (r"select 'a\', 'secret' b", "select '?'"),
    (r"select 'a\'secret' , 'b'", "select '?'"),
]

STORMS = {
    "quotes": "'",
    "spaced quotes": "' ",
    "double quotes": '"',
    "broken double quotes": "\"'",
    "dollars": "$",
    "spaced dollars": "$ ",
    "tags": "$a$",
    "half tags": "$a",
    "backslashes": "\\",
    "escaped quotes": "\\'",
    "strings with escapes": "E'\\\\'",
    "continued strings": "E'a'\n",
    "continued by comments": "'a'--\n",
    "open parentheses": "(",
    "rows": "(1),",
    "comments": "/*",
    "closed comments": "/**/",
    "comment ends": "*/",
    "line comments": "--\n",
    "dashes": "- ",
    "numbers": "1 ",
    "junk": "1e",
    "dots": ".",
    "uuids": "deadbeef-e29b-",
    "words": "e ",
    "one word": "e",
    "apostrophes": "'a",
    "apostrophes in strings": "'a'b ",
    "apostrophes and escapes": "E'a'b\\' ",
    "glued keywords": "'a'and",
    "touched dollars": "$$a$$b",
    "typographic quotes": "\u2018a",
    "both kinds": "\u2018\u201d\\'",
    "blanks": " ",
    "newlines": "'\n",
}


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_literals_and_comments_are_replaced_and_names_kept(text: str, expected: str) -> None:
    assert lexer.hide(text) == expected


def test_a_comment_is_replaced_by_a_space_so_that_no_new_token_appears() -> None:
    assert lexer.hide("select -/**/- a, e/**/'b', $/**/$ x") == "select - - a, e '?', $ $ x"


def test_spans_are_ordered_and_do_not_overlap() -> None:
    rng = sql_texts.seeded(4)
    for _ in range(5000):
        text = sql_texts.soup(rng, 14)
        at = 0
        for start, end, _kind in lexer.spans(text):
            assert at <= start < end <= len(text)
            at = end


def test_a_long_text_is_read_as_its_parts_are() -> None:
    """The pattern works in turns of bounded length; where a turn ends must not matter."""
    unit = 'select $1, "a", e, .b, 1, \'x\', $a$y$a$, /*z*/ - / u & x "it\'s" '
    once = lexer.hide(unit)
    assert lexer.hide(unit * 200) == once * 200
    names = '$1 "a" e . b - / u & x $ ' * 500
    assert lexer.hide(names) == names


def _covered(text: str) -> bytearray:
    covered = bytearray(len(text))
    for start, end, _kind in lexer.spans(text):
        covered[start:end] = b"\1" * (end - start)
    return covered


# What a cut may leave: the start of a literal that holds nothing yet, a keyword glued to a number
# (`1and` of `1android`), the blanks before the next piece of a string.
OPENER = re.compile(
    r"(?:[eEbBxX]|[uU]&?|/|-|\.|\$[^\x00-/:-@\[-^`{-\x7f]*|and|FROM|[ \t\n\r\f\v]+)\Z"
)


def test_what_is_hidden_in_a_text_is_hidden_in_every_prefix() -> None:
    rng = sql_texts.seeded(11)
    for _ in range(2000):
        text = sql_texts.soup(rng, 12)
        whole = _covered(text)
        for end in range(len(text)):
            prefix = _covered(text[:end])
            opener = OPENER.search(text[:end])
            shown = [at for at in range(end) if whole[at] and not prefix[at]]
            # Cut off, two readings may agree; cut at a doubled quote, `"a""b..` is a name again.
            if shown and "\\'" not in text and '"' not in text:
                assert opener is not None, text[:end]
                assert shown[0] >= opener.start(), text[:end]


def _whole(text: str, way: Way) -> list[Span]:
    found = Reading([], [])
    scan(text, way, found)
    return lexer._merged(found.spans)


AWKWARD = (
    *(
        "\u2018",
        "\u2019",
        "\u201c",
        "\\'",
        "'a\\'",
        "E'a'",
        "E'a\\'b'",
        "'a' ",
        "'a'\n'b'",
        "'a'--\n'b'",
    ),
    *(
        "'a'b",
        "b'a'",
        "u&'a'",
        "$$a$$",
        "$$a$$b",
        "1 ",
        "1\u2018",
        "a1",
        "a",
        " ",
        "deadbeef-e29b-",
    ),
)


def test_what_is_read_again_in_part_reads_as_if_it_were_read_whole() -> None:
    rng, doubtful = sql_texts.seeded(12), 0
    for number in range(8000):
        atoms = AWKWARD if number % 2 else (*AWKWARD, *sql_texts.ATOMS)
        text = "".join(rng.choices(atoms, k=rng.randrange(1, 16)))
        escapes, curly = "\\'" in text, any(quote in text for quote in "\u2018\u2019\u201c")
        ways = [
            _whole(text, Way(escapes=way[0], curly=way[1], loose=loose))
            for way in {(False, False), (escapes, False), (False, curly), (escapes, curly)}
            for loose in (False, True)
        ]
        first = _whole(text, Way())
        agreed = all(way == first for way in ways)
        every = lexer._union([span for way in ways for span in way])
        assert lexer.readings(text) == (first if agreed else every, agreed), text
        doubtful += not agreed
    assert doubtful > 2000


def _seconds(text: str) -> float:
    best = 1e9
    for _ in range(3):
        started = time.process_time()
        lexer.hide(text)
        best = min(best, time.process_time() - started)
    return best


@pytest.mark.parametrize("unit", STORMS.values(), ids=STORMS.keys())
def test_time_grows_no_faster_than_the_text(unit: str) -> None:
    small = (unit * 16_384)[:16_384]
    large = (unit * 65_536)[:65_536]
    assert _seconds(large) < 12 * max(_seconds(small), 0.001)
