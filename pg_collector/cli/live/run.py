"""The view itself: drawn again and again until somebody ends it, or once."""

import datetime as dt
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from pg_collector.cli.live import page
from pg_collector.cli.live.feed import Feed
from pg_collector.cli.live.movement import ORDERS
from pg_collector.cli.live.panels import SUBJECTS
from pg_collector.cli.live.shown import Shown
from pg_collector.cli.live.terminal import Terminal
from pg_collector.errors import AgentUnreachable

INTERVALS: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0)  # seconds; the agent lets go after 30
TICK: Final = 1.0  # seconds after which ages are drawn anew
ONCE_WITHIN: Final = 15.0  # seconds for everything that is shown once
TEXTS_WITHIN: Final = 3.0


class View:
    """What the keys decide."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.zoom = ""
        self.help = False
        self.scroll = 0
        self.ended = False

    def shown(self) -> Shown:
        """Return what is to be shown now. With the feed's lock."""
        feed = self.feed
        return Shown(
            board=feed.board,
            now=time.monotonic(),
            wall=dt.datetime.now(dt.UTC),
            watched=feed.watched,
            status=feed.status,
            cpu=feed.cpu,
            trouble=feed.trouble,
            zoom=self.zoom,
            order=feed.order,
            paused=feed.paused,
            help=self.help,
            interval=feed.interval,
            scroll=self.scroll,
        )

    def press(self, key: str, rows: int) -> None:
        """Do what a key says; `rows` are those of a screen."""
        actions: dict[str, Callable[[], None]] = {
            "q": self._end,
            "?": self._turn_help,
            "h": self._turn_help,
            "escape": lambda: self._look_at(""),
            "tab": lambda: self._next_subject(1),
            "back tab": lambda: self._next_subject(-1),
            "left": lambda: self._next_target(-1),
            "right": lambda: self._next_target(1),
            "up": lambda: self._move(-1),
            "down": lambda: self._move(1),
            "page up": lambda: self._move(-rows),
            "page down": lambda: self._move(rows),
            " ": self._pause,
            "+": lambda: self._pace(-1),
            "-": lambda: self._pace(1),
            "p": self._next_order,
            "n": self.feed.sample_now,
        }
        if key in SUBJECTS:
            self._look_at("" if self.zoom == key else key)
        elif key.isdigit() and key != "0":
            self._target(int(key) - 1)
        elif key in actions:
            actions[key]()

    def _end(self) -> None:
        self.ended = True

    def _turn_help(self) -> None:
        self.help = not self.help

    def _look_at(self, zoom: str) -> None:
        self.zoom, self.scroll, self.help = zoom, 0, False

    def _next_subject(self, step: int) -> None:
        subjects = ("", *SUBJECTS)
        self._look_at(subjects[(subjects.index(self.zoom) + step) % len(subjects)])

    def _next_target(self, step: int) -> None:
        targets = self.feed.watched.targets if self.feed.watched is not None else ()
        if not targets:
            return
        name = self.feed.board.target
        place = targets.index(name) + step if name in targets else 0
        self._target(place % len(targets))

    def _target(self, place: int) -> None:
        targets = self.feed.watched.targets if self.feed.watched is not None else ()
        if place < len(targets):
            self.scroll = 0
            self.feed.choose(targets[place])

    def _move(self, rows: int) -> None:
        self.scroll = max(0, self.scroll + rows)

    def _pause(self) -> None:
        self.feed.paused = not self.feed.paused
        self.feed.hurry()

    def _pace(self, step: int) -> None:
        nearest = min(INTERVALS, key=lambda one: abs(one - self.feed.interval))
        place = INTERVALS.index(nearest) + step
        self.feed.interval = INTERVALS[max(0, min(len(INTERVALS) - 1, place))]
        self.feed.hurry()

    def _next_order(self) -> None:
        orders = list(ORDERS)
        self.feed.order = orders[(orders.index(self.feed.order) + 1) % len(orders)]
        self.feed.hurry()


def live(feed: Feed, environ: Mapping[str, str]) -> None:
    """Draw until `q`, Ctrl-C or a signal. Raises SystemExit, KeyboardInterrupt, OSError."""
    terminal, view = Terminal(environ), View(feed)
    stopping = threading.Event()
    asking = threading.Thread(
        target=feed.run, args=(stopping, terminal.wake), name="feed", daemon=True
    )
    with terminal.taken():
        asking.start()
        try:
            while not view.ended:
                if feed.failure is not None:
                    raise feed.failure
                width, height = terminal.size()
                with feed.lock:
                    lines = page.page(view.shown(), width, height)
                terminal.draw(lines)
                if key := terminal.key(TICK):
                    with feed.lock:
                        view.press(key, max(1, height - 8))
        finally:
            stopping.set()
            feed.hurry()


def once(feed: Feed) -> Shown:
    """Gather one picture: two samples of what is compared, and the texts. May be incomplete."""
    ends = time.monotonic() + ONCE_WITHIN
    while not feed.complete and not feed.trouble and time.monotonic() < ends:
        time.sleep(feed.delay())
        feed.step()
    ends = time.monotonic() + TEXTS_WITHIN
    while not feed.texts_are_there and not feed.trouble and time.monotonic() < ends:
        feed.step()
        time.sleep(feed.delay())
    if feed.trouble:
        raise AgentUnreachable(feed.trouble)
    return View(feed).shown()
