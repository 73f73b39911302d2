"""Writes the rules into etc/prometheus/servicemonitor.yaml: those of alerts.yml and recording.yml.

Run: python -m tests.docs.generated
"""

from pathlib import Path
from typing import Final

ETC: Final = Path(__file__).parents[2] / "etc" / "prometheus"
FILE: Final = ETC / "servicemonitor.yaml"
RULES: Final = ("alerts.yml", "recording.yml")

_BEGIN: Final = "  # What follows is that of alerts.yml and recording.yml.\n  groups:\n"


def whole() -> str:
    """Return the file with the rules as they are now."""
    head, found, _ = FILE.read_text().partition(_BEGIN)
    if not found:
        raise ValueError(f"{FILE} has no place for the rules")
    return head + _BEGIN + "".join(_groups(ETC / name) for name in RULES)


def _groups(path: Path) -> str:
    """Return the groups of a file of rules, as they lie below `spec`."""
    _, found, groups = path.read_text().partition("\ngroups:\n")
    if not found:
        raise ValueError(f"{path} has no groups")
    return "".join(
        f"  {line}" if line.strip() else line for line in groups.splitlines(keepends=True)
    )
