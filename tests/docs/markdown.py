"""What the tests need to know of a Markdown page: links, headings, and commands shown in it."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^ *(```|~~~)")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`]+)`")
_BETWEEN = re.compile(r"\s*(?:&&|\|\||[|;])\s*(?=\S)")
# What runs the rest of a line: here, or in a container.
_RUNS = re.compile(
    r"(?:sudo (?:-u \S+ )?)?(?:env )?"
    r"(?:docker (?:compose )?exec \S+ |kubectl [^`]*? exec [^`]*?-- )?"
)


class Place(NamedTuple):
    """A line of a page."""

    page: Path
    line: int

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """Return every page of the repository; what tools and the demo leave behind is not of it."""
    left_behind = {"node_modules", "output", "build", "dist"}
    return sorted(
        path
        for path in ROOT.rglob("*.md")
        if not any(one in left_behind or one[0] == "." for one in path.relative_to(ROOT).parts)
    )


def links(page: Path) -> Iterator[tuple[Place, str]]:
    """Yield the targets of the links in the prose of a page."""
    for place, line, in_block in _lines(page):
        if not in_block:
            for target in _LINK.findall(_CODE.sub("", line)):
                yield place, target


def anchors(page: Path) -> set[str]:
    """Return the anchors that a page's headings make, as GitHub names them."""
    return set(headings(page))


def headings(page: Path) -> dict[str, str]:
    """Return the headings of a page by the anchors that they make."""
    titles = [
        line.lstrip("#").strip()
        for _, line, block in _lines(page)
        if line[0:1] == "#" and not block
    ]
    kept = ((re.sub(r"[^\w\- ]", "", title.lower()), title) for title in titles)
    return {anchor.replace(" ", "-"): title for anchor, title in kept}


def commands(page: Path, name: str) -> Iterator[tuple[Place, list[str]]]:
    """Yield the words after `name`, wherever a code block or a code span calls it."""
    for place, line, in_block in _lines(page):
        code = [line] if in_block or line.startswith("    ") else _CODE.findall(line)
        for text in code:
            for part in _BETWEEN.split(text.strip().removeprefix("$ ")):
                words = _words(_RUNS.sub("", part, count=1))
                while words and "=" in words[0]:
                    words.pop(0)  # a variable before the command
                if words and words[0].rpartition("/")[2] == name:
                    yield place, words[1:]


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text, comments=True)
    except ValueError:  # a quote that another line closes
        return text.split()


def _lines(page: Path) -> Iterator[tuple[Place, str, bool]]:
    """Yield the lines, and whether each is in a fenced block."""
    in_block = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if _FENCE.match(line):
            in_block = not in_block
        else:
            yield Place(page, number), line, in_block
