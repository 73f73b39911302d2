"""Figures for people: a table, the machine they come from, and the page docs/performance.md."""

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.contestants import CYCLE
from bench.databases import SIZES
from bench.goals import Outcome, outcomes

Figures = Mapping[str, Any]

_COLUMNS: Final[Sequence[tuple[str, Callable[[Figures], str]]]] = (
    ("database", lambda run: str(run["size"])),
    ("who", lambda run: str(run["who"])),
    ("CPU s / cycle", lambda run: f"{run['cpu_s_per_cycle']:.3f}"),
    ("CPU s / min", lambda run: f"{run['cpu_s_per_minute']:.3f}"),
    ("% of a core", lambda run: f"{run['core_share'] * 100:.1f}"),
    (
        "CPU ms / 1,000 rows",
        lambda run: (
            f"{run['cpu_s_per_1000_rows'] * 1000:.1f}" if run["server"]["rows_per_cycle"] else ""
        ),
    ),
    ("RSS MB p50 / p99 / peak", lambda run: _memory(run["memory_mb"])),
    ("PSS MB", lambda run: f"{run['memory_mb']['pss']:.0f}"),
    ("backend CPU s / cycle", lambda run: f"{run['server']['backend_cpu_s_per_cycle']:.3f}"),
    ("server ms / cycle", lambda run: f"{run['server']['exec_ms_per_cycle']:.0f}"),
    ("rows / cycle", lambda run: f"{run['server']['rows_per_cycle']:,.0f}"),
    ("blocks / cycle", lambda run: f"{run['server']['blocks_per_cycle']:,.0f}"),
    ("slowest ms", lambda run: f"{run['server']['slowest_ms']:.0f}"),
    ("kB / cycle", lambda run: f"{run.get('bytes_per_cycle', 0) / 1000:,.1f}"),
    ("kB / min", lambda run: f"{run.get('bytes_per_cycle', 0) * 4 / 1000:,.1f}"),
    ("late ms p50 / p99", lambda run: _late(run)),  # noqa: PLW0108  # it stands below
    (
        "first sample s",
        lambda run: f"{run['first_sample_s']:.2f}" if "first_sample_s" in run else "",
    ),
    ("connections", lambda run: f"{run['server']['connections_accepted']}"),
)


def machine() -> dict[str, Any]:
    """Return what was measured on."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "cores": os.cpu_count(),
        "processor": model,
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def table(figures: Figures) -> str:
    """Return the runs as a table in Markdown."""
    rows = [[show(run) for _, show in _COLUMNS] for run in figures["runs"]]
    head = [name for name, _ in _COLUMNS]
    return "\n".join(["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)])


def goals(figures: Figures) -> str:
    """Return what was promised, and what became of it, as a table in Markdown."""
    lines = ["| promise | measured | must | aim | |", "| --- | ---: | ---: | ---: | --- |"]
    for goal, value in (one for one in outcomes(figures["runs"])):
        word = Outcome(goal, value).word
        lines.append(
            f"| {goal.name} | {value:.3g} {goal.unit} | {goal.must:g} | {goal.aim:g} | {word} |"
        )
    return "\n".join(lines)


def growth(figures: Figures) -> str:
    """Return what the agent costs on each database, as a table in Markdown."""
    lines = [
        "| database | tables | statements | sessions | targets | CPU ms / cycle | RSS MB"
        " | backend CPU ms / cycle | kB / cycle |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for run in figures["runs"]:
        if run["who"] not in {"agent 15s", "agent 100 targets"}:
            continue
        size = SIZES[run["size"]]
        targets = 1 if run["who"] == "agent 15s" else 100
        lines.append(
            f"| {size.name} | {size.tables:,} | {size.statements:,} | {size.sessions} | {targets}"
            f" | {run['cpu_s_per_cycle'] * 1000:.0f} | {run['memory_mb']['rss_p99']:.0f}"
            f" | {run['server']['backend_cpu_s_per_cycle'] * 1000:.0f}"
            f" | {run['bytes_per_cycle'] / 1000:.1f} |"
        )
    return "\n".join(lines)


def narrow(figures: Figures) -> str:
    """Return what became of the run of bench.narrow, in Markdown."""
    late, memory = figures["lateness_ms"], figures["rss_mb"]
    return (
        "## Where room is narrow\n\n"
        f"{figures['minutes']:g} minutes on the medium database, every sampler at the shortest "
        "intervals of the plan\nenterprise, in a tenth of a core and 64 MB kept by the kernel, the "
        "buffer on a volume of 100 MB with\n`disk_max: 80MB`; the platform was away for two "
        "minutes (`python -m bench.narrow`).\n\n"
        f"- Killed {figures['killed']} times, {figures['lost']:g} lines lost, "
        f"{figures['missing']} of {figures['lines']:,} missing on the platform.\n"
        f"- {figures['core_share']:.1%} of a core on average; {figures['throttled_s']:.0f} s of "
        "waiting for the next tenth.\n"
        f"- RSS {_memory(memory)} MB, {figures['rss_drift_mb']:+.1f} MB from begin to end; the "
        f"group's peak, files included, {figures['group_peak_mb']:.0f} MB.\n"
        f"- `activity` each {late['every_s']:g} s was late by {late['p50']:.0f} ms (p50), "
        f"{late['p99']:.0f} ms (p99); {figures['skipped']:g} turns were left out.\n"
        f"- {figures['backlog_lines']:,.0f} lines that had waited were delivered at "
        f"{figures['drained_lines_per_s']:,.0f} a second.\n\n"
    )


def page(figures: Figures) -> str:
    """Return docs/performance.md."""
    there = figures["machine"]
    return _PAGE.format(
        goals=goals(figures), table=table(figures), growth=growth(figures), day=figures["day"],
        major=figures["major"], cycles=_cycles(figures["runs"]),
        narrow=narrow(figures["narrow"]) if figures.get("narrow") else "", **there,
    )  # fmt: skip


_PAGE: Final = """# What the agent costs

