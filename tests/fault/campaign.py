"""A campaign: many independent trials of several kinds, over hours, that can be broken off.

Every finished trial leaves one record in `trials.jsonl` of the campaign's directory; a rerun goes
on with those that have none. A trial is a function of its kind, its seed (its number) and an empty
directory; it raises AssertionError where something was violated. Trials run in processes of their
own, so that one that crashes or hangs is a violation and not the end of the campaign.
"""

import datetime as dt
import fcntl
import json
import multiprocessing
import operator
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Final, NamedTuple, TextIO

PARALLEL: Final = 2
PROGRESS: Final = 10.0  # seconds between two lines
LONGEST: Final = 300.0  # seconds that a trial may take

_JOINED: Final[Mapping[str, Callable[[float, float], float]]] = {"max_": max, "min_": min}
_GRACE: Final = 5.0  # seconds for a trial that has answered to end


class Result(NamedTuple):
    """What a trial without a violation found: figures that are added up over all trials.

    Of those whose names begin with `max_` or `min_` the largest or the smallest counts.
    """

    figures: Mapping[str, float]


Trial = Callable[[str, int, Path], Result]


@dataclass(frozen=True)
class Record:
    """One finished trial, as it stands in the state file."""

    kind: str
    seed: int
    seconds: float
    violation: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass
class _Running:
    """A trial on its way."""

    kind: str
    seed: int
    process: ForkServerProcess
    answer: Connection
    place: Path
    began: float


class Campaign:
    """Trials of several kinds, so many of each, in one directory.

    `trials` maps a kind to its function, which must be importable by name; `counts` to how many.
    Raises BlockingIOError when another campaign uses the directory.
    """

    def __init__(
        self,
        trials: Mapping[str, Trial],
        counts: Mapping[str, int],
        directory: Path,
        *,
        parallel: int = PARALLEL,
        longest: float = LONGEST,
        out: TextIO = sys.stderr,
    ) -> None:
        self._trials = trials
        self._counts = counts
        self._directory = directory
        self._parallel = parallel
        self._longest = longest
        self._out = out
        self._state = directory / "trials.jsonl"
        self._running: list[_Running] = []
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(sorted({one.__module__ for one in trials.values()}))
        self._next_progress = 0.0

    def run(self) -> list[Record]:
        """Run what has no record yet; return all records of the kinds and counts asked for."""
        self._directory.mkdir(parents=True, exist_ok=True)
        with self._alone():
            records = {(one.kind, one.seed): one for one in self._records()}
            wanted = [(kind, seed) for kind, n in self._counts.items() for seed in range(1, n + 1)]
            todo = _mixed([one for one in wanted if one not in records])
            with self._state.open("a") as state:
                try:
                    for record in self._finish(todo):
                        state.write(json.dumps(asdict(record)) + "\n")
                        state.flush()
                        records[record.kind, record.seed] = record
                        self._progress(records, wanted)
                finally:
                    self._stop()
            self._progress(records, wanted, now=True)
        return [records[one] for one in wanted]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self._directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield

    def _records(self) -> list[Record]:
        """Read the state file; a last line that was cut short is removed."""
        if not self._state.exists():
            return []
        text = self._state.read_bytes()
        end = text.rfind(b"\n") + 1
        if end < len(text):
            os.truncate(self._state, end)
        return [Record(**json.loads(line)) for line in text[:end].splitlines()]

    def _finish(self, todo: list[tuple[str, int]]) -> Iterator[Record]:
        """Yield a record for every trial, as they finish."""
        while todo or self._running:
            while todo and len(self._running) < self._parallel:
                self._running.append(self._start(*todo.pop(0)))
            wait([one.answer for one in self._running], timeout=1.0)
            for one in list(self._running):
                overdue = time.monotonic() - one.began > self._longest
                if overdue or one.answer.poll():
                    self._running.remove(one)
                    yield self._outcome(one)

    def _start(self, kind: str, seed: int) -> _Running:
        place = self._directory / f"{kind}-{seed}"
        shutil.rmtree(place, ignore_errors=True)  # of a trial that was broken off
        place.mkdir()
        ours, theirs = self._context.Pipe(duplex=False)
        arguments = (self._trials[kind], kind, seed, place, theirs)
        process = self._context.Process(target=_try, args=arguments, name=f"{kind}-{seed}")
        process.start()
        theirs.close()
        return _Running(kind, seed, process, ours, place, time.monotonic())

    def _outcome(self, one: _Running) -> Record:
        """Take what a trial answered; keep its directory where something was violated."""
        seconds = time.monotonic() - one.began
        figures: Mapping[str, float] = {}
        grace = _GRACE
        if not one.answer.poll():
            violation = f"not done within {self._longest:g} s"
            grace = 0.0
        else:
            try:
                violation, figures = one.answer.recv()
            except EOFError:
                one.process.join(_GRACE)
                violation = f"its process ended: {_end(one.process.exitcode)}"
        _end_process(one.process, grace)
        one.answer.close()
        if not violation:
            shutil.rmtree(one.place, ignore_errors=True)
        return Record(one.kind, one.seed, round(seconds, 3), violation, figures)

    def _stop(self) -> None:
        for one in self._running:
            _end_process(one.process, 0.0)
            one.answer.close()
        self._running.clear()

    def _progress(
        self,
        records: Mapping[tuple[str, int], Record],
        wanted: list[tuple[str, int]],
        *,
        now: bool = False,
    ) -> None:
        if not now and time.monotonic() < self._next_progress:
            return
        self._next_progress = time.monotonic() + PROGRESS
        done = Counter(kind for kind, seed in wanted if (kind, seed) in records)
        bad = sum(1 for one in wanted if one in records and records[one].violation)
        counts = ", ".join(f"{kind} {done[kind]}/{n}" for kind, n in self._counts.items())
        self._out.write(f"{dt.datetime.now(dt.UTC):%H:%M:%S} {counts}, {bad} violations\n")
        self._out.flush()


