"""The terminal: its settings, what is drawn on it, and its keys. It is always given back.

Only lines that changed are written, in one go, so that nothing flickers and little goes over ssh.
Sequences: https://www.ecma-international.org/publications-and-standards/standards/ecma-48/ and
https://invisible-island.net/xterm/ctlseqs/ctlseqs.html
"""

import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final, NoReturn

from rich.cells import cell_len

from pg_collector.cli.live.grid import Line

_ENTER: Final = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"  # the other screen, no cursor, no wrapping
_LEAVE: Final = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
_STYLES: Final = {
    "dim": "2",
    "title": "1",
    "bar": "7",
    "good": "32",
    "warn": "33",
    "bad": "1;31",
}
_WITHOUT_COLOUR: Final = {"dim": "2", "title": "1", "bar": "7", "good": "", "warn": "", "bad": "1"}
_ESCAPE_WITHIN: Final = 0.05  # seconds in which the rest of a key's sequence comes
_KEYS: Final = {
    "[A": "up",
    "[B": "down",
    "[C": "right",
    "[D": "left",
    "OA": "up",
    "OB": "down",
    "OC": "right",
    "OD": "left",
    "[5~": "page up",
    "[6~": "page down",
    "[Z": "back tab",
}
_IN_ASCII: Final = str.maketrans({"…": "~", "└": "`"})


class Ended(SystemExit):
    """A signal asks for the end."""


def plain(text: str, encoding: str) -> str:
    """Return a text as a terminal of this encoding can show it, as wide as it was."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return "".join(_replaced(one, encoding) for one in text.translate(_IN_ASCII))
    return text


def _replaced(character: str, encoding: str) -> str:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return "?" * cell_len(character)
    return character


def in_text(lines: Sequence[Line], encoding: str) -> str:
    """Return lines without styles, for what is no terminal."""
    texts = ("".join(span.text for span in line).rstrip() for line in lines)
    return plain("\n".join(texts), encoding)


class Terminal:
    """Owns the terminal from `enter` to `leave`. One thread uses it, the main one."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._in = sys.stdin.fileno()
        self._out = sys.stdout.fileno()
        self._encoding = sys.stdout.encoding
        self._styles = _WITHOUT_COLOUR if environ.get("NO_COLOR") else _STYLES
        self._settings: list[object] | None = None
        self._drawn: list[str] = []
        self._size = (0, 0)
        self._pending = ""
        self._wake, self._waker = os.pipe()
        for end in (self._wake, self._waker):
            os.set_blocking(end, False)

    def size(self) -> tuple[int, int]:
        """Return columns and rows."""
        found = os.get_terminal_size(self._out)
        return found.columns or 80, found.lines or 24

    def enter(self) -> None:
        """Take the terminal: keys come one by one, and it shows another screen."""
        if self._settings is None:
            self._settings = termios.tcgetattr(self._in)
        tty.setcbreak(self._in, termios.TCSADRAIN)
        self._write(_ENTER)
        self._drawn = []

    def leave(self) -> None:
        """Give it back as it was."""
        if self._settings is None:
            return
        settings, self._settings = self._settings, None
        try:
            self._write(_LEAVE)
        finally:
            termios.tcsetattr(self._in, termios.TCSADRAIN, settings)  # type: ignore[arg-type]

    def wake(self) -> None:
        """Let `key` return. From any thread, and a signal handler."""
        with suppress(BlockingIOError):  # it is full of such signs
            os.write(self._waker, b".")

    def draw(self, lines: Sequence[Line]) -> None:
        """Show lines. Raises OSError when the terminal is gone."""
        size = self.size()
        if size != self._size:
            self._size, self._drawn = size, []
        made = [self._styled(one) for one in lines]
        parts = [] if self._drawn else ["\x1b[2J"]
        for number, text in enumerate(made):
            if number >= len(self._drawn) or self._drawn[number] != text:
                parts.append(f"\x1b[{number + 1};1H{text}\x1b[0m\x1b[K")
        self._drawn = made
        if parts:
            self._write("".join(parts))

    def key(self, timeout: float) -> str:
        """Return the next key, or nothing where none came in so many seconds, or `wake` was called.

        Raises Ended where the terminal is gone.
        """
        if not self._pending and not self._ready(timeout):
            return ""
        first, self._pending = self._pending[:1], self._pending[1:]
        if first != "\x1b":
            return {"\t": "tab", "\r": "enter", "\n": "enter"}.get(first, first)
        if not self._pending:
            self._ready(_ESCAPE_WITHIN)
        for sequence, name in _KEYS.items():
            if self._pending.startswith(sequence):
                self._pending = self._pending[len(sequence) :]
                return name
        unknown = self._pending[:1] in ("[", "O")
        if unknown:  # to the end of the sequence
            rest = self._pending[1:].lstrip("0123456789;?")
            self._pending = rest[1:]
        return "unknown" if unknown else "escape"

    def _ready(self, timeout: float) -> bool:
        """Wait for input, and read it; return whether there is some."""
        ready, _, _ = select.select([self._in, self._wake], [], [], timeout)
        if self._wake in ready:
            os.read(self._wake, 1024)
        if self._in not in ready:
            return False
        try:
            found = os.read(self._in, 1024)
        except OSError:
            found = b""
        if not found:
            raise Ended(0)  # nobody can press a key any more
        self._pending += found.decode("utf-8", "replace")
        return True

    def _styled(self, line: Line) -> str:
        parts = []
        for text, style in line:
            code = self._styles.get(style, "")
            shown = plain(text, self._encoding)
            parts.append(f"\x1b[{code}m{shown}\x1b[0m" if code else shown)
        return "".join(parts)

    def _write(self, text: str) -> None:
        left = memoryview(text.encode(self._encoding, "replace"))
        while left:
            left = left[os.write(self._out, left) :]

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Have the terminal, and give it back at every end: by a signal, an exception, Ctrl-Z."""
        before = {
            number: signal.signal(number, handler)
            for number, handler in (
                (signal.SIGTERM, _end),
                (signal.SIGHUP, _end),
                (signal.SIGQUIT, _end),
                (signal.SIGWINCH, _look_again),
                (signal.SIGTSTP, self._suspend),
            )
        }
        # A signal that another thread gets wakes the main one, too.
        waker = signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        try:
            self.enter()
            yield
        finally:
            before[signal.SIGINT] = signal.getsignal(signal.SIGINT)
            for number in before:
                signal.signal(number, signal.SIG_IGN)  # not twice
            try:
                self.leave()
            finally:
                signal.set_wakeup_fd(waker)
                for number, handler in before.items():
                    signal.signal(number, handler)

    def _suspend(self, _number: int, _frame: FrameType | None) -> None:
        """Give the terminal back while the process is stopped; take it again afterwards."""
        self.leave()
        handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        # Here it goes on, with SIGCONT.
        signal.signal(signal.SIGTSTP, handler)
        self.enter()
        self._size = (0, 0)
        self.wake()


def _look_again(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: that a signal came wakes who waits for a key."""


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    raise Ended(128 + number)
