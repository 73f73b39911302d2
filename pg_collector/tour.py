"""Which databases of a server the per-database samplers visit, and which is next. Pure.

A target's own database is always one of them. One thread at a time: that of the lane.
"""

import math
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Final

from pg_collector.config.model import Discover

LEARNS_EVERY: Final = 600.0  # seconds between two looks at what databases there are
AGAIN_AFTER: Final = 600.0  # seconds until a database that refused us is tried again
# What managed services keep for themselves, and let nobody else into.
MANAGED: Final = frozenset(
    (
        "rdsadmin",  # Amazon RDS and Aurora
        "cloudsqladmin",  # Google Cloud SQL
        "alloydbadmin",  # Google AlloyDB
        "alloydbmetadata",
        "azure_maintenance",  # Azure Database for PostgreSQL
        "azure_sys",
    )
)


class Tour:
    """The rotation of one target; None stands for the target's own database."""

    def __init__(self, discover: Discover) -> None:
        self.discover = discover
        self._names: tuple[str | None, ...] = (None,)
        self._learnt_at = -math.inf
        self._turns: dict[str, int] = {}
        self._refused: dict[str, float] = {}  # until when
        self._newest: str | None = None  # of these

    @property
    def enabled(self) -> bool:
        """Whether there is anywhere to go."""
        return self.discover.enabled

    @property
    def visited(self) -> frozenset[str]:
        """The databases of a round, beside the target's own."""
        return frozenset(name for name in self._names if name is not None)

    @property
    def length(self) -> int:
        """How many databases a round has."""
        return len(self._names)

    def stale(self, now: float) -> bool:
        """Whether it is time to look again."""
        return self.enabled and now - self._learnt_at >= LEARNS_EVERY

    def learn(self, names: Iterable[str], own: str, now: float) -> None:
        """Hear which databases one may connect to; `own` is the target's."""
        self._learnt_at = now
        others = sorted(name for name in names if name != own and self._wanted(name))
        self._names = (None, *others)
        self._refused = {name: until for name, until in self._refused.items() if name in others}

    def put_off(self, now: float) -> None:
        """Look again later: it could not be learnt."""
        self._learnt_at = now

    def next(self, sampler: str, now: float) -> str | None:
        """Return where a sampler goes this turn."""
        if not self.enabled:
            return None
        for _ in self._names:
            turn = self._turns.get(sampler, 0)
            self._turns[sampler] = turn + 1
            name = self._names[turn % len(self._names)]
            if name is None or now >= self._refused.get(name, -math.inf):
                return name
        return None

    def again(self, sampler: str) -> None:
        """Go there once more the next time: it came to nothing, and not because of the database."""
        self._turns[sampler] = max(self._turns.get(sampler, 0) - 1, 0)

    def refused(self, name: str, now: float, seconds: float | None = None) -> None:
        """Leave a database out for so many seconds, by default for AGAIN_AFTER."""
        self._refused[name] = now + (AGAIN_AFTER if seconds is None else seconds)
        self._newest = name

    def pardon(self) -> None:
        """Leave out the newest no more: the server as a whole was not to be had."""
        if self._newest is not None:
            self._refused.pop(self._newest, None)
            self._newest = None

    def _wanted(self, name: str) -> bool:
        if name in MANAGED:
            return False
        included = any(fnmatchcase(name, one) for one in self.discover.include)
        return included and not any(fnmatchcase(name, one) for one in self.discover.exclude)
