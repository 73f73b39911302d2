"""The reference of `pgc`, made from the commands themselves: docs/cli.md, and pages for man(1).

python -m pg_collector.cli.manual markdown > docs/cli.md
python -m pg_collector.cli.manual man dist/man
"""

import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from typer.main import get_command

from pg_collector import __version__
from pg_collector.cli import app
from pg_collector.config import reference
from pg_collector.config.schema import config_shape, documented
from pg_collector.samplers import discover

EXIT_CODES: Final = (
    ("0", "all is well"),
    ("1", "a problem was found"),
    ("2", "wrong usage"),
    ("3", "only warnings, with --strict"),
    ("69", "a server, the platform or an agent does not answer"),
    ("73", "a path or an address cannot be used"),
    ("77", "a permission is missing"),
    ("78", "the configuration is invalid"),
    ("130", "interrupted"),
)
FILES: Final = (
    ("/etc/pg-collector/config.yaml", "the configuration; see pg-collector.yaml(5)"),
    ("/etc/pg-collector/config.d/*.yaml", "what is added to it"),
    ("/var/lib/pg-collector", "state of the device, and the disk buffer"),
    ("/run/pg-collector/pgc.sock", "where commands reach the agent"),
)
ENVIRONMENT: Final = (
    ("PG_CONN_STRING, PGHOST, PGSERVICE", "a database where there is no configuration file"),
    ("API_KEY, API_KEY_FILE", "the key of the platform"),
    ("PGC_CONFIG", "the whole configuration as YAML"),
    ("PGC__SECTION__KEY", "any key"),
    ("NO_COLOR", "no colours"),
)
# What a command does, beside it.
_COLUMN: Final = re.compile(r"^((?:sudo )?pgc.*?)( {2,})(?=\w)", re.MULTILINE)
_HEAD: Final = """\
# Commands

This page is made from the commands themselves by `python -m pg_collector.cli.manual markdown`; a
test keeps it current. `--help` after a verb says the same.

What stands before the verb holds for every verb: `pgc --config FILE status` and
`pgc status --config FILE` are the same. Data goes to standard output, talk to standard error.
`--json` prints for machines; its fields are kept from version to version.
"""


class Verb(NamedTuple):
    """One command: its words, what it does in short and at length, examples, and parameters."""

    words: str
    short: str
    text: tuple[str, ...]  # paragraphs
    examples: tuple[str, ...]
    arguments: tuple[tuple[str, str], ...]
    options: tuple[tuple[str, str], ...]
    usage: str


def verbs() -> list[Verb]:
    """Return every command, the whole first, in the order of the help."""
    root = get_command(app)
    return list(_walk(root, root.make_context("pgc", [], resilient_parsing=True), "pgc"))


def as_markdown() -> str:
    """Return docs/cli.md."""
    found = verbs()
    lines = [_HEAD, "| command | |", "|---|---|"]
    lines += [f"| [`{one.words}`](#{_anchor(one.words)}) | {one.short} |" for one in found[1:]]
    lines += ["", "## Exit codes", "", "| code | |", "|---|---|"]
    lines += [f"| {code} | {meaning} |" for code, meaning in EXIT_CODES]
    lines.append("")
    for one in found:
        lines += [f"## {one.words}", "", *_markdown(one)]
    return "\n".join(lines).rstrip() + "\n"


def man_pages() -> Mapping[str, str]:
    """Return the pages by the names of their files: pgc.1, one for each verb, and the file's."""
    found = verbs()
    whole, rest = found[0], found[1:]
    pages = {"pgc.1": _man_of_all(whole, rest)}
    for name in dict.fromkeys(one.words.split()[1] for one in rest):
        own = [one for one in rest if one.words.split()[1] == name]
        pages[f"pgc-{name}.1"] = _man_of_verb(name, own)
    pages["pg-collector.yaml.5"] = _man_of_file()
    return pages


def _walk(command: Any, context: Any, words: str) -> Iterator[Verb]:
    yield _verb(command, context, words)
    for name in getattr(command, "commands", {}):
        found = command.get_command(context, name)
        if not found.hidden:
            own = type(context)(found, parent=context, info_name=name)
            yield from _walk(found, own, f"{words} {name}")


def _verb(command: Any, context: Any, words: str) -> Verb:
    blocks = inspect.cleandoc(command.help or "").split("\n\n")
    examples = [
        inspect.cleandoc(one.partition("\b\n")[2]) for one in blocks if one.startswith("\b")
    ]
    epilog = command.epilog or ""
    if epilog.startswith("Example: "):
        examples.append(epilog.removeprefix("Example: "))
    text = tuple(" ".join(one.split()) for one in blocks if one and not one.startswith("\b"))
    parameters = [
        (one.param_type_name, one.get_help_record(context))
        for one in command.get_params(context)
        if one.name != "help"
    ]
    usage = " ".join(command.collect_usage_pieces(context))
    return Verb(
        words=words,
        short=text[0].partition(". ")[0].rstrip(".") if text else "",
        text=text,
        examples=tuple(examples),
        arguments=tuple(record for kind, record in parameters if kind == "argument" and record),
        options=tuple(record for kind, record in parameters if kind == "option" and record),
        usage=f"{words} {usage}",
    )


# Markdown.


