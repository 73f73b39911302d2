"""Trials of a campaign: an agent killed, a power cut, a damaged file; each with the same oracle.

What was promised arrives once and in order, or is counted and told as a gap; payloads are right; a
fresh line passes in the end.
"""

import contextlib
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from pathlib import Path

from pg_collector.buffer.spill import SpillingBuffer
from pg_collector.sample import Gap, Keep
from tests.fault.campaign import Result
from tests.fault.crash.harness import Life, Lives
from tests.fault.crash.writer import opened
from tests.support.corruption import damage
from tests.support.far_side import Answer, FarSide
from tests.support.fasttime import FastTime
from tests.support.lab.server import Server
from tests.support.lines import check, make
from tests.support.pki import Pki
from tests.support.powercut import Recording
from tests.support.reference_platform import ReferencePlatform
from tests.support.until import until

POINTS = 25  # cut points of one recording; each gives two images
LINES = 700  # of one recording
STALLED = 30.0  # seconds without a line committed, while one is put every few milliseconds
KILLS = 20  # of one state directory
MOODS = (
    Answer(),
    Answer(commit=True, status=503),  # the acknowledgement is lost
    Answer(status=503),
    Answer(reset=True),
    Answer(commit=True, cut_after=40),
)

# What may be given up by policy; anything else is a loss that has to be explained by damage.
BY_POLICY = {"thinned", "disk_full", "memory_full"}


class Drained:
    """What came out of a buffer: every number once, as line or gap, from the first to the last."""

    def __init__(self, buffer: SpillingBuffer, accepted: int) -> None:
        self.first = self.last = 0
        self.lines = 0
        self.gaps: list[Gap] = []
        self.gone: Counter[str] = Counter()  # numbers in gaps beyond what the far side has
        while (batch := buffer.peek(200_000, 300)) is not None:
            self.first = self.first or batch.first
            assert not self.last or batch.first == self.last + 1, "numbers are missing"
            for number, line in batch.numbered():
                assert check(line) == number, f"line {number} is another one"
            for gap in batch.gaps:
                if gap.last > accepted:
                    self.gone[gap.reason] += gap.last - max(accepted, gap.first - 1)
            self.gaps += batch.gaps
            self.lines += sum(number > accepted for number, _ in batch.numbered())
            self.last = batch.last
            buffer.ack(batch.last)
        account = buffer.account()
        assert account.balanced, f"{account}"
        assert account.buffered == 0, f"all is delivered, and yet {account}"


def continues(buffer: SpillingBuffer, last: int) -> None:
    """Assert that a fresh line passes, with the next number."""
    assert buffer.journal is not None
    number = buffer.put(make(last + 1, 10), Keep.EVENT)
    buffer.journal.step()
    batch = buffer.peek(100_000, 10)
    assert batch is not None
    assert batch.last == number
    buffer.ack(number)
    assert buffer.account().buffered == 0
    buffer.close(5.0)


