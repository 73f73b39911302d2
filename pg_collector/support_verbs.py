"""The verb of the control socket by which `pgc bundle` sees where an agent's threads are.

Stacks hold names of functions and lines, no values.
"""

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType

import msgspec

from pg_collector import control
from pg_collector.control import Reply, Request

_DEEPEST = 64  # frames of a thread, the innermost


class ThreadsRequest(Request, frozen=True, kw_only=True, tag="threads"):
    """Where the threads are; `directory` is the agent's state directory, links resolved.

    The result is a `ThreadsTold`.
    """

    directory: str


class Stack(msgspec.Struct, frozen=True, kw_only=True):
    """A thread and its frames, the innermost first: `sender.py:120 Sender.step`."""

    name: str
    daemon: bool
    frames: list[str]


class ThreadsTold(msgspec.Struct, frozen=True, kw_only=True):
    """The threads of a process."""

    pid: int
    threads: list[Stack]


class SupportVerbs:
    """Answers it, for the agent of a state directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = str(directory.resolve())

    @property
    def answers(self) -> control.Answers:
        """What answers the verb."""
        return {ThreadsRequest: self.threads}

    def threads(self, request: ThreadsRequest) -> Reply:
        """Say where every thread is now."""
        if request.directory != self._directory:
            return control.STRANGER
        told = ThreadsTold(pid=os.getpid(), threads=list(_stacks()))
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