def _markdown(one: Verb) -> Iterator[str]:
    yield from ("```", f"Usage: {one.usage}", "```", "")
    for paragraph in one.text:
        yield from (_escaped(paragraph), "")
    for example in one.examples:
        yield from ("```", _COLUMN.sub(r"\1\2# ", example), "```", "")
    for title, records in (("argument", one.arguments), ("option", one.options)):
        if records:
            yield from (f"| {title} | |", "|---|---|")
            for name, meaning in records:
                shown = name.replace("|", "\\|")
                yield f"| `{shown}` | {_escaped(meaning).replace('|', chr(92) + '|')} |"
            yield ""


def _escaped(text: str) -> str:
    return re.sub(r"([*_<>])", r"\\\1", text)


def _anchor(words: str) -> str:
    return words.replace(" ", "-")


# man(7): https://man7.org/linux/man-pages/man7/groff_man.7.html


def _man_of_all(whole: Verb, rest: Sequence[Verb]) -> str:
    lines = [*_title("pgc", 1), ".SH NAME", "pgc \\- sample PostgreSQL's statistics views"]
    lines += [".SH SYNOPSIS", ".B pgc", _roff("[OPTIONS] COMMAND [ARGS]...")]
    lines += [".SH DESCRIPTION", *_paragraphs(whole), ".SH COMMANDS"]
    for one in rest:
        if len(one.words.split()) == 2:  # noqa: PLR2004  # pgc and the verb
            page = one.words.replace(" ", "-")
            lines += [".TP", f".BR {_roff(page)} (1)", _roff(one.short)]
    lines += [".SH OPTIONS", *_records(whole.options)]
    lines += [".SH EXIT STATUS", *_records(EXIT_CODES)]
    lines += [".SH FILES", *_records(FILES), ".SH ENVIRONMENT", *_records(ENVIRONMENT)]
    return "\n".join([*lines, ".SH SEE ALSO", ".BR pg-collector.yaml (5)", ""])


def _man_of_verb(name: str, own: Sequence[Verb]) -> str:
    whole = own[0]
    lines = [*_title(f"pgc-{name}", 1), ".SH NAME", f"pgc-{_roff(name)} \\- {_roff(whole.short)}"]
    lines.append(".SH SYNOPSIS")
    for one in own:
        if len(own) == 1 or one is not whole:
            lines += [f".B {_roff(one.words)}", _roff(one.usage[len(one.words) + 1 :]), ".br"]
    lines += [".SH DESCRIPTION", *_paragraphs(whole)]
    for one in own[1:]:
        lines += [f".SS {_roff(one.words)}", *_paragraphs(one)]
        lines += _records((*one.arguments, *one.options))
    if whole.arguments or whole.options:
        lines += [".SH OPTIONS", *_records((*whole.arguments, *whole.options))]
    lines += [".SH SEE ALSO", ".BR pgc (1),", ".BR pg-collector.yaml (5)", ""]
    return "\n".join(lines)


def _man_of_file() -> str:
    name = "pg-collector.yaml"
    lines = [*_title(name, 5), ".SH NAME", f"{_roff(name)} \\- configuration of PG Collector"]
    lines += [".SH SYNOPSIS", ".B /etc/pg-collector/config.yaml", ".SH DESCRIPTION"]
    lines += [
        _roff(
            "A YAML file. Unknown keys, and keys given twice, are errors; pgc config check names "
            "them all, with line and column. Durations are written as 500ms, 10s, 5m, 1h, 1d, "
            "sizes as 64kB, 4MB, 1GB. In any value ${NAME} is a variable, ${NAME:-default} has a "
            "default, ${file:/path} is the content of a file."
        )
    ]
    for one in documented(config_shape()):
        if one.key is None:
            title = one.path or "Top level"
            lines += [f".SH {_roff(title.upper() if not one.path else title)}"]
            lines.append(_roff(one.section.title))
            continue
        for path, key, default in reference.expanded(one, one.key, discover()):
            name = path.rpartition(".")[2]
            kind = reference.type_text(key.shape).replace("`", "")
            lines += [".TP", f".B {_roff(name)}", _roff(f"{kind}; default {default}."), ".br"]
            lines.append(_roff(key.description.replace("`", "")))
    return "\n".join([*lines, ".SH SEE ALSO", ".BR pgc (1)", ""])


def _title(name: str, section: int) -> list[str]:
    return [f'.TH "{name.upper()}" "{section}" "" "PG Collector {__version__}" "PG Collector"']


def _paragraphs(one: Verb) -> Iterator[str]:
    for paragraph in one.text:
        yield from (".PP", _roff(paragraph))
    for example in one.examples:
        yield from (".PP", ".EX", *(_roff(line) for line in example.splitlines()), ".EE")


def _records(records: Sequence[tuple[str, str]]) -> Iterator[str]:
    for name, meaning in records:
        yield from (".TP", f".B {_roff(name)}", _roff(meaning))


def _roff(text: str) -> str:
    """Return text that means itself to roff."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    escaped = "".join(c if c.isascii() else f"\\[u{ord(c):04X}]" for c in escaped)
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def main(words: Sequence[str]) -> int:
    """Write what is asked for; return the exit code."""
    if list(words) == ["markdown"]:
        sys.stdout.write(as_markdown())
        return 0
    if len(words) == 2 and words[0] == "man":  # noqa: PLR2004  # and the directory
        for name, page in man_pages().items():
            path = Path(words[1]) / f"man{name[-1]}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(page)
        return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
