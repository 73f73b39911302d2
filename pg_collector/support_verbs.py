"""The verbs of the control socket by which `pgc bundle` looks into a running agent.

Where each thread is, and what the HTTP pages say: also where `http.address` is off, wants a token,
or lets others in than this host. Stacks hold names of functions and lines, no values.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType

import msgspec

from pg_collector import control
from pg_collector.control import Reply, Request
from pg_collector.health.pages import Page

_DEEPEST = 64  # frames of a thread, the innermost


class ThreadsRequest(Request, frozen=True, kw_only=True, tag="threads"):
    """Where the threads are; `directory` is the agent's state directory, links resolved.

    The result is a `ThreadsTold`.
    """

    directory: str


class WebPageRequest(Request, frozen=True, kw_only=True, tag="web page"):
    """What a GET of `path` is answered; the result is a `WebPageTold`."""

    directory: str
    path: str


class Stack(msgspec.Struct, frozen=True, kw_only=True):
    """A thread and its frames, the innermost first: `sender.py:120 Sender.step`."""

    name: str
    daemon: bool
    frames: list[str]


class ThreadsTold(msgspec.Struct, frozen=True, kw_only=True):
    """The threads of a process."""

    pid: int
    threads: list[Stack]


class WebPageTold(msgspec.Struct, frozen=True, kw_only=True):
    """An answer, as text."""

    status: int
    content_type: str
    body: str


class SupportVerbs:
    """Answers them. `page` is what the HTTP server answers: a path, and an Accept header."""

    def __init__(self, page: Callable[[str, str], Page], directory: Path) -> None:
        self._page = page
        self._directory = str(directory.resolve())

    @property
    def answers(self) -> control.Answers:
        """What answers each verb."""
        return {ThreadsRequest: self.threads, WebPageRequest: self.web_page}

    def threads(self, request: ThreadsRequest) -> Reply:
        """Say where every thread is now."""
        if request.directory != self._directory:
            return control.STRANGER
        told = ThreadsTold(pid=os.getpid(), threads=list(_stacks()))
        return Reply(result=msgspec.to_builtins(told))

    def web_page(self, request: WebPageRequest) -> Reply:
        """Answer as the HTTP server does."""
        if request.directory != self._directory:
            return control.STRANGER
        page = self._page(request.path, "")
        told = WebPageTold(
            status=page.status,
            content_type=page.content_type,
            body=page.body.decode("utf-8", "replace"),
        )
        return Reply(result=msgspec.to_builtins(told))


def _stacks() -> Iterator[Stack]:
    frames = sys._current_frames()  # noqa: SLF001  # the documented way
    for thread in sorted(threading.enumerate(), key=lambda one: one.name):
        frame = frames.get(thread.ident or 0)
        yield Stack(name=thread.name, daemon=thread.daemon, frames=list(_walk(frame)))


def _walk(frame: FrameType | None) -> Iterator[str]:
    for _ in range(_DEEPEST):
        if frame is None:
            return
        yield f"{_place(frame.f_code)}:{frame.f_lineno} {frame.f_code.co_qualname}"
        frame = frame.f_back


def _place(code: CodeType) -> str:
    """Return a file as folder and name: where it is installed may name a user."""
    return "/".join(Path(code.co_filename).parts[-2:])
