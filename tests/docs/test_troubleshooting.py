"""docs/troubleshooting.md has an entry for every message of the source, and no other."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from pg_collector.privacy.scrub import scrub
from tests.docs.markdown import ROOT
from tests.docs.messages import Message, messages
from tests.docs.texts import HOLE

PAGE: Final = ROOT / "docs" / "troubleshooting.md"
PACKAGE: Final = ROOT / "pg_collector"

# Of a message's words half have to stand in the entry that means it: a pattern that is mostly holes
# would take in messages that nobody has thought of.
LEAST_SHARE: Final = 1 / 2

# Messages that nobody outside meets, each with the reason.
INSIDE: Final = {
    "<user-raised message>": "stands for what somebody's function said",
    "what was masked already shows it": "caught where it is raised: the text is withheld, counted",
    "the readings do not settle": "caught where it is raised: the text is withheld, counted",
    "no device state: …": "a call with a word that no caller has",
    "a secret of … bytes": "a call with a secret that no caller makes",
    "… database, … of … samplers, …": "says that all is well",
    "… database…, … of … samplers, …": "says that all is well",
    "… (CA …)": "one of the platform's messages, with the authorities behind it",
    "…: … (CA …)": "one of the platform's messages, with the authorities behind it",
}


class Entry(NamedTuple):
    """A message of the page: its line there, and what stands below it before the next ones."""

    line: int
    pattern: str
    told: str

    def means(self, message: str) -> bool:
        if _letters(self.pattern) < LEAST_SHARE * _letters(message):
            return False
        return _expression(self.pattern).fullmatch(message) is not None


def entries(text: str) -> Iterator[Entry]:
    """Yield every line of every block ```text; the prose that follows belongs to all of them."""
    begins = 1
    for part in re.split(r"^```text\n", text, flags=re.MULTILINE):
        block, fence, rest = part.partition("\n```\n")
        told = re.split(r"^#|^```", rest, maxsplit=1, flags=re.MULTILINE)[0].strip()
        if fence and begins > 1:
            for number, line in enumerate(block.splitlines()):
                yield Entry(begins + number, line.strip(), told)
        begins += part.count("\n") + 1


@pytest.fixture(scope="module")
def page() -> list[Entry]:
    return list(entries(PAGE.read_text()))


@pytest.fixture(scope="module")
def source() -> list[Message]:
    return messages(PACKAGE)


def missing(page: list[Entry], source: list[Message]) -> list[str]:
    """Say which messages have no entry, and what its author is to write."""
    return [
        f"pg_collector/{one.place} ({one.kind}) can say\n"
        f"    {one.text}\n"
        "  and docs/troubleshooting.md has no entry for it. Put this line into a block ```text "
        "there, in the section for where it hurts, and say below what it means and what to do; or, "
        "if nobody outside meets it, into INSIDE of tests/docs/test_troubleshooting.py"
        for one in source
        if one.text not in INSIDE and not any(entry.means(one.text) for entry in page)
    ]


def test_every_message_of_the_source_has_an_entry(page: list[Entry], source: list[Message]):
    lacking = missing(page, source)
    assert not lacking, "\n\n".join(["", *lacking])


def test_every_entry_means_a_message_of_the_source(page: list[Entry], source: list[Message]):
    texts = {one.text for one in source}
    stale = [
        f"docs/troubleshooting.md:{entry.line}: nothing in pg_collector says\n    {entry.pattern}\n"
        "  any more: write it as it is now, or remove it"
        for entry in page
        if not any(entry.means(text) for text in texts)
    ]
    assert not stale, "\n\n".join(["", *stale])
    assert set(INSIDE) <= texts, "INSIDE names a message that is gone"


def test_no_message_looks_as_if_it_held_a_secret(source: list[Message]):
    """The log takes what follows `token:` and the like for one, and a message loses a word."""
    for one in source:
        said = one.text.replace(f"://{HOLE}:{HOLE}", "://word:1").replace(HOLE, "word")
        assert scrub(said) == said, one.place


