"""The masker as an object: levels, cache, failures, fingerprints, and laws for every text."""

import re
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pg_collector.errors import ConfigurationError
from pg_collector.privacy.mask import TEXT_LIMIT, Masker, Source
from tests.support import sql_texts

BEGINNINGS = (
    *(
        "",
        "select ",
        "(select ",
        "begin; ",
        "set a.b = ",
        "alter role b set x to ",
        "create rule (",
    ),
    *("copy t from stdin csv ", "create subscription s connection ", "create server s options ("),
    *("create user b password ", "copy t from stdin ", "create function f() set a = "),
)
TEXTS = st.builds(
    lambda beginning, parts: beginning + "".join(parts),
    st.sampled_from(BEGINNINGS),
    st.lists(
        st.one_of(
            st.sampled_from((*sql_texts.ATOMS, "\u2018", "\u2019", "\u201c")),
            st.text(st.characters(), max_size=4),
        ),
        max_size=20,
    ),
)
SOURCES = st.sampled_from(("activity", "statements"))
law = settings(max_examples=600, deadline=None, derandomize=True, database=None)

WORD = re.compile("[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]*|\\$[0-9]{1,5}(?![0-9])")


def fresh() -> Masker:
    return Masker(cache_bytes=0)


@law
@given(TEXTS, SOURCES)
def test_masking_twice_changes_nothing(text: str, source: Source) -> None:
    masked = fresh().mask(text, source)
    assert fresh().mask(masked, source) == masked


@law
@given(TEXTS, SOURCES)
def test_nothing_quoted_and_no_number_is_left(text: str, source: Source) -> None:
    bare = WORD.sub("", re.sub('"[^"]*"', "", fresh().mask(text, source)).replace("'?'", ""))
    assert not re.search("['0-9]", bare)


@law
@given(st.text(st.characters(), max_size=200), st.sampled_from(("activity", "statements", "error")))
def test_any_text_is_masked_without_failure(text: str, source: Source) -> None:
    masker = fresh()
    assert isinstance(masker.mask(text, source), str)
    assert masker.failures == {}


@law
@given(st.lists(st.tuples(TEXTS, SOURCES), max_size=8))
def test_the_cache_changes_no_answer(requests: list[tuple[str, Source]]) -> None:
    cached = Masker(cache_bytes=2_000)
    for text, source in requests * 2:
        assert cached.mask(text, source) == fresh().mask(text, source)


STORMS = (
    *("copy from stdin ", "copy ", "from stdin ", "create user ", "password x ", "password '?' "),
    *("set a=b;", "alter set ", "alter a set b.", "set set ", ";", "; ", "end;", "select;", "("),
    *(
        "create function f() set a=b,",
        "(?),",
        "(1),(2) ",
        "'a' ",
        "1,1+",
        "begin atomic case ",
        '"a;"',
    ),
    *("a.", "://", "a://b@", "password=", "DETAIL: x\n", '"', 'column "', "Bearer ", "eyJ", "'"),
    *("'a'b", "'a'and", "$$a$$b ", "options (", "options (key ", "(key '?',", "connection "),
    *("create subscription s connection ", "where \n", "force null a,", "header\n", "= "),
    *("-----BEGIN PRIVATE KEY-----", "password 'a", "\t", "@", "a:", "identified by "),
)


def _seconds(text: str, source: Source) -> Iterator[float]:
    """Yield how long each of three attempts takes; what disturbs one makes it longer only."""
    for _ in range(3):
        masker = Masker(cache_bytes=0, budget_seconds=100)
        started = time.process_time()
        masker.mask(text, source)
        yield time.process_time() - started


@pytest.mark.parametrize("source", ["activity", "statements", "error"])
@pytest.mark.parametrize("unit", STORMS)
def test_time_grows_no_faster_than_the_text(unit: str, source: Source) -> None:
    for beginning in (
        *("", "copy t from stdin ", "alter user x set ", "create function f() "),
        *("create server s options (", "create subscription s connection '?' "),
    ):
        small = (beginning + unit * 16_384)[:16_384]
        large = (beginning + unit * 65_536)[:65_536]
        most = 12 * max(min(_seconds(small, source)), 0.001)
        assert any(taken < most for taken in _seconds(large, source))


