"""Text that came from elsewhere, before a terminal gets it."""

import re
from typing import Final

_SUBSTITUTE: Final = "\N{REPLACEMENT CHARACTER}"
_CONTROLS: Final = re.compile("[\x7f-\x9f]")


def printable(text: str, keep: str = "") -> str:
    """Return `text` with a mark for every character that cannot be printed, but those of `keep`.

    What a server calls a column may hold sequences that a terminal obeys.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else _SUBSTITUTE for c in text)


def printable_json(line: str) -> str:
    """Return a line of JSON with the control characters escaped that JSON itself lets pass."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", line)