def test_every_entry_says_something_and_stands_there_once(page: list[Entry]):
    assert not [f"docs/troubleshooting.md:{one.line}" for one in page if len(one.told) < 20]
    known: dict[str, int] = {}
    twice = [
        f"docs/troubleshooting.md:{one.line}: {one.pattern} (and in line {known[one.pattern]})"
        for one in page
        if known.setdefault(one.pattern, one.line) != one.line
    ]
    assert not twice


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ('raise StateError("the moon is down")', "the moon is down"),
        ('raise StateError(f"{path}: the moon is {word!r}", remedy="Wait.")', "…: the moon is …"),
        ('return TargetRefused("the moon of " + name)', "the moon of …"),
        ('log.warning("the moon is %d s late: %s", 3, word)', "the moon is … s late: …"),
        ('log.error("%s", f"the moon fell on {path}")', "the moon fell on …"),
        ('print(f"pgc: {path}: no moon", file=sys.stderr)', "pgc: …: no moon"),
        ('typer.echo("no moon tonight", err=True)', "no moon tonight"),
        ('raise typer.BadParameter("write it as a moon")', "write it as a moon"),
        ('Vital(state=DOWN, reason="the moon " + name, remedy="Wait.")', "the moon …"),
        ('State(state="error", message="no moon" if path else "no sun")', "no sun"),
        ('Sampler(name="m", remedy={1: "GRANT moon TO {role};"})', "GRANT moon TO …;"),
        ('problems.add(origin, path, "not a moon", "write one")', "not a moon"),
        ('self._fault(path, f"{name} moons", "keep one")', "… moons"),
        ('warnings.append(f"{path}: moonlight")', "…: moonlight"),
        ('said = "the moon set"\n    raise StateError(said)', "the moon set"),
        ("raise StateError(elsewhere(path))", "the moon is elsewhere"),
        ('said, remedy = TABLE[word]\n    raise StateError(f"{path}: {said}")', "…: half a moon"),
        ('raise fallen("the moon")', "the moon"),
        ('raise Eclipse(path, "the moon is dark")', "the moon is dark"),
    ],
)
def test_a_new_message_is_found_wherever_it_is_said(tmp_path: Path, code: str, text: str):
    """Of the last word: no page that was written before has an entry for it."""
    (tmp_path / "errors.py").write_text((PACKAGE / "errors.py").read_text())
    (tmp_path / "new.py").write_text(
        'TABLE = {1: ("half a moon", "Wait.")}\n\n\n'
        "class Eclipse(StateError):\n    def __init__(self, path: Path, fault: str) -> None:\n"
        '        super().__init__(f"{path} {fault}")\n\n\n'
        'def elsewhere(path):\n    return "the moon is elsewhere"\n\n\n'
        "def fallen(words: str):\n    return StateError(words)\n\n\n"
        f"def new(self, path, name, word, problems, origin, warnings):\n    {code}\n"
    )
    ast.parse((tmp_path / "new.py").read_text())
    found = messages(tmp_path)
    assert text in {one.text for one in found}
    written = list(entries(PAGE.read_text()))
    assert any(f"    {text}\n" in said for said in missing(written, found))


def test_an_entry_means_its_message_and_not_just_any():
    text = "a\n```text\nthe moon is …\n…: …\n```\n\nIt waxes and wanes.\n\n# next\n"
    moon, holes = entries(text)
    assert (moon.line, moon.told) == (3, "It waxes and wanes.")
    assert moon.means("the moon is down")
    assert not moon.means("the moon is … and so are all the stars of the whole galaxy")
    assert not moon.means("a moon is down")
    assert not holes.means("…: the sun is late")


@functools.cache
def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, pattern.split(HOLE))))


@functools.cache
def _letters(text: str) -> int:
    """Count the letters of words; what is in capitals are names and SQL."""
    return sum(char.islower() for char in text)
