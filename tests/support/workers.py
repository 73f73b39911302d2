"""How tests are spread over workers."""

import re

from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

_MAJOR = re.compile(r"[\[-](pg\d\d)[]-]")  # the id of the parameter `major`


class ByVersion(LoadScopeScheduling):  # type: ignore[misc]
    """All tests of one PostgreSQL version go to one worker, every other test to the next free one.

    Not `--dist loadgroup`: with pytest 9.2, xdist 3.8 ignores its groups without a word
    (pytest-xdist issue 1386).
    """

    def _split_scope(self, nodeid: str) -> str:
        """Return the name of the group that the test belongs to."""
        found = _MAJOR.search(nodeid)
        return found[1] if found else nodeid
