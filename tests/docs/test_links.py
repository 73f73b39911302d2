"""What the pages point at exists: files, headings, commands, make targets, metrics."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import typer.main

from pg_collector import cli
from pg_collector.clock import SystemClock
from pg_collector.metrics import Metrics
from tests.docs.markdown import ROOT, anchors, commands, links, pages

PAGES = pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))

REGISTRIES = re.compile(
    r"\b(pypi|pythonhosted|npmjs|npmmirror|yarnpkg|crates|rubygems|docker|quay|ghcr|golang)"
    r"\.(org|com|io)\b"
)


@PAGES
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path):
    astray = []
    for place, target in links(page):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            astray.append(f"{place}: {target}")
    assert not astray


@PAGES
def test_no_page_names_the_host_of_a_package_registry(page: Path):
    assert not [found.group() for found in REGISTRIES.finditer(page.read_text())]


@PAGES
def test_every_pgc_command_shown_exists_with_its_options(page: Path):
    shown = ((place, words, _complaint(words)) for place, words in commands(page, "pgc"))
    wrong = [f"{place}: pgc {' '.join(words)}: {what}" for place, words, what in shown if what]
    assert not wrong


def test_who_names_the_service_says_that_it_takes_systemd():
    # On a page a block of code is spoken of in the paragraph before it.
    parts = [
        (page, part)
        for page in pages()
        for part in re.split(r"\n\n(?!    |```)|\n(?=#|- |\d+\. |\| )", page.read_text())
    ]
    parts += [
        (file, node.value)
        for file in (ROOT / "pg_collector").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    named = [(place, said) for place, said in parts if _names_the_service(said)]
    assert len(named) > 10
    assert not [(place, said) for place, said in named if "systemd" not in said]


@PAGES
def test_every_make_target_shown_exists(page: Path):
    there = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    asked = {
        (str(place), word)
        for place, words in commands(page, "make")
        for word in words
        if re.fullmatch("[a-z-]+", word)
    }
    assert not {(place, word) for place, word in asked if word not in there}


@PAGES
def test_every_metric_shown_is_exported(page: Path):
    endings = {"counter": ("_total",), "histogram": ("", "_bucket", "_sum", "_count")}
    there = {
        f"{family.name}{ending}"
        for family in Metrics(SystemClock()).registry.collect()
        for ending in endings.get(family.type, ("",))
    }
    shown = set(re.findall(r"\b(pg_collector_[a-z_]*[a-z])\b", page.read_text()))
    assert shown <= there


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("start --once --dry-run", ""),
        ("--config x.yaml config check", ""),
        ("config show --origin", ""),
        ("sample activity --dsn 'host=x' --json", ""),
        ("sample ...", ""),
        ("frobnicate", "no verb 'frobnicate'"),
        ("config frobnicate", "no verb 'frobnicate'"),
        ("start --frobnicate", "no option '--frobnicate'"),
        ("version now", "'now' is one word too many"),
    ],
)
def test_a_command_that_is_wrong_is_noticed(words: str, complaint: str):
    assert _complaint(words.replace("'", "").split()) == complaint


def _names_the_service(text: str) -> bool:
    return re.search(r"\bsystemctl\b[^`\n]*\bpg-collector\b", text) is not None


def _complaint(words: list[str]) -> str:
    """Say what is wrong with the words after `pgc`; nothing where they are right."""
    command = _pgc()
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if word in {"...", "…"} or word[0] in "<>":
            return ""  # an ellipsis, or where the output goes
        if word[0] == "-" and word != "-":
            option = _option(command, word.partition("=")[0])
            if option is None:
                return f"no option {word!r}"
            if not option and "=" not in word:
                waiting[:1] = []
        elif verbs := getattr(command, "commands", None):
            if word not in verbs:
                return f"no verb {word!r}"
            command = command.get_command(None, word)
        elif not any(one.param_type_name == "argument" for one in command.params):
            return f"{word!r} is one word too many"
    return ""


def _option(command: Any, name: str) -> bool | None:
    """Return whether an option is a flag; None where there is no such option."""
    if name in {"-h", "--help"}:
        return True
    for one in command.params:
        if name in (*one.opts, *one.secondary_opts):
            return bool(one.is_flag)
    return None


def _pgc() -> Any:
    return typer.main.get_command(cli.app)