@pytest.mark.parametrize(
    "unit", ["\\'='\u201c", "\u2018\\'='", "\u2018\\'='a ", "'a'a\u2018\u2039", "e'"]
)
def test_what_can_be_read_in_many_ways_takes_no_longer_than_other_texts(unit: str) -> None:
    longest = min(_seconds("set a=b;" * 8_192, "statements"))
    text = ("select " + unit * 65_536)[:65_000]
    assert min(_seconds(text, "statements")) < longest
    assert "hunter" not in fresh().mask(f"{text} hunter2", "statements")


def test_only_the_first_64_kib_are_read() -> None:
    masker = fresh()
    assert masker.mask("select '" + "x" * TEXT_LIMIT, "activity") == "select '?'"
    assert len(masker.mask("select " + "a " * TEXT_LIMIT, "activity")) == TEXT_LIMIT


@pytest.mark.parametrize("level", ["Basic", "", "paranoid"])
def test_a_level_that_does_not_exist_is_refused(level: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Masker(level)
    assert refused.value.remedy


class Broken(str):
    """A text that fails when it is read."""

    __slots__ = ()

    def __getitem__(self, _key: object) -> str:
        raise RuntimeError(f"cannot read {str(self)!r}")


def test_a_failure_shows_the_command_only(caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []
    masker = Masker(on_failure=told.append)
    first = masker.mask(Broken("update t set a = 'hunter2'"), "statements")
    second = masker.mask(Broken("hunter2"), "activity")
    assert re.fullmatch("UPDATE <not masked: [0-9a-f]{16}>", first)
    assert re.fullmatch("<unrecognized statement> <not masked: [0-9a-f]{16}>", second)
    assert told == ["exception"] * 2
    assert masker.failures == {"exception": 2}
    assert "hunter2" not in caplog.text
    assert "RuntimeError" in caplog.text


def test_a_text_over_its_budget_shows_the_command_only() -> None:
    masker = Masker(budget_seconds=0)
    assert masker.mask("select 'hunter2'", "activity").startswith("SELECT <not masked: ")
    assert masker.failures == {"budget": 1}


def test_a_failed_texts_hash_cannot_be_guessed_without_the_process() -> None:
    one, other = Masker(budget_seconds=0), Masker(budget_seconds=0)
    text = "select 'hunter2'"
    assert one.mask(text, "activity") == one.mask(text, "activity")
    assert one.mask(text, "activity") != other.mask(text, "activity")


def test_the_cache_keeps_within_its_bytes_and_holds_no_raw_text() -> None:
    masker = Masker(cache_bytes=10_000)
    for number in range(500):
        masker.mask(f"select 'hunter{number}' as a{number}", "activity")
        assert masker.cached_bytes <= 10_000
    assert masker.cached_bytes > 5_000
    held = repr(masker._cache)
    assert "select '?' as a499" in held
    assert "as a0" not in held
    assert "hunter" not in held


def test_the_cache_forgets_what_was_not_asked_for_longest() -> None:
    masker = Masker(cache_bytes=2_000)
    for number in range(50):
        masker.mask("select keep", "activity")
        masker.mask(f"select a{number}", "activity")
    held = list(masker._cache.values())
    assert "select keep" in held
    assert "select a0" not in held


def test_texts_that_are_asked_for_once_are_not_kept() -> None:
    masker = Masker()
    masker.mask("select a", "statements")
    assert masker.cached_bytes == 0


def test_sources_do_not_share_cached_answers() -> None:
    masker = Masker()
    assert masker.mask("va := a", "statements") == "va := a"
    assert masker.mask("va := a", "activity") == "<unrecognized statement>"


def test_threads_share_one_masker() -> None:
    masker, wrong = Masker(cache_bytes=20_000), []

    def work(seed: int) -> None:
        rng = sql_texts.seeded(seed)
        for _ in range(2_000):
            number = rng.randrange(200)
            if masker.mask(f"select 'x' as a{number}", "activity") != f"select '?' as a{number}":
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(n,), name=f"mask-{n}") for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == []
    assert masker.failures == {}
    assert 0 < masker.cached_bytes <= 20_000


def test_fingerprints_are_equal_for_one_shape() -> None:
    masker = fresh()
    shapes = [
        masker.fingerprint(masker.mask(text, "activity"))
        for text in (
            "select a from t where b in (1, 2, 3) and c = 'x'",
            "SELECT a\n  FROM t WHERE b IN (7) AND c = $$y$$ ",
        )
    ]
    assert shapes[0] == shapes[1]
    assert re.fullmatch("[0-9a-f]{16}", shapes[0])
    assert shapes[0] != masker.fingerprint("select a from u")
