"""The guides: what can be told of their commands, files and SQL without following them.

tests/packaging/test_guides.py follows them.
"""

import itertools
import json
import os
import plistlib
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import yaml

from pg_collector import samplers
from pg_collector.cli.options import _complaint as complaint
from pg_collector.config.load import load
from pg_collector.pg.role import AUTHENTICATION, script
from tests.docs.guides import GUIDES, Block, blocks, matches
from tests.docs.markdown import ROOT, links
from tests.support.lab.server import Server

BLOCKS = [block for page in GUIDES for block in blocks(page)]
SHELL = [block for block in BLOCKS if block.language == "sh"]
PAGES = pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)


def test_the_readme_leads_to_every_guide():
    led = {(ROOT / target).resolve() for _, target in links(ROOT / "README.md")}
    assert set(GUIDES) <= led


def test_every_block_is_of_a_kind_that_is_looked_at():
    assert {block.language for block in BLOCKS} == {"sh", "yaml", "json", "xml"}
    for block in BLOCKS:
        assert not (block.values and (block.reason or block.prints)), block.place
    for block in SHELL:
        assert block.within == 0 or block.prints, block.place


@PAGES
def test_every_step_shows_what_is_printed_when_all_is_well(page: Path):
    text = page.read_text()
    starts = [one.start() for one in re.finditer(r"^## \d", text, re.MULTILINE)]
    lines = [text.count("\n", 0, start) for start in starts]
    for begin, end in itertools.pairwise([*lines, text.count("\n") + 1]):
        step = [one for one in SHELL if one.place.page == page and begin < one.place.line <= end]
        done = [one for one in step if not one.values]
        assert not done or any(one.prints for one in done), f"{page.name}:{begin + 1}"


@PAGES
def test_the_shell_understands_every_block(page: Path):
    text = "\n".join(block.text for block in SHELL if block.place.page == page)
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=True)
    assert not done.stderr


@PAGES
def test_every_configuration_in_it_is_valid(page: Path, tmp_path: Path):
    known = samplers.discover()
    for place, text in _configurations(page):
        file = tmp_path / "config.yaml"
        file.write_text(_with_files(text, tmp_path))
        file.chmod(0o600)
        try:
            load(file, environ={}, samplers=known, check_conn_string=complaint)
        except Exception as error:
            raise AssertionError(f"{place}: {error}") from error


@PAGES
def test_other_documents_in_it_can_be_read(page: Path):
    for block in blocks(page):
        if block.language == "json":
            json.loads(block.text)
        elif block.language == "yaml":
            list(yaml.safe_load_all(block.text))
        elif block.language == "xml":
            plistlib.loads(block.text.encode())
        for command, content in block.documents():
            if ".json" in command:
                json.loads(content)


@PAGES
def test_what_it_names_in_the_checkout_is_there(page: Path):
    for path in re.findall(r"\bpackaging/[\w./-]+\w", page.read_text()):
        assert (ROOT / path).exists(), path


def test_every_statement_in_the_guides_is_sound(newest_server: Server):
    """Each is run as an administrator of a cloud has it: no superuser, with what clouds lay out."""
    found = [statement for block in SHELL for statement in _sql(block)]
    assert len(found) > 10
    with newest_server.connect() as session, session.transaction(force_rollback=True):
        session.execute(
            """
            CREATE ROLE rds_iam;
            CREATE ROLE master LOGIN CREATEROLE;
            GRANT pg_monitor, rds_iam TO master WITH ADMIN OPTION;
            CREATE FUNCTION pgaadauth_create_principal(name text, boolean, boolean) RETURNS text
            LANGUAGE plpgsql AS $$ BEGIN EXECUTE format('CREATE ROLE %I LOGIN', name);
            RETURN name; END $$;
            SET SESSION AUTHORIZATION master;
            """
        )
        for auth in AUTHENTICATION:
            session.execute("\n".join(script(f"by_{auth}", auth, 2, ["postgres"])).encode())
            session.execute("\n".join(script(f"by_{auth}", auth, 4, ["postgres"])).encode())
        limits = session.execute("SELECT rolconnlimit FROM pg_roles WHERE rolname LIKE 'by_%'")
        assert {limit for (limit,) in limits} == {4}
        session.execute("RESET SESSION AUTHORIZATION")
        for place, statement in found:
            try:
                with session.transaction():
                    session.execute(statement.encode())
            except psycopg.errors.ActiveSqlTransaction:  # such as ALTER SYSTEM: it was understood
                continue
            except psycopg.Error as error:
                raise AssertionError(f"{place}: {statement}: {error}") from error


