"""Figures for people: a table, the machine they come from, and the page docs/performance.md."""

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

Figures = Mapping[str, Any]

_COLUMNS: Final[Sequence[tuple[str, Callable[[Figures], str]]]] = (
    ("database", lambda run: str(run["size"])),
    ("who", lambda run: str(run["who"])),
    ("CPU s / cycle", lambda run: f"{run['cpu_s_per_cycle']:.3f}"),
    ("CPU s / min", lambda run: f"{run['cpu_s_per_minute']:.3f}"),
    ("% of a core", lambda run: f"{run['core_share'] * 100:.1f}"),
    ("CPU ms / 1,000 rows", lambda run: f"{run['cpu_s_per_1000_rows'] * 1000:.1f}"),
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
    ("first sample s", lambda run: f"{run['first_sample_s']:.2f}" if _is_agent(run) else ""),
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


def _is_agent(run: Figures) -> bool:
    return str(run["who"]).startswith("agent")


def _memory(memory: Figures) -> str:
    return f"{memory['rss_p50']:.0f} / {memory['rss_p99']:.0f} / {memory['rss_peak']:.0f}"


def _late(run: Figures) -> str:
    late = run.get("lateness_ms")
    return f"{late['p50']:.0f} / {late['p99']:.0f}" if late else ""
