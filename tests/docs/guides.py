"""The guides as a test reads them: blocks of code, what each prints, and what is said of each.

What is said stands in HTML comments since the block before, which nobody sees on the page:

    <!-- values -->            the reader's own: a test has others
    <!-- not run: REASON -->   it cannot run here
    <!-- for: KIND -->         it belongs to one of several ways to install
    <!-- within 30 s -->       it may take so long until this is printed

A block of `text` after one of `sh` is what that prints: `…` stands for anything in a line, and
alone in a line for any lines.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from tests.docs.markdown import ROOT, Place

INSTALL: Final = ("same-host", "vm", "docker", "kubernetes", "aws", "gcp", "azure", "macos")
GUIDES: Final = [
    *(ROOT / "docs" / "install" / f"{name}.md" for name in INSTALL),
    ROOT / "docs" / "upgrade.md",
    ROOT / "docs" / "uninstall.md",
]
_FENCE: Final = re.compile(r"```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_COMMENT: Final = re.compile(r"<!-- (.*?) -->\n")
_KNOWN: Final = re.compile(r"values|not run: (?P<reason>.+)|for: (?P<kind>\w+)|within (?P<s>\d+) s")
_HEREDOC: Final = re.compile(r"^([^\n]*)<<'?EOF'?[^\n]*\n(.*?)^EOF$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A block of code."""

    place: Place
    language: str
    text: str
    values: bool = False  # the reader's own
    reason: str = ""  # why it is not run
    kind: str = ""  # which way to install it belongs to
    within: float = 0.0  # seconds until it prints what it should
    prints: str | None = None  # what it should

    def documents(self) -> Iterator[tuple[str, str]]:
        """Yield the files that it writes in place: the command's line, and the content."""
        yield from _HEREDOC.findall(self.text)


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page. Raises ValueError where one is said to be something unknown."""
    text = page.read_text()
    found: list[Block] = []
    end = 0
    for fence in _FENCE.finditer(text):
        before = text[end : fence.start()]
        end = fence.end()
        place = Place(page, text.count("\n", 0, fence.start()) + 1)
        block = _said(Block(place, fence[1], fence[2]), before)
        if block.language == "text" and found and found[-1].language == "sh":
            found[-1] = found[-1]._replace(prints=block.text)
        else:
            found.append(block)
    return found


def _said(block: Block, before: str) -> Block:
    """Return the block with what the comments before it say."""
    for comment in _COMMENT.findall(before):
        known = _KNOWN.fullmatch(comment)
        if known is None:
            raise ValueError(f"{block.place}: {comment}: nobody knows what that says")
        if comment == "values":
            block = block._replace(values=True)
        elif known["reason"]:
            block = block._replace(reason=known["reason"])
        elif known["kind"]:
            block = block._replace(kind=known["kind"])
        else:
            block = block._replace(within=float(known["s"]))
    return block


def matches(printed: str, expected: str) -> bool:
    """Whether something printed is what a guide shows."""
    pattern = ""
    for line in expected.splitlines():
        if line.strip() == "…":
            pattern += r"(?:.*\n)*"
        else:
            pattern += ".*".join(re.escape(part) for part in line.rstrip().split("…")) + r" *\n"
    whole = "\n".join(line.rstrip() for line in printed.splitlines()) + "\n"
    return re.fullmatch(pattern, whole) is not None
