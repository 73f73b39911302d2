"""The levels none, full and custom, beside basic: what each shows, and laws for every text."""

import functools
import re
import time

import pytest
from hypothesis import given, settings

from pg_collector.errors import ConfigurationError
from pg_collector.privacy.mask import LEVELS, NOT_SHOWN, Masker, Source
from pg_collector.privacy.names import MOST_PATTERNS, Patterns, Tokens, sql_words
from pg_collector.privacy.pii import Detector
from pg_collector.privacy.segments import TOKEN
from pg_collector.reading import Reader
from tests.support import sql_texts
from tests.unit.test_mask import SOURCES, TEXTS

SECRET = bytes(range(32))
PATTERNS = ("ssn", "credit_card", "re:secret\\w+")
law = settings(max_examples=400, deadline=None, derandomize=True, database=None)


@functools.cache
def at(level: str, *, cache_bytes: int = 0, detector: Detector | None = None) -> Masker:
    return Masker(
        level,
        patterns=PATTERNS if level == "custom" else (),
        secret=SECRET if level == "full" else b"",
        detector=detector,
        cache_bytes=cache_bytes,
    )


FULL = at("full")


def full(text: str, source: Source = "activity") -> str:
    return FULL.mask(text, source)


def _seconds(level: str, text: str) -> float:
    masker, best = at(level), 1e9
    for _ in range(3):
        started = time.process_time()
        masker.mask(text, "statements")
        best = min(best, time.process_time() - started)
    assert masker.failures == {}
    return best


@pytest.mark.parametrize("unit", ["(", "<", "%", '"', 'U&"', '"a"b', "%(a", "u", "$", "a.b "])
@pytest.mark.parametrize("level", ["full", "custom"])
def test_time_grows_no_faster_than_the_text(level: str, unit: str) -> None:
    for end in ("", "<", "a"):
        small = "select " + (unit * 16_384)[:8_192] + end
        large = "select " + (unit * 65_536)[:32_768] + end
        assert _seconds(level, large) < 12 * max(_seconds(level, small), 0.001)


@pytest.mark.parametrize("unit", ["set_config(", "set_config(a,", "set_config(a),"])
def test_time_to_find_credentials_grows_no_faster_than_the_text(unit: str) -> None:
    small, large = (("select " + unit * length)[:length] for length in (16_384, 65_536))
    assert _seconds("none", large) < 12 * max(_seconds("none", small), 0.001)


# Level full.


def test_names_become_tokens_and_words_of_postgresql_stay() -> None:
    text = (
        'SELECT u.id, u."Email", count(*), lower(name)::text FROM public.users AS u'
        " WHERE u.email = 'bob@x.com' AND u.age > 17 AND u.id = $1 AND note = %s"
    )
    masked = full(text)
    assert not re.search("users|email|note|bob|17", TOKEN.sub("", masked), re.IGNORECASE)
    kept = ("SELECT", "count(*)", "lower(name)::text", "public", "AS", "'?'", "$1", "%s")
    assert [word for word in kept if word not in masked] == []


def test_a_name_has_one_token_wherever_it_stands() -> None:
    token = FULL.name("orders")
    assert TOKEN.fullmatch(token)
    for text in ("table orders", "table Orders", 'table "orders"', "table ORDERS"):
        assert full(text) == f"table {token}"
    assert full('table "Orders"') == f"table {FULL.name('Orders')}" != f"table {token}"
    assert FULL.free("orders") == token
    assert FULL.label('shop."orders"') == f"{FULL.name('shop')}.{token}"


def test_names_that_touch_stay_apart() -> None:
    one, other = FULL.name("one"), FULL.name("other")
    assert full('table one"other"') == f'table {one}"{other}"'
    assert full('table "one"other') == f'table "{one}"{other}'


def test_tokens_depend_on_the_secret() -> None:
    other = Masker("full", secret=bytes(32))
    assert other.name("orders") != FULL.name("orders")
    with pytest.raises(ValueError, match="a secret of 5 bytes"):
        Tokens(b"short")


@pytest.mark.parametrize(
    "text",
    [
        "<insufficient privilege>",
        "<unrecognized statement>",
        "autovacuum: VACUUM pg_catalog.pg_class (to prevent wraparound)",
        "SET work_mem = '?'",
        "select pg_sleep($1)",
        "select * from pg_toast.pg_toast_16384",
        "BEGIN",
    ],
)
def test_what_says_nothing_of_the_user_stays(text: str) -> None:
    assert full(text) == text


def test_places_of_parameters_keep_their_form_and_lose_their_names() -> None:
    token = FULL.name("customer_ssn")
    masked = full("select %(customer_ssn)s, %s, :customer_ssn")
    assert masked == f"select %({token})s, %s, :{token}"
    assert full("select 5 %salary") == f"select ? %{FULL.name('salary')}"
    assert at("custom").mask("select %(customer_ssn)s", "statements") == "select %(?)s"


