"""The verbs of the control socket that concern the buffer: requests, and the agent's answers."""

from collections.abc import Sequence
from typing import Final, Literal, Protocol

import msgspec

from pg_collector import control
from pg_collector.buffer.flight import Numbering
from pg_collector.buffer.records import Record
from pg_collector.buffer.report import Report
from pg_collector.buffer.upkeep import Page, Upkeep
from pg_collector.control import Reply, Request
from pg_collector.errors import CollectorError
from pg_collector.sender import Sender

NOWHERE: Final = "this agent delivers nowhere"


class BufferRequest(Request, frozen=True, kw_only=True):
    """Concerns the buffer in a directory, links resolved; empty: in memory only."""

    directory: str


class StatusRequest(BufferRequest, frozen=True, kw_only=True, tag="buffer status"):
    """How the buffer is; the result is a `Report`."""


class PageRequest(BufferRequest, frozen=True, kw_only=True, tag="buffer page"):
    """Some of what waits beyond the position `after`, up to `through`; the result is a `PageTold`.

    The first page is asked for without either.
    """

    after: int | None = None
    through: int | None = None


class ExamineRequest(BufferRequest, frozen=True, kw_only=True, tag="buffer examine"):
    """What is damaged in the first segment beyond the position `after`; the result: `Examined`."""

    after: int | None = None


class DrainRequest(BufferRequest, frozen=True, kw_only=True, tag="buffer drain"):
    """How far delivery is, as `Progress`; with `urge` it is tried without waiting."""

    urge: bool = False


class QuarantineRequest(BufferRequest, frozen=True, kw_only=True, tag="buffer quarantine"):
    """Put refused lines back, or purge them: those named, or all. The result is their `count`."""

    action: Literal["requeue", "purge"]
    names: tuple[str, ...] | None = None


class RefusalsRequest(BufferRequest, frozen=True, kw_only=True, tag="buffer refusals"):
    """The refused lines, one a line of the reply."""


class PageTold(msgspec.Struct, frozen=True, kw_only=True):
    """A page as newline-delimited JSON: first what lies apart, then the lines and gaps in order."""

    stream: str
    first: int | None = None  # the number of the first line or gap
    through: int  # where the whole ends, as a position
    last: int | None = None  # the position to go on from; None: that was all
    lines: int = 0
    gaps: dict[str, int] = {}  # numbers by reason
    partial: bool = False  # the disk cannot be read: only what memory holds
    body: str = ""

    @classmethod
    def of(cls, page: Page) -> "PageTold":
        """Return a page in the words of the wire."""
        gaps: dict[str, int] = {}
        for one in (*page.apart, *page.records):
            if one.line is None:
                gaps[one.reason] = gaps.get(one.reason, 0) + one.last - one.first + 1
        body = ndjson(page.apart, 0) + ndjson(page.records, page.origin)
        return cls(
            stream=page.stream,
            first=page.records[0].first - page.origin if page.records else None,
            through=page.through,
            last=page.last,
            lines=sum(one.line is not None for one in (*page.apart, *page.records)),
            gaps=gaps,
            partial=page.partial,
            body=body.decode("utf-8", "replace"),
        )


class Examined(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with a segment, as (where, what); its bytes, and the position to go on from."""

    findings: list[tuple[str, str]]
    last: int | None
    bytes: int


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Lines that came, lines that have left, lines that wait; and what holds delivery up."""

    produced: int
    handled: int
    lines: int
    trouble: str = ""
    remedy: str = ""


class SortedOut(msgspec.Struct, frozen=True, kw_only=True):
    """How many refused lines were put back, or purged."""

    count: int


class Delivery(Protocol):
    """What drains the buffer."""

    sender: Sender | None  # the one at work, or the last that was

    def hurry(self) -> None:
        """Have what waits written and sent now."""


class BufferVerbs:
    """Answers what concerns the buffer, each request in its connection's thread."""

    def __init__(self, upkeep: Upkeep, delivery: Delivery) -> None:
        self._upkeep = upkeep
        self._delivery = delivery

    @property
    def answers(self) -> control.Answers:
        """What answers each verb. An answer raises CollectorError."""
        return {
            StatusRequest: self.status,
            PageRequest: self.page,
            ExamineRequest: self.examine,
            DrainRequest: self.drain,
            RefusalsRequest: self.refusals,
            QuarantineRequest: self.quarantine,
        }

    def status(self, request: StatusRequest) -> Reply:
        """Say how the buffer is."""
        if self._stranger(request):
            return control.STRANGER
        return _result(self._report())

    def page(self, request: PageRequest) -> Reply:
        """Return some of what waits."""
        if self._stranger(request):
            return control.STRANGER
        return _result(PageTold.of(self._upkeep.page(request.after, request.through)))

    def examine(self, request: ExamineRequest) -> Reply:
        """Read a segment, and say what is wrong with it."""
        if self._stranger(request):
            return control.STRANGER
        found = self._upkeep.examine(request.after)
        findings = [(one.where, one.what) for one in found.findings]
        return _result(Examined(findings=findings, last=found.last, bytes=found.bytes))

    def drain(self, request: DrainRequest) -> Reply:
        """Let delivery be tried now, if asked to; say how far it is."""
        if self._stranger(request):
            return control.STRANGER
        if self._delivery.sender is None:
            raise CollectorError(
                NOWHERE, remedy="Let it write files: local.enabled: true, then restart it."
            )
        if request.urge:
            self._delivery.hurry()
        report = self._report()
        return _result(
            Progress(
                produced=self._upkeep.produced,
                handled=self._upkeep.handled,
                lines=report.lines,
                trouble=report.trouble,
                remedy=report.remedy,
            )
        )

    def refusals(self, request: RefusalsRequest) -> Reply:
        """Return the refused lines."""
        if self._stranger(request):
            return control.STRANGER
        found = self._upkeep.refusals()
        return Reply(lines=tuple(msgspec.json.encode(one).decode() for one in found))

    def quarantine(self, request: QuarantineRequest) -> Reply:
        """Put refused lines back, or purge them."""
        if self._stranger(request):
            return control.STRANGER
        work = self._upkeep.requeue if request.action == "requeue" else self._upkeep.discard
        return _result(SortedOut(count=work(request.names)))

    def _stranger(self, request: BufferRequest) -> bool:
        return request.directory != self._upkeep.directory

    def _report(self) -> Report:
        sender = self._delivery.sender
        trouble = sender.trouble if sender is not None else None
        if trouble is None:
            return self._upkeep.report()
        return self._upkeep.report(CollectorError(trouble.message, remedy=trouble.remedy))


def ndjson(records: Sequence[Record], origin: int) -> bytes:
    """Return consecutive records as a batch's body; positions less `origin` are their numbers."""
    return Numbering("", origin, "").batch(records).body if records else b""


def _result(told: msgspec.Struct) -> Reply:
    return Reply(result=msgspec.to_builtins(told))
