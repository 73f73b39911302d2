"""No piece of a secret survives masking, wherever it stands and wherever the text is cut."""

import pytest

from pg_collector.privacy.mask import Masker
from tests.support import sql_texts

SEEDS = 20
PER_SEED = 30_000  # times two modes: 1.2 million texts


def leaks(masker: Masker, seed: int, count: int, *, mode: sql_texts.Mode) -> list[tuple[str, str]]:
    """Return texts that leaked, with their masked form; half are masked as activity."""
    rng = sql_texts.seeded(seed)
    found = []
    for text in sql_texts.texts(seed, count, mode=mode):
        sql = sql_texts.cut(rng, text.sql)
        masked = masker.mask(sql, "activity" if text.typed or rng.random() < 0.5 else "statements")
        if sql_texts.LEAK.search(masked):
            found.append((sql, masked))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["standard", "escapes"])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_secret_survives_in_any_prefix_of_any_statement(seed: int, mode: sql_texts.Mode) -> None:
    masker = Masker(cache_bytes=0)
    assert leaks(masker, seed, PER_SEED, mode=mode)[:5] == []
    assert masker.failures == {}


@pytest.mark.parametrize("mode", ["standard", "escapes"])
def test_every_cut_of_a_statement_is_as_safe_as_the_whole(mode: sql_texts.Mode) -> None:
    masker = Masker(cache_bytes=0)
    for text in sql_texts.texts(77, 150, mode=mode):
        for end in range(len(text.sql) + 1):
            masked = masker.mask(text.sql[:end], "activity")
            assert not sql_texts.LEAK.search(masked), text.sql[:end]


def test_the_secrets_are_visible_before_masking() -> None:
    shown = [bool(sql_texts.LEAK.search(t.sql)) for t in sql_texts.texts(5, 2000, mode="standard")]
    assert sum(shown) > 1900


def test_the_templates_alone_look_like_no_secret() -> None:
    templates = (*sql_texts.STATEMENTS, *sql_texts.EXPRESSIONS, *sql_texts.TYPED)
    assert [t for t in templates if sql_texts.LEAK.search(t)] == []
