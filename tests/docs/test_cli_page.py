"""The reference of the commands is what the commands say."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pg_collector.cli import manual
from pg_collector.cli.verbs import VERBS
from tests.conftest import missing

ROOT = Path(__file__).parents[2]
PAGES = manual.man_pages()


def test_the_commands_page_is_current() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    remedy = "make it anew: python -m pg_collector.cli.manual markdown > docs/cli.md"
    assert page == manual.as_markdown(), remedy


def test_every_verb_has_a_page_and_the_exit_codes_are_those_of_the_readme() -> None:
    assert {f"pgc-{name}.1" for name in VERBS} < PAGES.keys()
    readme = (ROOT / "README.md").read_text()
    (told,) = re.findall(r"Exit codes: (.*?)\.\n\n", readme, re.DOTALL)
    codes = re.findall(r"(?:^|; )(\d+) ", " ".join(told.split()))
    assert codes == [code for code, _ in manual.EXIT_CODES]


@pytest.mark.parametrize("one", manual.verbs(), ids=lambda one: one.words)
def test_every_option_says_what_it_is_for(one: manual.Verb) -> None:
    assert one.text, f"{one.words} has no help"
    for name, meaning in (*one.arguments, *one.options):
        assert meaning.strip(), f"{one.words} {name}"
        assert "<" not in name, f"{one.words} {name}: give it a metavar"


@pytest.mark.parametrize("name", PAGES)
def test_a_manual_page_is_good_roff(name: str, tmp_path: Path) -> None:
    groff = shutil.which("groff")
    if groff is None:
        missing("groff")
    page = tmp_path / name
    page.write_text(PAGES[name])
    assert PAGES[name].isascii()
    done = subprocess.run(
        [str(groff), "-man", "-ww", "-T", "ascii", str(page)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not done.stderr
    assert "PG Collector" in done.stdout


def test_every_key_of_the_configuration_is_in_the_manual() -> None:
    page = PAGES["pg-collector.yaml.5"]
    for key in ("conn_string", "query_timeout", "memory_max", "crl_file", "keep_query_tags"):
        assert f".B {key}\n" in page
