"""`pgc buffer`: look at what waits to be delivered, take it out, deliver it, give it up."""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, BinaryIO, Final

import msgspec
import typer

from pg_collector.buffer.spill import SpillingBuffer
from pg_collector.buffer.upkeep import Upkeep
from pg_collector.buffer_verbs import DrainRequest, PageTold
from pg_collector.buffer_verbs import Progress as Delivered
from pg_collector.cli import EXIT_PROBLEM, buffer_quarantine, buffer_words
from pg_collector.cli.buffer_access import Running, Stopped, find, stopped
from pg_collector.cli.options import ConfigOption, JsonOption, SetOption
from pg_collector.cli.printable import printable
from pg_collector.cli.progress import Progress
from pg_collector.clock import Clock, SystemClock
from pg_collector.config.model import Config
from pg_collector.errors import AgentUnreachable, CollectorError
from pg_collector.metrics import Metrics
from pg_collector.outlets import Outlet
from pg_collector.sender import Sender, Trouble

OutletSource = Callable[[Clock, Metrics], Outlet]

LOOK_EVERY: Final = 0.5  # seconds between two looks at a delivery
URGE_EVERY: Final = 5.0
FILE_MODE: Final = 0o600

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Look at what waits to be delivered; take it out, deliver it, or give it up.\n\n"
    "\b\n"
    "  pgc buffer status                     what waits, where, and for how long there is room\n"
    "  pgc buffer verify                     read all of it, and say what is damaged\n"
    "  pgc buffer export lines.ndjson        all of it as JSON lines; it goes on waiting\n"
    "  pgc buffer drain --timeout 60         deliver it now\n"
    "  pgc buffer quarantine list            lines that the far side refused\n\n"
    "The buffer is that of the configuration. Where its agent runs, the agent is asked; else the "
    "directory is opened. status, verify and export change nothing.\n\n"
    "Exit codes: 0 well, 1 a problem, 69 it takes an agent and none answers, 73 the directory is "
    "another user's, 77 not permitted, 78 the configuration is invalid.",
)
app.add_typer(buffer_quarantine.app, name="quarantine")


@app.command(epilog="Example: pgc buffer status --json | jq .seconds_remaining")
def status(
    config: ConfigOption = None, overrides: SetOption = None, as_json: JsonOption = False
) -> None:
    """Say what waits in memory and on disk, how old it is, and for how long there is room.

    Exit code 1 where something is the matter; `trouble` and `remedy` say what.
    """
    report = find(config, overrides).report()
    if as_json:
        print(msgspec.json.encode(report).decode())
    else:
        for line in buffer_words.aligned(buffer_words.status(report)):
            print(printable(line))
    if report.trouble:
        raise typer.Exit(EXIT_PROBLEM)


@app.command(epilog="Example: pgc buffer verify || pgc buffer export what-is-left.ndjson")
def verify(
    config: ConfigOption = None, overrides: SetOption = None, as_json: JsonOption = False
) -> None:
    """Read every segment and check every record: checksum, order, holes. Nothing is changed.

    Exit code 1 where something is damaged. An agent sets a damaged segment aside when it comes to
    it, counts what is lost, and goes on with the next.
    """
    found = find(config, overrides)
    with Progress("verify") as progress:
        read = found.examine(lambda size: progress.tell(f"{buffer_words.size(size)} read"))
    if as_json:
        damaged = [one._asdict() for one in read.findings]
        print(json.dumps({"segments": read.segments, "bytes": read.bytes, "damaged": damaged}))
    else:
        for one in read.findings:
            print(printable(f"{one.where}: {one.what}"))
        held = f"{buffer_words.counted(read.segments, 'segment')}, {buffer_words.size(read.bytes)}"
        print(f"{held}: {len(read.findings)} damaged" if read.findings else f"{held}: all is well")
    if read.findings:
        raise typer.Exit(EXIT_PROBLEM)


@app.command(epilog="Example: pgc buffer export - | jq -r 'select(.set) | .set' | sort | uniq -c")
def export(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="Where to write; `-` is standard output.")
    ],
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write everything that waits as JSON lines, oldest first, into FILE (mode 0600).

    What is missing stands in its place: {"gap":{"from":7,"to":9,"reason":"thinned"}}. FILE is
    there whole or not at all; one that was there is replaced. What is exported goes on waiting.
    What comes while it is written is left out. A summary goes to stderr.
    """
    found = find(config, overrides)
    told = _Summary()
    with Progress("export") as progress, _writing(file) as sink:
        for page in found.pages():
            sink.write(page.body.encode())
            told.add(page)
            progress.tell(f"{told.lines} lines")
    _print_summary(told, to_stdout=file == "-", as_json=as_json)
    if told.partial:
        print("the disk buffer cannot be read: only what memory holds is here", file=sys.stderr)
        raise typer.Exit(EXIT_PROBLEM)


@app.command(epilog="Example: pgc buffer drain --timeout 300")
def drain(
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="How long to wait for the end.")
    ] = 60.0,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Deliver everything that waits now, and wait until it has arrived.

    A running agent is asked to deliver at once instead of when a batch has grown, or when its
    pause after a failure is over; a pause that the far side asked for is kept. Without an agent
    only local files (local.enabled) can be delivered to. To stop it with nothing left, under
    systemd: pgc buffer drain && systemctl stop pg-collector.

    Exit codes: 0 delivered, 1 not within SECONDS, 69 no agent, and delivering takes its account.
    """
    found = find(config, overrides)
    if isinstance(found, Running):
        _drain_running(found, timeout)
    else:
        with found.viewed():  # says so where an agent has it that does not answer
            outlet = local_outlet(found.config)
        drain_stopped(found, outlet, timeout)
    print("delivered", file=sys.stderr)


