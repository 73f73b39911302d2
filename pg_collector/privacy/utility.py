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


def without_utility(masked: str) -> str:
    """Return a masked text of pg_stat_statements, or command and fingerprint of a utility one.

    An expression of PL/pgSQL, which begins with no command, is returned as it is.
    """
    command = leading_command(masked)
    if command not in _UTILITY:
        return masked
    return f"{command} <{Masker.fingerprint(masked)}>"