def test_messages_are_not_shown_at_level_full() -> None:
    assert FULL.message("permission denied for table orders") == NOT_SHOWN
    assert full("permission denied for table orders", "error") == NOT_SHOWN


def test_a_text_of_ours_keeps_all_but_the_names() -> None:
    said = 'In the database "shop": GRANT pg_monitor TO bob; ask bobby'
    shop, bob = FULL.name("shop"), FULL.name("bob")
    assert FULL.mentioned(said, ("bob", "shop")) == (
        f'In the database "{shop}": GRANT pg_monitor TO {bob}; ask bobby'
    )
    for name in ('my"role', "back\\slash", "z\u200bero"):
        quoted = name.replace('"', '""')
        token = FULL.name(name)
        masked = FULL.mentioned(f'GRANT x TO "{quoted}"; the database {name!r}', (name,))
        assert masked == f'GRANT x TO "{token}"; the database {token!r}'


@law
@given(TEXTS, SOURCES)
def test_full_shows_no_more_than_basic(text: str, source: Source) -> None:
    shown = at("basic").mask(text, source).lower()
    for word in re.findall(r"\w+", TOKEN.sub(" ", full(text, source).lower())):
        assert word in shown


# Level custom.


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        ("ssn", True),
        ("customer_ssn", True),
        ("customerSSN", True),
        ("SSN2", True),
        ("assn", False),
        ("credit_card_no", True),
        ("CreditCard", True),
        ("credit", False),
        ("my_secret_thing", True),
        ("secret", False),
    ],
)
def test_patterns(name: str, *, hidden: bool) -> None:
    masker = at("custom")
    assert (masker.name(name) == "?") is hidden
    masked = masker.mask(f'select "{name}" from t', "statements")
    assert (name not in masked) is hidden


def test_custom_hides_in_sql_names_and_messages() -> None:
    masker = at("custom")
    assert masker.mask("select ssn, id from t where ssn = '1'", "statements") == (
        """select "?", id from t where "?" = '?'"""
    )
    assert "ssn" not in masker.message('column "ssn" does not exist')
    assert masker.free("load of ssn") == "?"


@pytest.mark.parametrize(
    ("pattern", "complaint"),
    [
        ("re:[", "no regular expression"),
        ("re:a*", "matches where nothing is"),
        ("re:(a+)+$", "takes too long"),
        ("re:(a|a)*b", "takes too long"),
        (r"re:(\w+\s?)+;", "takes too long"),
        ("re:.*.*.*x", "takes too long"),
        ("re:" + "a" * 300, "300 characters"),
        ("!?", "no letter and no digit"),
    ],
)
def test_bad_patterns(pattern: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint) as refused:
        Patterns([pattern], tried=False)
    assert refused.value.remedy


def test_a_pattern_that_was_tried_is_not_tried_again() -> None:
    assert Patterns(["re:(a+)+$"]).of("b") == "b"


def test_too_many_patterns() -> None:
    with pytest.raises(ConfigurationError, match="51 masking patterns"):
        Patterns(["a"] * (MOST_PATTERNS + 1))


@law
@given(TEXTS, SOURCES)
def test_custom_shows_no_more_than_basic(text: str, source: Source) -> None:
    shown = re.findall(r"\w+", at("basic").mask(text, source))
    masked = re.findall(r"\w+", at("custom").mask(text, source))
    assert set(masked) <= set(shown)


# Level none.


@pytest.mark.parametrize(
    "text",
    [
        "select * from t where a = 'x' and b = 12 -- a comment",
        "update t set note = $$it's$$, n = 0x1f",
        "set search_path = 'shop', public",
        "what somebody typed at a prompt",
    ],
)
def test_none_shows_texts_as_they_are(text: str) -> None:
    assert at("none").mask(text, "activity") == text


@pytest.mark.parametrize(
    "text",
    [
        "alter role bob password 'hunter2' valid until '2030-01-01'",
        "create user bob password hunter2",
        'alter user bob with encrypted password "hunter2"',
        "create user mapping for b server s options (user 'u', password 'hunter2')",
        "create subscription s connection 'host=a password=hunter2' publication p",
        "alter system set primary_conninfo = 'host=x password=hunter2'",
        "select dblink('host=x password=hunter2 user=b')",
        "select 'postgres://bob:hunter2@db/shop'",
        "set shop.api_token = 'hunter2'; select 1",
        "select 'it''s', E'a\\'b'; alter role bob password 'hunter2'",
        "select 'don't', 1; alter role bob password 'hunter2'",
        "-- Authorization: Bearer hunter2hunter2",
        "do $$ begin execute 'alter role bob password ''hunter2'''; end $$",
        "do $$ begin execute $q$alter role bob password E'hunter2'$q$; end $$",
        "do $$ begin perform dblink('host=h password=''hunter2'''); end $$",
        "do $$ begin execute 'create user mapping for b server s options (user ''u'', password"
        " ''hunter2'')'; end $$",
        "create function f() returns int set app.encryption_key to 'hunter2' as 'select 1'",
        "select set_config('app.api_key', 'hunter2', false)",
        "select set_config($1, 'hunter2', false)",
        "select set_config('a', concat(b, (c)) || 'hunter2', false)",
        "select pg_catalog.\"set_config\"(a, 'hunter2', false)",
    ],
)
def test_none_shows_no_credential(text: str) -> None:
    for end in range(len(text) + 1):
        masked = at("none").mask(text[:end], "activity")
        assert "hunter" not in masked, text[:end]