@app.command(epilog="Example: pgc buffer purge --yes")
def purge(
    yes: Annotated[bool, typer.Option("--yes", help="Yes, delete it.")] = False,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Delete everything that waits. The agent has to be stopped.

    Stop it first, under systemd with systemctl stop pg-collector. The far side is told: the numbers
    are declared as a gap (purged) with the next batch, and go on after it. Refused lines stay: see
    pgc buffer quarantine.
    """
    found = stopped(find(config, overrides), "what waits is not purged from under it")
    if not yes:
        print("pgc: this deletes what was not delivered yet: --yes if it shall", file=sys.stderr)
        raise typer.Exit(2)
    lines = 0
    with found.opened() as buffer:
        if buffer is not None:
            lines = Upkeep(buffer).purge()
    print(f"purged {buffer_words.counted(lines, 'line')}")


def local_outlet(config: Config) -> OutletSource:
    """Return what delivers in the place of an agent.

    Raises AgentUnreachable where that takes the platform's account, which only an agent has.
    """
    from pg_collector.outlets.file import FileOutlet

    if not config.local.enabled:
        raise AgentUnreachable(
            "no agent runs here, and to deliver takes the platform's account, which it has",
            remedy="Start it: pgc start delivers what waits. Or write it to a file: "
            "pgc buffer export FILE.",
        )
    return partial(FileOutlet, config.local)


def drain_stopped(found: Stopped, outlet: OutletSource, timeout: float) -> None:
    """Deliver what a directory holds, in the place of an agent; `timeout` is in seconds.

    Raises CollectorError where something is left then.
    """
    with found.opened() as buffer:
        if buffer is not None:
            _deliver(buffer, outlet, timeout)


def _deliver(buffer: SpillingBuffer, source: OutletSource, timeout: float) -> None:
    clock = SystemClock()
    metrics = Metrics(clock)
    deadline = clock.monotonic() + timeout
    resting = threading.Event()
    with contextlib.closing(source(clock, metrics)) as outlet, Progress("drain") as progress:
        sender = Sender(buffer, outlet, resting, metrics, clock=clock, linger=0.0)
        while buffer.peek(1, 1) is not None:
            pause = sender.step()
            left = deadline - clock.monotonic()
            waiting = buffer.account().buffered
            if left <= 0:
                raise _not_delivered(waiting, sender.trouble)
            progress.tell(f"{waiting} lines are left")
            resting.wait(min(pause, left))


def _drain_running(found: Running, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    asked_at = time.monotonic()
    now = found.result(DrainRequest, Delivered, urge=True)
    goal = now.produced
    with Progress("drain") as progress:
        while now.handled < goal:
            if time.monotonic() >= deadline:
                raise _not_delivered(goal - now.handled, now)
            progress.tell(f"{goal - now.handled} lines are left")
            time.sleep(LOOK_EVERY)
            urge = time.monotonic() - asked_at >= URGE_EVERY
            asked_at = time.monotonic() if urge else asked_at
            now = found.result(DrainRequest, Delivered, urge=urge)


def _not_delivered(lines: int, why: Trouble | Delivered | None) -> CollectorError:
    said = f"{buffer_words.counted(lines, 'line')} wait still"
    trouble = why.message if isinstance(why, Trouble) else why.trouble if why else ""
    return CollectorError(
        f"{said}: {trouble}" if trouble else said,
        remedy=(why.remedy if why else "") or "Give it more time: --timeout.",
    )


class _Summary:
    """What was exported."""

    def __init__(self) -> None:
        self.lines = 0
        self.gaps: dict[str, int] = {}
        self.stream = ""
        self.first: int | None = None
        self.partial = False

    def add(self, page: PageTold) -> None:
        self.lines += page.lines
        self.stream = page.stream
        self.first = page.first if self.first is None else self.first
        self.partial = self.partial or page.partial
        for reason, width in page.gaps.items():
            self.gaps[reason] = self.gaps.get(reason, 0) + width


def _print_summary(told: _Summary, *, to_stdout: bool, as_json: bool) -> None:
    stream = sys.stderr if to_stdout or not as_json else sys.stdout
    if as_json:
        print(json.dumps(vars(told)), file=stream)
        return
    missing = ", ".join(f"{reason} {width}" for reason, width in sorted(told.gaps.items()))
    text = f"exported {buffer_words.counted(told.lines, 'line')}"
    text += f", from number {told.first} of stream {told.stream}" if told.first else ""
    print(text + (f"; in gaps: {missing}" if missing else ""), file=stream)


@contextlib.contextmanager
def _writing(file: str) -> Iterator[BinaryIO]:
    """Lend a file that takes its name when it is complete; standard output for `-`."""
    if file == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(file)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    fd = os.open(aside, flags, FILE_MODE)
    try:
        with os.fdopen(fd, "wb") as sink:
            yield sink
            sink.flush()
            os.fsync(sink.fileno())
        aside.rename(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
