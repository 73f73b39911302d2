"""What a check found: a value, for people and for machines alike."""

import enum
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec


class Level(enum.StrEnum):
    """How it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Part(enum.StrEnum):
    """What `pgc check --only` chooses from."""

    CONFIG = "config"
    SECRETS = "secrets"
    DISK = "disk"
    POSTGRES = "postgres"
    SAMPLERS = "samplers"
    PLATFORM = "platform"
    CLOCK = "clock"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at.

    `remedy` is the SQL or the command that mends it, or a sentence where it is neither. `measured`
    are figures, each with its unit in its name. `unreachable`: nobody answered.
    """

    section: str
    level: Level
    found: str
    target: str | None = None
    remedy: str = ""
    measured: Mapping[str, Any] = {}
    unreachable: bool = False

    @property
    def part(self) -> Part:
        """The part that it belongs to."""
        return Part.POSTGRES if self.section in _POSTGRES else Part(self.section)


_POSTGRES: Final = frozenset(("network", "tls", "login", "grants", "pgss", "settings"))

EXIT_OK: Final = 0
EXIT_FAILURE: Final = 1
EXIT_WARNING: Final = 3
EXIT_UNREACHABLE: Final = 69  # EX_UNAVAILABLE
EXIT_CONFIGURATION: Final = 78  # EX_CONFIG


def exit_code(findings: Iterable[Finding], *, strict: bool) -> int:
    """Return what the process ends with.

    1: something has to be mended; 69: all that failed is that nobody answers; 3: there are warnings
    and they count; else 0.
    """
    all_of_them = list(findings)
    failed = [one for one in all_of_them if one.level is Level.FAIL]
    if failed:
        alone = all(one.unreachable for one in failed)
        return EXIT_UNREACHABLE if alone else EXIT_FAILURE
    warned = any(one.level is Level.WARN for one in all_of_them)
    return EXIT_WARNING if warned and strict else EXIT_OK
