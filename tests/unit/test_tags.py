"""Tags of sqlcommenter comments: what is taken from a text, and what never is."""

import time
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pg_collector.privacy.mask import Masker
from pg_collector.privacy.pii import Detector
from pg_collector.privacy.tags import LONGEST, Tags
from tests.support import sql_texts

KEYS = ("route", "action", "traceparent", "a key", "k'ey")
TRACE = "00-5bd66ef5095369c7b0d1f8f4bd33716a-c532cb4098ac3dd2-01"
SECRET = bytes(range(32))
law = settings(max_examples=600, deadline=None, derandomize=True, database=None)

# What PostgreSQL's wire and files can hold; `/` and `*` of a value must not end its comment.
VALUES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)


def written(pairs: dict[str, str], safe: str = "") -> str:
    """Return a comment as the specification has it written."""

    def encoded(text: str) -> str:
        return quote(text, safe=f"{safe}'").replace("'", "\\'")

    ordered = sorted((encoded(key), encoded(value)) for key, value in pairs.items())
    return "/*" + ",".join(f"{key}='{value}'" for key, value in ordered) + "*/"


def tags(text: str, *keys: str) -> dict[str, str]:
    return Tags(keys or KEYS).of(text)


def test_the_comment_of_the_specification_is_read():
    text = (
        "SELECT * FROM FOO /*action='%2Fparam*d',controller='index',framework='spring',\n"
        f"traceparent='{TRACE}',tracestate='congo%3Dt61rcWkgMzE%2Crojo%3D00f067aa0ba902b7'*/"
    )
    keys = ("traceparent", "action", "tracestate", "missing", "action")
    assert tags(text, *keys) == {
        "traceparent": TRACE,
        "action": "/param*d",
        "tracestate": "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7",
    }
    assert tags(r"select 1 /*name='DROP%20TABLE%20USERS\''*/", "name") == {
        "name": "DROP TABLE USERS'"
    }
    assert tags("select 1 /*route='%%2Fpolls'*/") == {"route": "/polls"}, "a driver doubled it"


@pytest.mark.parametrize(
    "text",
    [
        *("select 1 /*route='a'*/;", "select 1 /*route='a'*/ ; \n", "select 1/*route='a'*/"),
        *("/*route='a'*/ select 1", " \n/*route='a'*/select 1", "/*route='a'*/"),
        *("/* x */ select 1 /*route='a'*/", "/* x *//*route='a'*/ select 1 /*route='a'*/"),
        *("/*route='a'*/ select 1 /* x */", "select 1 /* x *//*route='a'*/"),
        *("select 'it''s' /* route='b' */, 2 /* route='a' */", "/*route='a'*/ select 1 -- x"),
        *("select '/*route=''b''*/' /*route='a'*/", "select $$/*$$ /*route='a'*/"),
        *("/*route='a'*/--x\nselect 1", "hunter2 /*route='a'*/", "select E'\\'' /*route='a'*/"),
    ],
)
def test_it_stands_at_the_start_or_the_end(text: str):
    assert tags(text) == {"route": "a"}


@pytest.mark.parametrize(
    "text",
    [
        # cut off, or nested
        *("select 1 /*route='a'*", "select 1 /*route='a'", "select 1 /*route='", "/*route='a'"),
        *("select 1 /* x /*route='a'*/", "select 1 /* /*route='a'*/ */", "/*route='a/*b'*/"),
        # no comment, or in the middle
        *("select '/*route='a'*/", "select 'x /*route='a'*/", 'select "/*route=\'a\'*/'),
        *("select $$/*route='a'*/", "select 1 -- /*route='a'*/", "--/*route='a'*/\nselect 1"),
        *("select 1 /* x */-- /*route='a'*/", "select 1 /*route='a'*/ + 1"),
        *("select E'\\'/*route='a'*/", "select '\\'' /*route='a'*/, '\\' /*route='a'*/"),
        # malformed
        *("select 1 /*route=a*/", "select 1 /*route:'a'*/", "select 1 /*route= 'a'*/", "/**/"),
        *("select 1 /*route='a',*/", "select 1 /*,route='a'*/", "/*/"),
        "select 1 /*route='a' action='b'*/",
        *("select 1 /*route='a''b'*/", r"select 1 /*route='a\'*/", r"select 1 /*route='a\b'*/"),
        *("select 1 /*route='%'*/", "select 1 /*route='%2'*/", "select 1 /*route='%zz'*/"),
        *("select 1 /*route='%ff'*/", "select 1 /*='a',route='b'*/", "select 1 /*route='a',x*/"),
        *("select 1 /*route='a';action='b'*/", "select 1 /*x y='1',route='a'*/"),
        # twice, or what cannot be printed
        *("select 1 /*route='a',route='a'*/", "/*route='a'*/ select 1 /*route='b'*/"),
        *("select 1 /*route=''*/", "select 1 /*route='%0a'*/", "select 1 /*route='a%00'*/"),
        *("select 1 /*route='%1b[31m'*/", "select 1 /*route='%E2%80%AE'*/", "/*route='a\x85'*/"),
        *("select 1 /*r%6futé='a'*/", "select 1 /*ROUTE='a'*/", "select 1 /*xroute='a'*/"),
    ],
)  # fmt: skip
def test_nothing_else_gives_tags(text: str):
    assert tags(text) == {}
    assert tags("select 1 /*route='a'*/", "action") == {}
    assert Tags(()).of("select 1 /*route='a'*/") == {}


