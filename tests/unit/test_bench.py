"""What the bench makes of its figures."""

from bench import guard
from bench.goals import GOALS, outcomes
from bench.report import page


def run(size, who, cpu=0.02, rss=50.0):
    return {
        "size": size, "who": who, "seconds": 60.1,
        "cpu_s_per_cycle": cpu, "cpu_s_per_minute": cpu * 4,
        "core_share": cpu / 15, "cpu_s_per_1000_rows": 0.1, "bytes_per_cycle": 4000.0,
        "memory_mb": {"rss_p50": rss, "rss_p99": rss, "rss_peak": rss, "pss": rss},
        "server": {
            "backend_cpu_s_per_cycle": 0.02, "exec_ms_per_cycle": 20.0, "calls_per_cycle": 10.0,
            "rows_per_cycle": 100.0, "blocks_per_cycle": 100.0, "slowest_ms": 20.0,
            "connections_accepted": 0,
        },
        "lateness_ms": {"p50": 1.0, "p99": 2.0}, "first_sample_s": 1.0,
    }  # fmt: skip


def test_promises_are_told_as_kept_or_not_and_left_out_where_nothing_was_measured():
    runs = [run("medium", "floor"), run("medium", "agent 15s", cpu=0.06, rss=60.0)]
    told = {one.goal.name: one.word for one in outcomes(runs)}
    assert told["agent CPU each 15 s, medium"] == "**falls short**"
    assert told["RSS p99 each 15 s, medium"] == "holds"
    assert told["backend CPU each 15 s, medium"] == "as aimed at"
    assert len(told) < len(GOALS)


def test_the_page_has_every_run_and_the_machine():
    there = {"cores": 2, "processor": "a model", "kernel": "6", "python": "3"}
    runs = [run("medium", "floor"), run("medium", "agent 15s")]
    narrow = {
        "minutes": 30.0, "killed": 0, "lost": 0.0, "missing": 0, "lines": 1234, "core_share": 0.01,
        "throttled_s": 9.0, "rss_mb": runs[0]["memory_mb"], "rss_drift_mb": 0.1, "skipped": 0.0,
        "group_peak_mb": 60.0, "lateness_ms": {"every_s": 1.0, "p50": 1.0, "p99": 2.0},
        "backlog_lines": 100.0, "drained_lines_per_s": 50.0,
    }  # fmt: skip
    text = page({"machine": there, "major": 17, "day": "today", "runs": runs, "narrow": narrow})
    assert "| medium | agent 15s |" in text
    assert "a model" in text
    assert "\n4 cycles of 15 s" in text
    assert "0 lines lost, 0 of 1,234 missing" in text


def test_the_guard_complains_of_what_has_become_dearer(capsys):
    runs = [run("medium", "floor"), run("medium", "agent 15s", cpu=0.04)]
    before = guard.ratios(runs)
    assert guard.compared(before, before) == []
    worse = guard.ratios([runs[0], run("medium", "agent 15s", cpu=0.052)])
    assert guard.compared(worse, before) == ["agent CPU"]
    assert "TOO HIGH" in capsys.readouterr().out