def test_a_role_that_may_too_much_is_cut_back(newest_server: Server):
    with newest_server.connect() as session, session.transaction(force_rollback=True):
        session.execute("CREATE ROLE strong LOGIN SUPERUSER CREATEDB")
        session.execute("\n".join(script("strong", "peer", 2, ["postgres"])).encode())
        told = session.execute(
            "SELECT rolsuper, rolcreatedb, rolconnlimit FROM pg_roles WHERE rolname = 'strong'"
        )
        assert told.fetchone() == (False, False, 2)


@pytest.mark.parametrize(
    ("printed", "expected", "well"),
    [
        ("a\nb\nc\n", "a\n…\nc\n", True),
        ("a\nc\n", "a\n…\nc\n", True),
        ("login ok role x\n", "login ok … x\n", True),
        ("a\nb\n", "a\n", False),
        ("a\n", "a\nb\n", False),
        ("(a)\n", "(a)", True),
    ],
)
def test_what_is_printed_is_compared_with_what_the_guide_shows(
    printed: str, expected: str, *, well: bool
):
    assert matches(printed, expected) is well


def _configurations(page: Path) -> Iterator[tuple[object, str]]:
    """Yield every configuration of the agent in a guide, with the values that the guide has."""
    values: dict[str, str] = {}
    for block in blocks(page):
        if block.language == "sh":
            values |= _assigned(block.text, values)
            for command, content in block.documents():
                if "config.yaml" in command:
                    quoted = "<<'" in block.text
                    yield block.place, content if quoted else _filled(content, values)
        elif block.language == "yaml" and "databases:" in block.text:
            yield block.place, block.text


def _assigned(text: str, values: dict[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in re.findall(r"^(?:export )?([A-Z_]+)=(\S+|\".*?\")", text, re.MULTILINE):
        found[name] = _filled(value.strip('"'), {**values, **found})
    return found


def _filled(text: str, values: dict[str, str]) -> str:
    return re.sub(r"\$\{?([A-Z_]+)[^}\s]*\}|\$([A-Z_]+)", lambda one: _value(one, values), text)


def _value(found: re.Match[str], values: dict[str, str]) -> str:
    return values[found[1] or found[2]].removesuffix(".gserviceaccount.com")


def _with_files(text: str, place: Path) -> str:
    """Return a configuration whose files are there: those that it names, below `place`."""
    for path in re.findall(r"_file: (/\S+)", text):
        there = place / path.lstrip("/")
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_bytes(_authorities() if "ca_file: " + path in text else b"secret\n")
        there.chmod(0o600)
        text = text.replace(f": {path}", f": {there}")
    return text


def _authorities() -> bytes:
    return Path(os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")).read_bytes()


def _sql(block: Block) -> Iterator[tuple[object, str]]:
    """Yield the statements that a block has psql run."""
    for command, content in block.documents():
        if "psql" in command:
            yield block.place, content
    for line in block.text.splitlines():
        words = shlex.split(line, comments=True) if "psql" in line and "<<" not in line else []
        for option, statement in itertools.pairwise(words):
            if re.fullmatch(r"-\w*c", option) and not statement.startswith("\\"):
                yield block.place, statement.replace("$DB_USER", "pgcollector")
