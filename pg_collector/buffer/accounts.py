"""Where every line went: the counts behind the invariant, and the metrics that say the same."""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from pg_collector.metrics import Metrics


class Account(NamedTuple):
    """Where every line went that was put into the buffer, or found in it at the start."""

    produced: int
    delivered: int
    buffered: int
    quarantined: int
    lost: Mapping[str, int]

    @property
    def balanced(self) -> bool:
        """Whether every line is accounted for exactly once."""
        return self.produced == (
            self.delivered + self.buffered + self.quarantined + sum(self.lost.values())
        )


class Accounts:
    """The counts of one buffer. Its lock guards them."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._produced = self._delivered = 0
        self.lost: Counter[str] = Counter()  # by reason
        self.buffered = 0
        self.quarantined = 0
        self.losses = 0  # lines lost or set aside since the start
        metrics.lines_buffered.set_function(lambda: self.buffered)
        metrics.lines_quarantined.set_function(lambda: self.quarantined)

    def produce(self, count: int) -> None:
        """Count new lines, which wait."""
        self._produced += count
        self.buffered += count
        self._metrics.lines_produced_total.inc(count)

    def deliver(self, count: int) -> None:
        """Count lines that waited and have arrived."""
        self._delivered += count
        self.buffered -= count
        self._metrics.lines_delivered_total.inc(count)

    def lose(self, count: int, reason: str) -> None:
        """Count lines that waited and are lost."""
        if count:
            self.lost[reason] += count
            self.buffered -= count
            self.losses += count
            self._metrics.lines_lost_total.labels(reason).inc(count)

    def set_aside(self, count: int) -> None:
        """Count lines that waited and are in quarantine now."""
        self._metrics.lines_refused_total.inc(count)
        self.buffered -= count
        self.quarantined += count
        self.losses += count

    def requeue(self, count: int) -> None:
        """Count lines that were in quarantine and wait again."""
        self.quarantined -= count
        self.buffered += count

    def lose_quarantined(self, count: int, reason: str) -> None:
        """Count lines that are lost from quarantine."""
        self.quarantined -= count
        self.buffered += count
        self.lose(count, reason)

    def inherit(self, *, waiting: int, quarantined: int, lost: Mapping[str, int]) -> None:
        """Count what an earlier life left: as produced, so that the sum holds in this one."""
        self.produce(waiting + quarantined + sum(lost.values()))
        self.buffered -= quarantined
        self.quarantined += quarantined
        for reason, count in lost.items():
            self.lose(count, reason)

    def account(self) -> Account:
        """Return the counts of one moment."""
        # A copy, made in one step: who only looks may come without the lock.
        lost = {reason: count for reason, count in self.lost.copy().items() if count}
        return Account(self._produced, self._delivered, self.buffered, self.quarantined, lost)
