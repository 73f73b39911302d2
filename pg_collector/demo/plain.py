"""The view where there is no terminal: a line for each turn, and one for each change."""

import datetime as dt
import math
from collections.abc import Sequence

from pg_collector.demo import words
from pg_collector.demo.feed import Row
from pg_collector.demo.watch import Delivery, Picture, SamplerState, size

_QUERY_WIDTH = 100


class PlainView:
    """Prints to standard output; no control characters."""

    every = 0.25  # seconds between two looks
    told_every = 2.0  # seconds between two lines about the platform, unless something changes

    def __init__(self) -> None:
        self._delivery: tuple[float, bool] = (-math.inf, False)
        self._sessions = 0
        self._said: dict[str, str] = {}

    def show(self, picture: Picture) -> None:
        """Print what is new. Raises OSError when nobody reads any more."""
        for one in picture.samplers:
            if one.news and one.outcome is not None:
                _say(one.name, _turn(one))
        if picture.sessions.number != self._sessions:
            self._sessions = picture.sessions.number
            self._activity(picture.sessions.rows)
        self._if_news("trouble", picture.trouble or "")
        if picture.delivery is not None:
            self._platform(picture.running, picture.delivery)

    def close(self) -> None:
        """Leave the last line as it is."""

    def _activity(self, rows: Sequence[Row]) -> None:
        for _, sentence in words.blocking(rows):
            _say("blocked", sentence)
        self._if_news("waits", ", ".join(words.waits(rows)))
        found = words.longest(rows)
        if found is not None:
            _say("longest", f"{found.seconds:.1f} s, {found.who}: {found.query[:_QUERY_WIDTH]}")

    def _platform(self, running: float, delivery: Delivery) -> None:
        at, away = self._delivery
        now_away = bool(delivery.trouble)
        if now_away != away or running - at >= self.told_every:
            self._delivery = (running, now_away)
            _say("platform", delivery.sentence)

    def _if_news(self, label: str, text: str) -> None:
        if text and self._said.get(label) != text:
            _say(label, text)
        self._said[label] = text


def _turn(one: SamplerState) -> str:
    outcome = one.outcome
    if outcome is None:
        return "no turn yet"
    failed = f", {outcome.failed} failed" if outcome.failed else ""
    return (
        f"{outcome.rows} rows in {outcome.seconds * 1000:.1f} ms, "
        f"{outcome.lines} lines, {size(outcome.bytes)}{failed}"
    )


def _say(label: str, text: str) -> None:
    now = dt.datetime.now(dt.UTC).strftime("%H:%M:%S")
    print(f"{now} {label:<11} {text}", flush=True)  # noqa: T201  # showing is what it is for