This page is written by `python -m bench --page`; [bench/README.md](../bench/README.md) says what
each figure means, and how to have them for a machine of yours. Absolute times are of one machine:
what can be compared are rows of this table with each other.

Measured on {day}: {processor}, {cores} cores, Linux {kernel}, Python {python}, PostgreSQL {major},
{cycles} cycles of 15 s for a line.

## Promises

{goals}

*Floor* is what reading the same takes with nothing around it, in the same run. *Each 15 s*: every
sampler each 15 s, the hourly one, too; *seldom*: sessions each 10 s, statements each 60 s, the rest
each 10 min; *fast*: the shortest intervals of the plan enterprise, with the budget on.

## Figures

{table}

## What grows with what

Of the agent with every sampler each 15 s; *tables*, *statements* and *sessions* are the small
database with as many of these as the large one has. A target more is in the row of 100 targets.

{growth}

{narrow}## Where it goes

- **Memory.** Python with the packages that the agent cannot do without takes 47 to 50 MB, the
  floor 53 with its data; sessions, threads and what each set remembers are the rest. One arena of
  the C library instead of one a thread saves 8 MB ([allocator.py](../pg_collector/allocator.py)),
  requests without what guesses encodings 2.5, and what other libraries import and do not use 1.5
  ([lean.py](../pg_collector/lean.py)). What a full garbage collection frees goes back to the
  system. What moves in half an hour are mostly pages of libraries, which the kernel takes away and
  brings back.
- **The agent's processor time.** About half of a cycle on the medium database goes into some 36
  statements, each with its answer, its masks and its line; a seventh into writing these to disk, as
  much into one request to the platform, and the rest into scheduling, the watchdog and the main
  thread; by thread, from the kernel's scheduler statistics. The floor has none of the second half.
  What the server can compare it compares
  ([0032](decisions/0032-many-rows-are-compared-where-they-are.md)), what is asked again is
  prepared ([0034](decisions/0034-what-is-asked-again-is-prepared.md)), and a target's turns come
  together, so that a wake-up, a commit and a request serve all of them.
- **The server's.** Of the large database's 134 ms, about 31 are pg_stat_statements, for two passes
  over 10,000 entries of which each makes a row of every one; 40 the passes of `vacuum` and `statio`
  over 50,000 relations, which are made once a minute at most
  ([0035](decisions/0035-all-relations-once-a-minute.md)); 17 the choice of what `bloat` estimates,
  which by default comes once an hour; 5 `pg_blocking_pids` for 50 blocked sessions, and 5
  `pg_database_size`. Reading the texts of 10,000 statements, a megabyte a turn, comes once, in the
  two minutes after the start, and is not in these figures: it is 24 ms and 80 kB a turn.
"""


def _cycles(runs: Sequence[Figures]) -> str:
    counts = sorted({round(run["seconds"] / CYCLE) for run in runs})
    return f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"


def _memory(memory: Figures) -> str:
    return f"{memory['rss_p50']:.0f} / {memory['rss_p99']:.0f} / {memory['rss_peak']:.0f}"


def _first(run: Figures) -> str:
    return f"{run['first_sample_s']:.2f}" if "first_sample_s" in run else ""


def _late(run: Figures) -> str:
    late = run.get("lateness_ms")
    return f"{late['p50']:.0f} / {late['p99']:.0f}" if late else ""
