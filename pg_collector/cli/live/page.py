"""The picture: header, panels and foot, fitted into a terminal of some size. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pg_collector.cli.live import header, panels
from pg_collector.cli.live.grid import Line, Span, ends, fit, line, table
from pg_collector.cli.live.panels import SUBJECTS, Panel
from pg_collector.cli.live.shown import Shown, sentence
from pg_collector.cli.live.words import age
from pg_collector.mirror import SETS

ONCE_ROWS: Final = 20  # rows of a panel where no height bounds it
_NARROW: Final = 3  # of a panel: its title, its heading and a row

HELP: Final = (
    ("q, Ctrl-C", "end"),
    ("left, right, 1-9", "the target before, the next, that one"),
    ("a b s d r v", "alone: activity, blocked, statements, databases,"),
    ("", "replication, vacuum; once more: all of them"),
    ("tab, esc", "the next panel alone; all of them"),
    ("up, down, PgUp, PgDn", "move through the rows of a panel that stands alone"),
    ("p", "statements by time, calls, mean time, rows"),
    ("n", "have samples taken now"),
    ("space", "hold the picture, go on"),
    ("+ -", "look more often, more rarely; the agent's own"),
    ("", "intervals, which each panel names, stay as they are"),
    ("?", "this help"),
)


def page(shown: Shown, width: int, height: int) -> list[Line]:
    """Return as many lines as the terminal has, none wider than it."""
    top = header.lines(shown, width)[: max(1, height - 2)]
    foot = _foot(shown, width)
    room = height - len(top) - 1
    if shown.help:
        middle = [fit([Span(f"{keys:<22}", "title"), Span(what)], width) for keys, what in HELP]
    elif shown.zoom:
        middle = _alone(shown, width, room)
    else:
        middle = _together(shown, width, room)
    middle = middle[: max(0, room)]
    return [*top, *middle, *[[] for _ in range(room - len(middle))], foot][:height]


def whole(shown: Shown, width: int) -> list[Line]:
    """Return the picture without a bound on its height, and without keys."""
    found = header.lines(shown, width)
    for key in SUBJECTS:
        for panel in _made(shown, key):
            found += [[], *_block(shown, key, panel, width, min(ONCE_ROWS, len(panel.rows)))]
    return found


def _foot(shown: Shown, width: int) -> Line:
    keys = ["q quit", "? help", "esc all" if shown.zoom or shown.help else "a b s d r v panel"]
    if shown.watched is not None and len(shown.watched.targets) > 1:
        keys.append("<- -> target")
    keys += ["space hold", "n now", f"p by {shown.order}"]
    often = Span(f"every {shown.interval:g}s", "bar")
    return ends([Span("  ".join(keys), "bar")], [often], width)


def _made(shown: Shown, key: str) -> list[Panel]:
    """Return the panels of a subject."""
    if key == "s":
        return [panels.statements(shown.board, shown.order)]
    return [make(shown.board) for make in SUBJECTS[key]]


def _together(shown: Shown, width: int, room: int) -> list[Line]:
    """Return all panels, each with as many rows as there is room for."""
    chosen: list[tuple[str, Panel]] = []
    for key in SUBJECTS:
        first, *others = _made(shown, key)
        if key != "v" or first.rows:
            chosen.append((key, first))
        chosen += [(key, one) for one in others if key == "r" and one.rows]
    problems = [len(_problems(shown, panel)[:1]) for _, panel in chosen]
    taken = [
        (_NARROW if panel.rows else 1) + more
        for (_, panel), more in zip(chosen, problems, strict=True)
    ]
    counts = [min(1, len(panel.rows)) for _, panel in chosen]
    left = room - sum(taken)
    while left > 0 and any(
        n < len(panel.rows) for n, (_, panel) in zip(counts, chosen, strict=True)
    ):
        for number, (_, panel) in enumerate(chosen):
            if left > 0 and counts[number] < len(panel.rows):
                counts[number] += 1
                left -= 1
    found: list[Line] = []
    for (key, panel), count in zip(chosen, counts, strict=True):
        found += _block(shown, key, panel, width, count, problems=1)
    return found


def _alone(shown: Shown, width: int, room: int) -> list[Line]:
    """Return the panels of one subject on the whole screen; the last one moves."""
    *first, last = _made(shown, shown.zoom)
    found: list[Line] = []
    for panel in first:
        found += _block(shown, shown.zoom, panel, width, min(len(panel.rows), max(1, room // 3)))
    problems = len(_problems(shown, last))
    count = max(1, room - len(found) - 2 - problems)
    start = max(0, min(shown.scroll, len(last.rows) - count))
    moved = last._replace(rows=last.rows[start:])
    if start:
        moved = moved._replace(note=f"{last.note} from row {start + 1}".strip())
    return found + _block(shown, shown.zoom, moved, width, min(count, len(moved.rows)))


def _block(
    shown: Shown, key: str, panel: Panel, width: int, count: int, problems: int = 9
) -> list[Line]:
    """Return the lines of a panel with so many rows."""
    sampled = shown.board.sampler(panel.sampler)
    title = [
        Span(f"{key} ", "dim"),
        Span(panel.title, "bad" if panel.loud and panel.rows else "title"),
    ]
    notes = [panel.note] if panel.note else []
    if count < len(panel.rows):
        notes.append(f"{count} of {len(panel.rows)}")
    if not panel.rows and sampled is not None:
        title.append(Span(f": {panel.empty}"))
    if notes:
        title.append(Span("  " + ", ".join(notes), "dim"))
    found = [ends(line(*title), [_when(shown, panel.sampler)], width)]
    found += [
        fit(line(Span(f"  ! {one}", "warn")), width) for one in _problems(shown, panel)[:problems]
    ]
    if panel.rows:
        found += [[Span("  "), *one] for one in table(panel.columns, panel.rows[:count], width - 2)]
    return found


def _when(shown: Shown, sampler: str) -> Span:
    """Return how old the newest sample is, and how often there is one."""
    sampled = shown.board.sampler(sampler)
    every = shown.watched.every.get(sampler) if shown.watched is not None else None
    if sampled is None:
        if shown.watched is not None and every is None:
            return Span("not sampled", "dim")
        return Span("no sample yet", "dim")
    old = shown.now - sampled.came
    often = f", every {age(every)}" if every is not None else ", not sampled any more"
    late = every is not None and old > 2 * every + 1
    return Span(f"{age(old)} ago{often}", "warn" if late else "dim")


def _problems(shown: Shown, panel: Panel) -> Sequence[str]:
    """Return what is not well with a panel's sampler, in sentences."""
    found = []
    told = shown.watched.troubles.get(panel.sampler) if shown.watched is not None else None
    if told is not None and "" not in (shown.watched.troubles if shown.watched is not None else {}):
        found.append(sentence(told.error, told.remedy))
    found += [
        sentence(one.reason, one.remedy)
        for one in (shown.target.samplers if shown.target is not None else ())
        if one.name == panel.sampler and one.state == "paused"
    ]
    for (sampler, name), row in shown.board.states.items():
        mine = sampler == panel.sampler and (name is None or name in SETS)
        if mine and row["reason"] != "role" and row["state"] != "down":
            found.append(_of_state(row))
    return tuple(dict.fromkeys(found))  # the same of several sets is said once


def _of_state(row: Mapping[str, Any]) -> str:
    return sentence(row["message"] or row["reason"] or row["state"], row["remedy"] or "")
