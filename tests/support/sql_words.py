"""Writes pg_collector/privacy/sql_words.txt: PostgreSQL's own words, which are nobody's secret.

Run: python -m tests.support.sql_words (needs the lab)
"""

from collections.abc import Iterable
from importlib.resources import files

import psycopg

from tests.support.lab.home import majors
from tests.support.lab.server import Server

FILE = files("pg_collector.privacy") / "sql_words.txt"

KEYWORDS = "select word from pg_get_keywords()"
NAMES = """
select proname from pg_proc where pronamespace = 'pg_catalog'::regnamespace
union select typname from pg_type where typnamespace = 'pg_catalog'::regnamespace
  and typname !~ '^_'
union select relname from pg_class c where relkind in ('r', 'v') and relnamespace in
  ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
union select attname from pg_attribute where attrelid = 'pg_class'::regclass and attnum < 0
union select split_part(name, '.', 1) from pg_settings
union select lanname from pg_language
union select amname from pg_am
union values ('pg_catalog'), ('information_schema'), ('pg_toast')"""
# What the grammar or the parser knows, and no catalog does: types by other names, roles and rows
# that rules and triggers have, words of the replication protocol and of maintenance.
MORE = frozenset(
    """
    autovacuum bigserial excluded postgres prevent public serial serial2 serial4 serial8 smallserial
    summarize template0 template1 wraparound
    base_backup create_replication_slot drop_replication_slot identify_system logical physical
    proto_version publication_names read_replication_slot slot start_replication timeline
    timeline_history upload_manifest alter_replication_slot two_phase
    """.split()  # noqa: SIM905 - a list of words reads best as words
)


def words(session: psycopg.Connection[tuple[str]], sql: str) -> set[str]:
    """Return what a server calls its own, in lower case."""
    return {str(word).lower() for (word,) in session.execute(sql)}


def text(keywords: Iterable[str], names: Iterable[str]) -> str:
    """Return the file: keywords, an empty line, names."""
    keys = set(keywords)
    return "\n".join([*sorted(keys), "", *sorted({*names, *MORE} - keys), ""])


def main() -> None:
    """Ask a server of every version."""
    keywords: set[str] = set()
    names: set[str] = set()
    for major in majors():
        with Server(major) as server, server.connect("postgres") as session:
            keywords |= words(session, KEYWORDS)
            names |= words(session, NAMES)
    with open(str(FILE), "w", encoding="ascii") as file:  # noqa: PTH123 - a resource has no Path
        file.write(text(keywords, names))


if __name__ == "__main__":
    main()
