"""The pictures of docs/tour.md are those that its program takes."""

import re

from tests.docs.captures import PAGE, TEXT

# What must be in each picture, so that a run that went wrong is not shown.
SHOWS = {
    "demo": ("PG Collector watches PostgreSQL", "platform away", "statements"),
    "top": ("$ pgc top --once", "Statements  by time", "a Activity by wait"),
    "status": ("$ pgc status", "activity      ok", "can hold"),
    "check": ("$ pgc check", "login    ok", "samplers ok"),
}


def test_the_page_is_made_by_its_program() -> None:
    pieces = re.split(r"\{(\w+)\}", TEXT)
    pattern = "".join(
        f"(?P<{piece}>.+?)" if i % 2 else re.escape(piece) for i, piece in enumerate(pieces)
    )
    found = re.fullmatch(pattern, PAGE.read_text(), re.DOTALL)
    assert found is not None, "make it anew: make captures"
    assert found.groupdict().keys() == SHOWS.keys()
    for name, words in SHOWS.items():
        for word in words:
            assert word in found[name], (name, word)
