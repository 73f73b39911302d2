"""Utility statements: what remains of one is its command and a fingerprint.

Masking covers their literals, but a utility statement's identifiers and options can tell as much,
and statistics need neither. `security.drop_utility_text` is on by default.
"""

from typing import Final

from pg_collector.privacy.mask import Masker
from pg_collector.privacy.statements import COMMANDS, leading_command

# What reads or changes rows, and its text is what one wants to see.
_PLANNED: Final = frozenset({"select", "insert", "update", "delete", "merge", "values", "with"})
_UTILITY: Final = frozenset(word.upper() for word in COMMANDS - _PLANNED - {"table", "end"})


def command_alone(masked: str) -> str:
    """Return command and fingerprint of a masked utility text of pg_stat_statements.

    Nothing for any other one, such as an expression of PL/pgSQL, which begins with no command.
    """
    command = leading_command(masked)
    return f"{command} <{Masker.fingerprint(masked)}>" if command in _UTILITY else ""
