"""The newest samples of one target, as far as they came. Pure, but for the time that it is told."""

from collections.abc import Iterable
from typing import Any, Final

from pg_collector.cli.live.lines import Joiner, Row, Sample
from pg_collector.cli.live.movement import Movement

TEXTS_KEPT: Final = 2_000  # of statements


class Board:
    """What is known of a target."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.samples: dict[str, Sample] = {}  # by set
        self.before: dict[str, Sample] = {}  # the one before, of sets whose counters are compared
        self.movement = Movement()
        self.states: dict[tuple[str, str | None], Row] = {}  # by sampler and set: what is not well
        self.texts: dict[str, str] = {}  # masked, by query id
        self.own: frozenset[str] = frozenset()  # ids of the agent's own statements
        self.incomplete = False  # a delta came for whose base one has to ask
        self._joiner = Joiner()

    def take(self, lines: Iterable[str | bytes], now: float) -> None:
        """Take lines in the order in which they came; `now` is in seconds of the viewer's clock."""
        for sample in self._joiner.take(lines, now):
            self._take(sample)

    def sampler(self, name: str) -> Sample | None:
        """Return the newest sample of a sampler's sets."""
        found = [one for key, one in self.samples.items() if key.partition(".")[0] == name]
        return max(found, key=lambda one: one.at, default=None)

    def rows(self, name: str) -> list[Row]:
        """Return the newest rows of a set.

        None where its sampler has had a later turn in which there was nothing to ask it for.
        """
        sample = self.samples.get(name)
        last = self.sampler(name.partition(".")[0])
        if sample is None or last is None:
            return []
        return list(sample.rows) if sample.at == last.at or name in _SELDOM else []

    def row(self, name: str) -> dict[str, Any]:
        """Return the newest row of a set that has one; an empty one where it has none."""
        return next(iter(self.rows(name)), {})

    def _take(self, sample: Sample) -> None:
        if sample.set == "sampler_state":
            for row in sample.rows:
                key = (row["sampler"], row["set"])
                if row["state"] == "ok":
                    self.states.pop(key, None)
                else:
                    self.states[key] = row
        elif sample.set == "query_text":
            for row in sample.rows:
                self.texts[row["queryid"]] = row["query"] or ""
            while len(self.texts) > TEXTS_KEPT:
                del self.texts[next(iter(self.texts))]
        else:
            self._newest(sample)

    def _newest(self, sample: Sample) -> None:
        before = self.samples.get(sample.set)
        if before is not None and sample.at < before.at:
            return
        if sample.set == "statements":
            self.incomplete = not self.movement.take(sample)
            sample = sample._replace(values=[])  # the movement has them
        elif before is not None and sample.at > before.at and sample.set in _COMPARED:
            self.before[sample.set] = before
        self.samples[sample.set] = sample


_COMPARED: Final = frozenset(("database",))
_SELDOM: Final = frozenset(
    ("statements.info",)
)  # sets that are asked in each turn anyhow, or rarely
