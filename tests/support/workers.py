"""How tests are spread over workers."""

import re

from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

_MAJOR = re.compile(r"[\[-](pg\d\d)[]-]")  # the id of the parameter `major`


class ByVersion(LoadScopeScheduling):  # type: ignore[misc]
    """All tests of one PostgreSQL version go to one worker, and so do those of a class.

    Every other test goes to the next free one.

    Not `--dist loadgroup`: with pytest 9.2, xdist 3.8 ignores its groups without a word
    (pytest-xdist issue 1386).
    """

    def _split_scope(self, nodeid: str) -> str:
        """Return the name of the group that the test belongs to."""
        found = _MAJOR.search(nodeid)
        if found:
            return str(found[1])
        file, _, rest = nodeid.partition("::")
        of_class, _, name = rest.rpartition("::")
        return f"{file}::{of_class}" if of_class and name else nodeid
