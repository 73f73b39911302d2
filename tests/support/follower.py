"""Somebody who follows a guide: runs block after block, and compares what each prints."""

import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.docs.guides import Block, blocks, matches
from tests.docs.markdown import ROOT

# Runs a script with bash; returns its exit code and what it said.
Run = Callable[[str], tuple[int, str]]

_ASSIGNED: Final = re.compile(r"^(?:export )?([A-Z_]+)=", re.MULTILINE)
_PAUSE: Final = 0.5  # seconds between two attempts
_SCRIPT: Final = """\
cd {folder}; if [ -e {memory} ]; then . {memory}; cd "$HERE"; fi
set -e -o pipefail; exec 2>&1
{block}
HERE=$PWD; {{ declare -p HERE {names} || true; }} >{memory} 2>/dev/null
"""


class Follower:
    """Follows guides in a folder; variables and the current directory last from block to block."""

    def __init__(self, run: Run, folder: str, values: Mapping[str, str]) -> None:
        """`values` are this reader's own: by name, what the guides leave to each."""
        self._run = run
        self._folder = folder
        self._values = dict(values)
        self._names = {"PGPASSWORD", *values}
        self.did = 0  # blocks that were run

    def follow(self, name: str, *, kind: str = "", first: str = "", last: str = "") -> None:
        """Follow docs/`name`, of blocks with a kind only those of `kind`.

        `first` and `last` are headings: where to begin, and before which one to end.
        """
        page = ROOT / "docs" / name
        begin, end = _lines(page, first, last)
        for block in blocks(page):
            if not begin <= block.place.line < end or block.language != "sh":
                continue
            if block.kind not in {"", kind} or block.reason:
                continue
            self._names |= set(_ASSIGNED.findall(block.text))
            if block.values:
                self._take_values(block)
            else:
                self._do(block)

    def _take_values(self, block: Block) -> None:
        """Let the reader's own values stand for those that the guide has."""
        wanted = _ASSIGNED.findall(block.text)
        unknown = [name for name in wanted if name not in self._values]
        assert not unknown, f"{block.place}: the test has no values for {unknown}"
        text = "\n".join(f"{name}={shlex.quote(self._values[name])}" for name in wanted)
        self._once(block._replace(text=text + "\nexport PGPASSWORD\n" * ("PGPASSWORD" in wanted)))

    def _do(self, block: Block) -> None:
        deadline = time.monotonic() + block.within
        while True:
            code, said = self._once(block)
            if code == 0 and (block.prints is None or matches(said, block.prints)):
                self.did += 1
                return
            if time.monotonic() >= deadline:
                break
            time.sleep(_PAUSE)
        raise AssertionError(
            f"{block.place}: exit code {code}\n{block.text}--- it printed\n{said}"
            f"--- the guide shows\n{block.prints or 'nothing of it'}"
        )

    def _once(self, block: Block) -> tuple[int, str]:
        script = _SCRIPT.format(
            folder=shlex.quote(self._folder),
            memory=shlex.quote(f"{self._folder}/.values"),
            block=block.text,
            names=" ".join(sorted(self._names)),
        )
        return self._run(script)


def _lines(page: Path, first: str, last: str) -> tuple[int, int]:
    """Return the line of the heading to begin with, and that of the one to end before."""
    found: Sequence[tuple[int, str]] = [
        (number, line.lstrip("# "))
        for number, line in enumerate(page.read_text().splitlines(), 1)
        if line.startswith("#")
    ]
    begin = next((number for number, title in found if title.startswith(first)), 0) if first else 0
    end = next((number for number, title in found if last and title.startswith(last)), 1_000_000)
    return begin, end