def test_of_a_comment_with_one_bad_value_the_others_stay():
    assert tags("select 1 /*action='%0a',route='a',traceparent='1',traceparent='2'*/") == {
        "route": "a"
    }


@law
@given(
    st.dictionaries(st.sampled_from(KEYS), VALUES),
    st.sampled_from(["", "/"]),
    st.sampled_from(["first", "last"]),
)
def test_what_was_written_is_read_and_the_sql_stays(
    pairs: dict[str, str], safe: str, place: str
) -> None:
    comment = written(pairs | {"other": "hidden"}, safe)
    sql = "select 'it''s', E'\\'' from \"/*\" where b = $$*/$$"
    text = f"{comment} {sql}" if place == "first" else f"{sql} {comment}"
    whole = comment.count("/*") == 1 and comment.count("*/") == 1
    expected = {key: value for key, value in pairs.items() if value and value.isprintable()}
    assert tags(text) == (expected if whole else {})
    if whole:
        assert Tags(KEYS).without(text) == sql
        assert Tags(()).without(text) == text


@law
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1), st.data())
def test_a_text_that_is_cut_off_gives_all_or_nothing(
    pairs: dict[str, str], data: st.DataObject
) -> None:
    text = f"select a from t where b = 'x' {written(pairs)}"
    cut = text[: data.draw(st.integers(0, len(text)))]
    assert tags(cut) in ({}, tags(text))
    assert cut == text or not tags(cut)


PARTS = st.one_of(
    st.sampled_from(sql_texts.ATOMS),
    st.sampled_from(
        ("/*", "*/", "='", "'", ",", "route", "route='a'", "/*route='a'*/", "%", "%2F", "\\'", "%%")
    ),
    st.text(max_size=4),
)


@law
@given(st.lists(PARTS, max_size=24).map("".join), st.lists(st.text(max_size=5), max_size=4))
def test_any_text_gives_listed_keys_only_and_nothing_raises(text: str, keys: list[str]) -> None:
    for wanted in (keys, ["route"]):
        found = Tags(wanted).of(text)
        assert found.keys() <= set(wanted)
        assert all(value and value.isprintable() for value in found.values())
        assert isinstance(Tags(wanted).without(text), str)
    masker = Masker(keep_tags=["route"])
    masker.tags(text)
    assert masker.failures == {}


@law
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1))
@pytest.mark.parametrize("level", ["none", "basic", "full", "custom"])
def test_no_comment_that_gives_tags_stays_in_the_sql(level: str, pairs: dict[str, str]) -> None:
    masker = at(level)
    text = f"select 1 {written(pairs | {'canary': 'qzxq'})}"
    if masker.tags(text):
        for source in ("activity", "statements"):
            masked = masker.mask(text, source)
            assert masked.split() == (["select", "1"] if level == "none" else ["select", "?"])


def at(level: str) -> Masker:
    patterns = ["ssn"] if level == "custom" else []
    detector = Detector("full")
    return Masker(level, patterns=patterns, secret=SECRET, detector=detector, keep_tags=KEYS)


def of(masker: Masker, value: str) -> str:
    found = masker.tags(f"select 1 /*route='{quote(value)}'*/")
    assert found is not None
    return found["route"]


def test_values_are_looked_through_for_personal_data_and_credentials_and_cut():
    for level in ("none", "basic", "custom"):
        masker = at(level)
        assert of(masker, "edit bob@example.com") == "edit <email>"
        assert of(masker, "token=hunter2-hunter2") == "token=?"
        assert of(masker, "a" * 1_000) == "a" * LONGEST
        long = "a" * (LONGEST - 4) + " 4111 1111 1111 1111"
        assert "4111" not in of(masker, long), "what is cut was looked through whole"
        assert of(masker, TRACE) == TRACE


def test_a_value_is_hidden_by_a_pattern_and_a_token_at_full():
    assert of(at("custom"), "/customers/ssn/edit") == "?"
    assert of(at("custom"), "/customers/edit") == "/customers/edit"
    full = at("full")
    assert of(full, "/customers/edit") == full.name("/customers/edit")
    assert of(full, "/customers/edit").startswith("i_")
    assert of(full, TRACE) == TRACE
    assert of(full, f"{TRACE}0") != f"{TRACE}0"


def test_without_keys_there_are_no_tags():
    assert not Masker().keeps_tags
    assert Masker().tags("select 1 /*route='a'*/") is None
    assert at("basic").tags("select 1") is None


def _seconds(text: str) -> float:
    best = 1e9
    for _ in range(3):
        started = time.process_time()
        Tags(["route"]).of(text)
        Tags(["route"]).without(text)
        best = min(best, time.process_time() - started)
    return best


@pytest.mark.parametrize(
    "unit",
    [
        *("/*", "*/", "/**/", "/* */", "/*='", "route='a',", "a='", "\\'", "%", "%2F", "%%", " "),
        *("='a'", "--\n", "--", "/*route='a'*/", "'", ";", ",", "a", "\\", "é", "/*/", "*"),
    ],
)
def test_time_grows_no_faster_than_the_text(unit: str):
    for head, tail in (("", ""), ("/*", "*/"), ("/*route='", "'*/"), ("select 1 /*", "='a'*/")):
        small = f"{head}{(unit * 16_384)[:16_384]}{tail}"
        large = f"{head}{(unit * 65_536)[:65_536]}{tail}"
        assert _seconds(large) < 12 * max(_seconds(small), 0.001)