def recorded(seed: int, place: Path) -> Recording:
    """Let the writer run on a directory below `place`, recorded."""
    directory = place / "buffer"
    directory.mkdir(mode=0o700)
    recording = Recording(directory, place / "log")
    program = (sys.executable, "-m", "tests.fault.crash.writer", directory, str(seed), str(LINES))
    done = subprocess.run(
        program,
        env=recording.environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return recording


def kills(_kind: str, seed: int, place: Path) -> Result:
    """Kill an agent again and again, with a real server before it and a far side that has moods."""
    chance = random.Random(seed)  # noqa: S311
    with Server(chance.choice((12, 18))) as server, _far_side(seed, place) as (far, trust):
        lives = Lives(place, far, server.dsn("pgcollector"), **trust)
        for _ in range(KILLS):
            far.script.extend(chance.choices(MOODS, (60, 6, 6, 4, 4), k=chance.randint(0, 12)))
            lives.killed(chance)
        far.script.clear()
        figures = lives.finished()
        assert figures.told == 0, f"lost: {figures}"
        return Result(
            {
                "kills": lives.kills,
                "lines_put": figures.put,
                "lines_committed": figures.committed,
                "lines_delivered": figures.delivered,
                "lost_before_commit": figures.unpromised,
                "duplicates_on_the_wire": far.ledger.duplicates,
            }
        )


def pairs(_kind: str, seed: int, place: Path) -> Result:
    """Kill an agent and its platform again and again, each at a moment of its own."""
    chance = random.Random(seed)  # noqa: S311
    with (
        Server(chance.choice((12, 18))) as server,
        ReferencePlatform(place) as platform,
        ThreadPoolExecutor(1) as beside,
    ):
        lives = Lives(place, platform, server.dsn("pgcollector"), api_key=platform.new_key("bench"))
        for _ in range(KILLS):
            fallen = beside.submit(_fall, platform, chance.uniform(0.2, 2.5))
            lives.killed(chance)
            fallen.result(60)
        figures = lives.finished()
        assert figures.told == 0, f"lost: {figures}"
        return Result(
            {
                "kills_of_the_agent": lives.kills,
                "kills_of_the_platform": KILLS,
                "lines_put": figures.put,
                "lines_committed": figures.committed,
                "lines_delivered": figures.delivered,
                "lost_before_commit": figures.unpromised,
            }
        )


def _fall(platform: ReferencePlatform, seconds: float) -> None:
    """Kill a platform after so many seconds, and start it again."""
    assert platform.process is not None
    with contextlib.suppress(subprocess.TimeoutExpired):
        platform.process.wait(seconds)
        raise AssertionError(f"the platform ended by itself: {platform.log.read_text()[-500:]}")
    platform.kill()
    platform.start()


def outages(_kind: str, seed: int, place: Path) -> Result:
    """Let a day pass without the platform, a line a second; then drain."""
    return outage(seed, place, hours=24, factor=1500.0)


def outage(seed: int, place: Path, *, hours: float, factor: float) -> Result:
    """Let hours pass without the platform, so many times faster; return how the backlog drained.

    An odd seed lifts the rate cap and the resume delay, an even one drains with the defaults.
    """
    lines = int(hours * 3600)
    how = "lifted" if seed % 2 else "with_defaults"
    pace = {
        "lifted": {"drain_rate_max": 1 << 40, "resume_delay_max": 0.0},
        "with_defaults": {"drain_rate_max": 1 << 20, "resume_delay_max": 30.0},
    }
    with FarSide() as far:
        lives = Lives(place, far, memory_max=4 << 20, platform=pace[how])
        far.down()
        lives.environment = FastTime(factor).environment()
        # A sync of the disk takes as long as ever, and so seems to take minutes; and an orderly
        # stop would have no time at all. It is killed.
        with lives.one(lines, pause=1.0, patience=86_400.0) as life:
            _passed(lives, life, lines)
        lives.environment = None
        far.up()
        before = time.monotonic()
        figures = lives.finished(fresh=1, within=600.0)
        assert figures.told == 0, f"{figures}"
        assert figures.delivered == lines + 1
        arrived = [one.at for one in far.seen if one.status == HTTPStatus.OK]
        drained = max(0.001, arrived[-1] - arrived[0])
        return Result(
            {
                "lines_of_the_outage": lines,
                "lines_delivered": figures.delivered,
                f"max_drain_seconds_{how}": round(drained, 2),
                f"min_lines_a_second_{how}": round(lines / drained),
                "max_seconds_to_first_delivery": round(arrived[0] - before, 2),
            }
        )


def _passed(lives: Lives, life: Life, lines: int) -> None:
    """Wait until so many lines are committed; fails where it does not go on for STALLED seconds."""
    committed = 0
    while committed < lines:
        assert not life.over, lives.log()
        seen = partial(_beyond, lives, life, committed)
        committed = until(seen, STALLED, f"more than {committed} of {lines} lines are committed")


def _beyond(lives: Lives, life: Life, committed: int) -> int:
    """Return how many lines are committed, once they are more than that or the life is over."""
    now = len(lives.journal.committed)
    return now if now > committed or life.over else 0


@contextlib.contextmanager
def _far_side(seed: int, place: Path) -> Iterator[tuple[FarSide, dict[str, str]]]:
    """Start a far side, over TLS for every second seed; yield it and how it is trusted."""
    if seed % 2:
        with FarSide() as far:
            yield far, {}
        return
    folder = place / "pki"
    folder.mkdir()
    pki = Pki(folder)
    with FarSide(tls=pki.server) as far:
        yield far, {"ca_file": str(pki.ca)}


def cuts(_kind: str, seed: int, place: Path) -> Result:
    """Cut the power at many moments of one recorded life."""
    recording = recorded(seed, place)
    figures: Counter[str] = Counter()
    points = recording.points(POINTS, seed=seed)
    for image in recording.images(points, place, seed=seed):
        durable = max(image.marks.get("durable", ()), default=0)
        accepted = max(image.marks.get("accepted", ()), default=0)
        buffer = opened(image.path, seed)
        journal = buffer.journal
        assert journal is not None
        assert journal.trouble is None, f"{image}: {journal.trouble}"
        drained = Drained(buffer, accepted)
        where = f"{image.survival} after {image.point} operations"
        if drained.last:
            assert drained.first <= accepted + 1, f"{where}: {accepted + 1} is missing"
        reached = max(drained.last, accepted)
        assert reached >= durable, f"{where}: lost {reached + 1} to {durable}, which were durable"
        assert set(drained.gone) <= BY_POLICY, f"{where}: {drained.gone}"
        continues(buffer, reached)
        figures["images"] += 1
        figures["lines_after_cuts"] += drained.lines
        figures["given_up_by_policy"] += sum(drained.gone.values())
        figures["duplicates_on_the_wire"] += max(0, accepted + 1 - drained.first) * bool(
            drained.last
        )
    return Result(dict(figures))


def corruptions(_kind: str, seed: int, place: Path) -> Result:
    """Damage one file of a directory that a life left behind, many times over."""
    recording = recorded(seed, place)
    figures: Counter[str] = Counter()
    chance = random.Random(seed)  # noqa: S311
    for number in range(POINTS):
        copy = place / "copy"
        shutil.copytree(recording.directory, copy)
        with contextlib.closing(_Fresh(copy, seed)) as whole:
            sound = whole.state()
        shutil.rmtree(copy)
        shutil.copytree(recording.directory, copy)
        (done,) = damage(copy, chance.randrange(1 << 30))
        figures.update(_damaged(copy, seed, str(done), sound))
        figures["images"] += 1
        figures[f"of_{done.path.name}"] += number >= 0
        shutil.rmtree(copy)
    return Result(dict(figures))


class _Fresh:
    """An undamaged copy, opened to see what should be there."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.buffer = opened(directory, seed)

    def state(self) -> tuple[int, int, int]:
        """Return what is acknowledged, the last number, and how many lines wait."""
        assert self.buffer.journal is not None
        return self.buffer.journal.call(lambda spool: (spool.state.acked, spool.top, spool.lines))

    def close(self) -> None:
        self.buffer.close(5.0)


def _damaged(copy: Path, seed: int, what: str, sound: tuple[int, int, int]) -> Counter[str]:
    """Open a damaged directory, drain it, and hold what came against what should have been."""
    acked, top, waiting = sound
    buffer = opened(copy, seed)
    assert buffer.journal is not None
    if buffer.journal.trouble is not None:
        assert "format" in what, f"{what}: {buffer.journal.trouble}"
        buffer.close(1.0)
        return Counter(refused=1)
    try:
        drained = Drained(buffer, acked)
    except AssertionError as error:
        raise AssertionError(f"{what}: {error}") from error
    by_damage = {k: n for k, n in drained.gone.items() if k not in BY_POLICY}
    lost = {k: n for k, n in buffer.account().lost.items() if k not in BY_POLICY}
    missing = waiting - drained.lines
    counted = sum(lost.values())
    assert counted == missing, f"{what}: {lost}, though {missing} are missing"
    assert max(drained.last, acked) >= top, f"{what}: nothing tells of {drained.last + 1} to {top}"
    assert bool(by_damage) == bool(lost), f"{what}: {by_damage} in gaps, {lost} counted"
    continues(buffer, max(drained.last, top))
    return Counter(lost_to_damage=missing)