def test_none_shows_the_command_of_a_utility_text_all_the_same() -> None:
    reader = Reader(at("none"), drop_utility_text=True)
    texts = (
        "/* app:x */ create table secret_plan as select 'hunter2'",
        "-- c\ndo $$ begin perform 'hunter2'; end $$",
        "alter table t alter c set default 'hunter2'",
        "select 'kept'",
    )
    *commands, kept = (reader._shown("statements", text) for text in texts)
    assert [re.sub("<.*>", "<>", one) for one in commands] == ["CREATE <>", "DO <>", "ALTER <>"]
    assert kept == "select 'kept'"
    # A hash of what is not masked could be guessed.
    other = reader._shown("statements", "alter table t alter c set default 'hunter3'")
    assert other == commands[2]


def test_none_keeps_what_stands_around_a_credential() -> None:
    text = "select 'kept', 5; alter role bob password 'hunter2' valid until 'kept too'; select 6"
    masked = at("none").mask(text, "statements")
    assert masked.startswith("select 'kept', 5; alter role bob password ")
    assert masked.endswith(" valid until 'kept too'; select 6")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("CREATE SUBSCRIPTION s CONNECTION 'hunter2' PUBLICATION p", "PUBLICATION p"),
        ("Alter Server s Options (host 'h', set my_key 'hunter2')", "host 'h'"),
        ("Alter Server s Options (host 'h', my_pwd hunter2)", "host 'h'"),
        ("SET my.token TO hunter2; select 'kept'", "; select 'kept'"),
        ("create user bob identified by 'hunter2' in group g", "in group g"),
    ],
)
def test_none_masks_by_the_place_as_well(text: str, kept: str) -> None:
    masked = at("none").mask(text, "statements")
    assert "hunter2" not in masked
    assert kept in masked


# All levels.


@pytest.mark.parametrize("level", ["full", "custom"])
@pytest.mark.parametrize("mode", ["standard", "escapes"])
def test_no_secret_survives(level: str, mode: sql_texts.Mode) -> None:
    masker, rng = at(level), sql_texts.seeded(11)
    for text in sql_texts.texts(11, 4_000, mode=mode):
        sql = sql_texts.cut(rng, text.sql)
        masked = TOKEN.sub("", masker.mask(sql, "activity"))
        assert not sql_texts.LEAK.search(masked), sql


@pytest.mark.parametrize("level", ["basic", "full", "custom"])
def test_masking_twice_changes_nothing(level: str) -> None:
    @law
    @given(TEXTS, SOURCES)
    def twice(text: str, source: Source) -> None:
        masked = at(level).mask(text, source)
        assert at(level).mask(masked, source) == masked

    twice()


@pytest.mark.parametrize("level", LEVELS)
def test_any_text_is_masked_and_the_cache_changes_no_answer(level: str) -> None:
    detector = Detector("full")
    cached = at(level, cache_bytes=1 << 20, detector=detector)

    @law
    @given(TEXTS, SOURCES)
    def same(text: str, source: Source) -> None:
        wanted = at(level, detector=detector).mask(text, source)
        assert cached.mask(text, source) == wanted == cached.mask(text, source)

    same()
    assert cached.failures == {}


@pytest.mark.parametrize("level", LEVELS)
def test_personal_data_is_looked_for_in_what_is_left(level: str) -> None:
    masker = at(level, detector=Detector("full"))
    masked = masker.mask("select a from t where email = bob@x.com", "statements")
    assert "bob" not in masked
    assert "bob" not in masker.name("bob@x.com")
    assert "bob" not in masker.free("psql of bob@x.com, password=hunter2")
    assert "hunter2" not in masker.free("psql of bob@x.com, password=hunter2")


def test_postgresql_s_words_hold_none_of_a_user() -> None:
    words = sql_words()
    assert {"select", "pg_class", "int4", "lower", "work_mem", "ctid"} <= words
    assert not words & {"users", "orders", "customer", "email", "salary"}
