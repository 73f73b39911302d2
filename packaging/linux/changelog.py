"""Debian's changelog, made from CHANGELOG.md: what a version brings, newest version first."""

import re
import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Final

_HEADING: Final = re.compile(r"## \[?(?P<version>[^\]\s]+)\]?(?: - (?P<day>\d{4}-\d\d-\d\d))?")
_LINK: Final = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_WIDTH: Final = 78


def debian(text: str, *, version: str, who: str, epoch: int) -> str:
    """Return the changelog of a package; what is not released yet is that of `version`."""
    entries = []
    for heading, bullets in _sections(text):
        named, day = heading["version"], heading["day"]
        when = datetime.fromisoformat(day).replace(tzinfo=UTC) if day else _at(epoch)
        if named == "Unreleased":
            named = version
        lines = [f"pg-collector ({named}-1) stable; urgency=medium", ""]
        lines += [line for bullet in bullets or ["See CHANGELOG.md."] for line in _wrapped(bullet)]
        entries.append("\n".join([*lines, "", f" -- {who}  {format_datetime(when)}", ""]))
    if not entries:
        raise ValueError("CHANGELOG.md has no heading of a version: ## [Unreleased]")
    if not entries[0].startswith(f"pg-collector ({version}-1)"):
        lines = [f"pg-collector ({version}-1) stable; urgency=medium", "", "  * Built anew.", ""]
        entries.insert(0, "\n".join([*lines, f" -- {who}  {format_datetime(_at(epoch))}", ""]))
    return "\n".join(entries)


def _at(epoch: int) -> datetime:
    return datetime.fromtimestamp(epoch, UTC)


def _sections(text: str) -> Iterator[tuple[re.Match[str], list[str]]]:
    """Yield each version's heading with its bullets, each in one line."""
    heading, bullets = None, []
    for line in text.splitlines():
        if found := _HEADING.match(line):
            if heading is not None:
                yield heading, bullets
            heading, bullets = found, []
        elif line.startswith("- "):
            bullets.append(line[2:])
        elif line.startswith("  ") and bullets:
            bullets[-1] += f" {line.strip()}"
    if heading is not None:
        yield heading, bullets


def _wrapped(bullet: str) -> list[str]:
    plain = _LINK.sub(r"\1", bullet).replace("`", "")
    return textwrap.wrap(
        plain, _WIDTH, initial_indent="  * ", subsequent_indent="    ", break_on_hyphens=False
    )
