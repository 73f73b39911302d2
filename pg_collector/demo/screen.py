"""The live view of a terminal: drawn anew in place, twice a second. Only this file knows rich."""

from collections import deque
from collections.abc import Sequence
from io import StringIO
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pg_collector.demo import words
from pg_collector.demo.feed import Row
from pg_collector.demo.watch import Picture, SamplerState, size

_MOST_BLOCKED: Final = 6
_MOST_NOTICES: Final = 3
_QUERY_LINES: Final = 3


class Notices(StringIO):
    """The log's last lines, for the foot of the screen: written to stderr they would tear it."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[str] = deque(maxlen=_MOST_NOTICES)

    def write(self, text: str, /) -> int:
        """Keep the lines."""
        self._lines.extend(text.splitlines())
        return len(text)

    def lines(self) -> list[str]:
        """Return the last ones."""
        return list(self._lines)


class LiveView:
    """Owns the terminal's alternate screen until it is closed."""

    every = 0.5  # seconds between two looks

    def __init__(self, title: str, links: Sequence[str], notices: Notices) -> None:
        self._title = title
        self._links = links
        self._notices = notices
        self._console = Console(highlight=False)
        # No thread of rich's own, and its streams stay as they are.
        self._live = Live(
            console=self._console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def show(self, picture: Picture) -> None:
        """Draw. Raises OSError when the terminal is gone."""
        self._live.update(self._page(picture), refresh=True)

    def close(self) -> None:
        """Give the terminal back as it was."""
        self._live.stop()

    def _page(self, picture: Picture) -> Group:
        parts: list[RenderableType] = [
            _line((self._title, "bold")),
            *(_line((link, "dim")) for link in self._links),
            _line((_written(picture), "")),
            *_delivered(picture),
            Text(),
            self._samplers(picture.samplers),
            Text(),
            *self._activity(picture.sessions.rows),
        ]
        if picture.trouble:
            parts.append(_line((picture.trouble, "bold red")))
        parts += [_line((notice, "yellow")) for notice in self._notices.lines()]
        parts += [Text(), _line(("Ctrl-C ends it.", "dim"))]
        return Group(*parts)

    def _samplers(self, samplers: Sequence[SamplerState]) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("sampler", no_wrap=True, style="cyan")
        for name in ("every", "last", "rows", "ms", "lines", "size", "next"):
            table.add_column(name, justify="right", no_wrap=True)
        for one in samplers:
            table.add_row(one.name, f"{one.every:g} s", *_turn(one))
        return table

    def _activity(self, rows: Sequence[Row]) -> list[RenderableType]:
        parts: list[RenderableType] = [_line(("Longest query", "bold"))]
        found = words.longest(rows)
        if found is None:
            parts.append(_line(("  none runs", "")))
        else:
            parts.append(_line((f"  {found.seconds:.1f} s  {found.who}", "")))
            room = max(20, self._console.width - 4) * _QUERY_LINES
            parts.append(Padding(Text(found.query[:room], style="green"), (0, 0, 0, 4)))
        parts.append(_line(("Waits", "bold")))
        parts.append(Padding(Text(", ".join(words.waits(rows)) or "nobody waits"), (0, 0, 0, 2)))
        parts.append(_line(("Blocked", "bold")))
        tree = words.blocking(rows)
        for depth, sentence in tree[:_MOST_BLOCKED]:
            parts.append(Padding(Text(sentence, style="red"), (0, 0, 0, 2 + 2 * depth)))
        if len(tree) > _MOST_BLOCKED:
            parts.append(_line((f"  and {len(tree) - _MOST_BLOCKED} more", "")))
        if not tree:
            parts.append(_line(("  nobody", "")))
        return parts


def _line(*parts: tuple[str, str]) -> Text:
    """Return a line that is cut where the terminal ends."""
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def _turn(one: SamplerState) -> tuple[str, ...]:
    due = f"{one.due:.0f} s" if one.due is not None else "-"
    if one.outcome is None or one.ago is None:
        return ("-", "-", "-", "-", "-", due)
    outcome = one.outcome
    failed = f" ({outcome.failed} failed)" if outcome.failed else ""
    return (
        f"{one.ago:.0f} s ago",
        str(outcome.rows),
        f"{outcome.seconds * 1000:.1f}",
        f"{outcome.lines}{failed}",
        size(outcome.bytes),
        due,
    )


def _written(picture: Picture) -> str:
    total = picture.total
    done = "written" if picture.delivery is None else "delivered"
    return f"{_clock(picture.running)}   {total.lines} lines, {size(total.bytes)} {done}"


def _delivered(picture: Picture) -> list[RenderableType]:
    """Return a line about the platform, where there is one."""
    found = picture.delivery
    if found is None:
        return []
    return [_line(("platform ", "cyan"), (found.sentence, "bold red" if found.trouble else ""))]


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"
