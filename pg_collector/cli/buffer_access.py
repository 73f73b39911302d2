"""How the verbs of `pgc buffer` get at a buffer: through the running agent, or in its place."""

import contextlib
import os
import pwd
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn, TypeVar

import msgspec
import typer

from pg_collector import control
from pg_collector.buffer import storage
from pg_collector.buffer.place import AlreadyRunning
from pg_collector.buffer.quarantine import Refusal
from pg_collector.buffer.report import Report
from pg_collector.buffer.spill import SpillingBuffer
from pg_collector.buffer.upkeep import Page
from pg_collector.buffer.view import PAGE_BYTES, Finding, View, locked
from pg_collector.buffer_verbs import (
    BufferRequest,
    Examined,
    ExamineRequest,
    PageRequest,
    PageTold,
    QuarantineRequest,
    RefusalsRequest,
    SortedOut,
    StatusRequest,
)
from pg_collector.cli import EXIT_PERMISSION
from pg_collector.cli.options import loaded
from pg_collector.cli.printable import printable
from pg_collector.clock import SystemClock
from pg_collector.config.model import Buffers, Config, Durability
from pg_collector.errors import AgentUnreachable, CollectorError, StateError, StoreError
from pg_collector.metrics import Metrics

FIRST_ANSWER_WITHIN: Final = 10.0  # seconds
CLOSE_WITHIN: Final = 5.0

T = TypeVar("T", bound=msgspec.Struct)
Seen = Callable[[int], None]  # hears of the bytes so far


class Examination(NamedTuple):
    """What was read, and what is damaged."""

    segments: int
    bytes: int
    findings: list[Finding]


class Running:
    """The buffer of an agent that runs and answers."""

    def __init__(self, socket: Path, directory: str, config: Config) -> None:
        self.config = config
        self._socket = socket
        self._directory = directory

    def result(self, verb: type[BufferRequest], told: type[T], **arguments: Any) -> T:
        """Ask for something; return the answer. Raises CollectorError."""
        reply = self._ask(verb, **arguments)
        return control.told(reply, told)

    def report(self) -> Report:
        """Say how the buffer is."""
        return self.result(StatusRequest, Report)

    def pages(self) -> Iterator[PageTold]:
        """Yield everything that waits now."""
        page = self.result(PageRequest, PageTold)
        yield page
        stream = page.stream
        while page.last is not None:
            page = self.result(PageRequest, PageTold, after=page.last, through=page.through)
            if page.stream != stream:
                raise CollectorError("the agent took a new stream meanwhile", remedy="Try again.")
            yield page

    def examine(self, seen: Seen) -> Examination:
        """Have every segment read, one after the other."""
        findings: list[Finding] = []
        segments = size = 0
        found = self.result(ExamineRequest, Examined)
        while found.last is not None:
            segments, size = segments + 1, size + found.bytes
            findings += [Finding(*one) for one in found.findings]
            seen(size)
            found = self.result(ExamineRequest, Examined, after=found.last)
        return Examination(segments, size, findings)

    def refusals(self) -> list[Refusal]:
        """Return the refused lines."""
        lines = self._ask(RefusalsRequest).lines
        return [msgspec.json.decode(line, type=Refusal) for line in lines]

    def sort_out(self, action: str, names: tuple[str, ...] | None) -> int:
        """Put refused lines back, or purge them; return how many."""
        return self.result(QuarantineRequest, SortedOut, action=action, names=names).count

    def _ask(self, verb: type[BufferRequest], **arguments: Any) -> control.Reply:
        request = verb(directory=self._directory, **arguments)
        try:
            reply = control.ask(request, self._socket)
        except PermissionError:
            _refuse(self._socket)
        if reply is None:
            raise AgentUnreachable("the agent ended meanwhile", remedy="Try again.")
        return reply