def _try(trial: Trial, kind: str, seed: int, place: Path, answer: Connection) -> None:
    """Be the process of one trial."""
    os.setpgid(0, 0)  # what it starts ends with it
    threading.Thread(target=_end_with_campaign, name="campaign-end", daemon=True).start()
    try:
        figures = dict(trial(kind, seed, place).figures)
    except AssertionError as error:
        answer.send((str(error) or traceback.format_exc(), {}))
    except Exception:  # noqa: BLE001 - a trial that cannot be carried out proves nothing
        answer.send((traceback.format_exc(), {}))
    else:
        answer.send(("", figures))
    answer.close()


def _end_with_campaign() -> None:
    """Be the thread that ends a trial whose campaign is gone: a rerun starts it again."""
    campaign = multiprocessing.parent_process()
    assert campaign is not None
    campaign.join()
    os.killpg(0, signal.SIGKILL)


def _end_process(process: ForkServerProcess, grace: float) -> None:
    """Give a trial's process so many seconds, then kill it; kill what it started in any case."""
    process.join(grace)
    assert process.pid is not None
    process.kill()
    with suppress(ProcessLookupError):  # no one is left in its group
        os.killpg(process.pid, signal.SIGKILL)
    process.join()
    process.close()


def _end(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"


def _mixed(todo: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Order by seed: a campaign that is broken off has done some of every kind."""
    return sorted(todo, key=lambda one: one[1])


@dataclass(frozen=True)
class Summary:
    """What the trials of one kind came to."""

    kind: str
    trials: int
    violations: int
    seconds: float
    figures: Mapping[str, float]


def summarize(records: Sequence[Record]) -> list[Summary]:
    """Add up the records by kind, in the order in which the kinds come."""
    summaries = []
    for kind in dict.fromkeys(record.kind for record in records):
        ours = [record for record in records if record.kind == kind]
        figures: dict[str, float] = {}
        for record in ours:
            for name, value in record.figures.items():
                joined = _JOINED.get(name[:4], operator.add)
                figures[name] = joined(figures[name], value) if name in figures else value
        violations = sum(1 for record in ours if record.violation)
        seconds = round(sum(record.seconds for record in ours), 1)
        summaries.append(Summary(kind, len(ours), violations, seconds, figures))
    return summaries


def table(summaries: Sequence[Summary]) -> str:
    """Return the summaries as a table in Markdown, one column for each figure that occurs."""
    names = list(dict.fromkeys(name for one in summaries for name in one.figures))
    rows = [["kind", "trials", "violations", *(name.replace("_", " ") for name in names)]]
    rows += [
        [one.kind, f"{one.trials:,}", f"{one.violations:,}"]
        + [f"{one.figures[name]:,.6g}" if name in one.figures else "-" for name in names]
        for one in summaries
    ]
    rows.insert(1, ["---", *["---:"] * (len(rows[0]) - 1)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main(trials: Mapping[str, Trial], arguments: Sequence[str], out: TextIO = sys.stdout) -> int:
    """Run a campaign from the command line: `DIRECTORY kind=count ...`; return the exit code.

    Beside the records it leaves `summary.json` and `summary.md` in the directory. 1 means that
    something was violated, 2 that the arguments are wrong.
    """
    try:
        directory, *rest = arguments
        counts = {kind: int(count) for kind, count in (one.split("=") for one in rest)}
    except ValueError:
        counts, directory = {}, ""
    if not counts or not counts.keys() <= trials.keys():
        out.write(f"usage: DIRECTORY KIND=COUNT ...; kinds: {', '.join(trials)}\n")
        return 2
    records = Campaign(trials, counts, Path(directory), out=out).run()
    summaries = summarize(records)
    text = table(summaries)
    Path(directory, "summary.md").write_text(text)
    Path(directory, "summary.json").write_text(json.dumps([asdict(one) for one in summaries]))
    out.write(text)
    violated = [record for record in records if record.violation]
    for record in violated:
        kept = Path(directory, f"{record.kind}-{record.seed}")
        out.write(f"\n{record.kind} {record.seed} ({kept}): {record.violation}\n")
    return 1 if violated else 0