class Stopped:
    """The directory of a buffer that no agent has open."""

    def __init__(
        self,
        directory: Path,
        config: Config,
        forbidden: Path | None,
        silent: AgentUnreachable | None = None,
    ) -> None:
        self.directory = directory
        self.config = config
        self._forbidden = forbidden  # a socket that one may not ask
        self._silent = silent  # an agent that does not answer, maybe another one

    @contextlib.contextmanager
    def viewed(self) -> Iterator[View | None]:
        """Lend the directory to be read, agents kept off; None where there is none."""
        with self._allowed(), locked(self.directory):
            yield View.open(self.directory)

    @contextlib.contextmanager
    def opened(self) -> Iterator[SpillingBuffer | None]:
        """Open the buffer as an agent does; None where there is none.

        What is lost in it is told on stderr. Raises StateError where it belongs to another user.
        """
        with self._allowed():
            if not self.directory.is_dir():
                yield None
                return
            clock = SystemClock()
            buffers = self._on_disk()
            buffer = storage.buffer(buffers, None, Metrics(clock), clock)
            journal = buffer.journal
            if journal is None:
                raise StateError(f"{self.directory} is no place for a buffer")
            try:
                journal.open()
            except StateError as error:
                raise StateError(str(error), remedy=_as_owner(self.directory)) from error
            if journal.trouble is not None:
                raise journal.trouble
            try:
                journal.flush()
                yield buffer
            finally:
                buffer.close(CLOSE_WITHIN)
                for reason, count in sorted(buffer.account().lost.items()):
                    if reason != "purged":  # on demand
                        print(f"lost: {count} lines ({reason})", file=sys.stderr)

    def report(self) -> Report:
        """Say how the buffer is; where it cannot be read, why."""
        try:
            with self.viewed() as view:
                return self._report(view)
        except StoreError as error:
            told, trouble, remedy = self._report(None), str(error), error.remedy
        except AgentUnreachable as error:
            told, trouble, remedy = self._seen_from_outside(), str(error), error.remedy
            if isinstance(error.__cause__, AlreadyRunning):
                told = msgspec.structs.replace(told, pid=error.__cause__.pid)
        return msgspec.structs.replace(told, trouble=trouble, remedy=remedy)

    def pages(self) -> Iterator[PageTold]:
        """Yield everything that waits."""
        with self.viewed() as view:
            if view is None:
                return
            stream, origin, top = str(view.state.stream), view.state.origin, view.top
            found = []
            size = 0
            for record in view.records():
                found.append(record)
                size += len(record.line or b"")
                if size >= PAGE_BYTES:
                    yield PageTold.of(Page(stream, origin, top, record.last, found))
                    found, size = [], 0
            if found:
                yield PageTold.of(Page(stream, origin, top, None, found))

    def examine(self, seen: Seen) -> Examination:
        """Read everything."""
        with self.viewed() as view:
            if view is None:
                return Examination(0, 0, [])
            size = sum(held.segment.bytes() for held in view.segments)
            return Examination(len(view.segments), size, list(view.damage(seen)))

    def refusals(self) -> list[Refusal]:
        """Return the refused lines."""
        with self.viewed() as view:
            return [one for _, one in view.quarantine] if view is not None else []

    def _report(self, view: View | None) -> Report:
        if view is None:
            return Report(running=False, directory=str(self.directory))
        return view.report(self.config.buffers.disk_max, SystemClock().now())

    def _seen_from_outside(self) -> Report:
        """Return what can be seen of a directory that another process has."""
        try:
            return self._report(View.open(self.directory))
        except StoreError:
            return self._report(None)

    def _on_disk(self) -> Buffers:
        return msgspec.structs.replace(
            self.config.buffers, durability=Durability.WAL, disk_path=self.directory
        )

    @contextlib.contextmanager
    def _allowed(self) -> Iterator[None]:
        """Say what to do where another process or another user is in the way."""
        try:
            yield
        except AlreadyRunning as error:
            if self._forbidden is not None:
                _refuse(self._forbidden)
            elsewhere = (
                "Where an agent's socket lies, its state_dir and its environment say: give pgc the "
                "same, or stop the agent."
            )
            if self._silent is not None:
                raise AgentUnreachable(
                    f"{error}; {self._silent}",
                    remedy=f"{self._silent.remedy} If they are two: {elsewhere}",
                ) from error
            raise AgentUnreachable(f"{error}, and answers no command", remedy=elsewhere) from error
        except PermissionError as error:
            place = printable(str(error.filename or self.directory))
            print(f"pgc: {place}: permission denied. {_as_owner(self.directory)}", file=sys.stderr)
            raise typer.Exit(EXIT_PERMISSION) from None


def find(config: Path | None, overrides: list[str] | None) -> Running | Stopped:
    """Return the buffer that a configuration names.

    Raises AgentUnreachable where it is in a memory that is gone, ConfigurationError.
    """
    found = loaded(config, overrides).config
    state_dir = found.state_dir or control.state_directory(os.environ)
    directory = storage.directory(found.buffers, state_dir)
    name = str(directory.resolve()) if directory is not None else ""
    forbidden: Path | None = None
    silent: AgentUnreachable | None = None
    for socket in control.candidates(os.environ, found.state_dir):
        try:
            reply = control.ask(StatusRequest(directory=name), socket, FIRST_ANSWER_WITHIN)
        except PermissionError:
            forbidden = forbidden or socket
            continue
        except AgentUnreachable as error:
            silent = error  # whether the directory is its own, the lock will tell
            continue
        if reply is not None:
            return Running(socket, name, found)
    place = storage.location(found.buffers, state_dir)
    if directory is None and not place.is_dir():
        if forbidden is not None:
            _refuse(forbidden)
        if silent is not None:
            raise silent
        raise AgentUnreachable(
            "buffers.durability is memory, and no agent runs here: there is no buffer",
            remedy="Lines outlast the agent with buffers.durability: wal.",
        )
    return Stopped(place, found, forbidden, silent)


def stopped(found: Running | Stopped, what: str) -> Stopped:
    """Return a buffer that no agent has open. Raises CollectorError where one has it."""
    if isinstance(found, Stopped):
        return found
    raise CollectorError(f"an agent runs: {what}", remedy="Stop it first.")


def _refuse(socket: Path) -> NoReturn:
    print(
        f"pgc: {printable(str(socket))}: an agent listens there, and you may not ask it. "
        f"{_as_owner(socket)}",
        file=sys.stderr,
    )
    raise typer.Exit(EXIT_PERMISSION)


def _as_owner(path: Path) -> str:
    """Say as whom a command is to be run."""
    uid = os.geteuid()
    for place in (path, *path.parents):  # the first that one may look at
        with contextlib.suppress(OSError):
            uid = place.stat().st_uid
            break
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = f"#{uid}"
    return f"Run pgc as its user: sudo -u '{printable(name)}' pgc buffer ..."
