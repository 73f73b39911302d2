"""A small terminal: what a program that draws on one has drawn, and a pty to run it on."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.support.until import until

_SEQUENCE = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|\x1b(.)", re.DOTALL)


class Screen:
    """Places for characters, with what is needed of a terminal's language to fill them."""

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.other = False  # whether the other screen is shown
        self.cursor = True
        self.wraps = True
        self.strange: list[str] = []  # what no terminal should be told
        self.bytes = 0
        self._pending = ""
        self._clear()

    def resize(self, columns: int, rows: int) -> None:
        """Be of another size; what is shown is lost."""
        self.columns, self.rows = columns, rows
        self._clear()

    @property
    def lines(self) -> list[str]:
        """What is to be seen."""
        return ["".join(row).rstrip() for row in self._cells]

    @property
    def text(self) -> str:
        """The same as one text."""
        return "\n".join(self.lines)

    def feed(self, text: str) -> None:
        """Take what a program wrote."""
        self.bytes += len(text)
        text = self._pending + text
        self._pending = ""
        at = 0
        while at < len(text):
            if text[at] != "\x1b":
                self._put(text[at])
                at += 1
                continue
            found = _SEQUENCE.match(text, at)
            if found is None or (found[3] == "[" and found[2] is None):
                self._pending = text[at:]
                return
            self._obey(found)
            at = found.end()

    def _clear(self) -> None:
        self._cells = [[" "] * self.columns for _ in range(self.rows)]
        self._row = self._column = 0

    def _put(self, character: str) -> None:
        if character == "\n":
            self._row += 1
        elif character == "\r":
            self._column = 0
        elif not character.isprintable():
            self.strange.append(repr(character))
        elif self._row < self.rows and self._column < self.columns:
            self._cells[self._row][self._column] = character
            self._column += 1
        elif self.other:
            self.strange.append(f"{character!r} beyond the edge")

    def _obey(self, found: "re.Match[str]") -> None:
        argument, command = found[1], found[2]
        if command == "H":
            row, column = (int(one) for one in (argument or "1;1").split(";"))
            self._row, self._column = row - 1, column - 1
        elif command == "K":
            self._cells[self._row][self._column :] = [" "] * (self.columns - self._column)
        elif command == "J":
            self._clear()
        elif command in ("h", "l") and argument in ("?1049", "?25", "?7"):
            name = {"?1049": "other", "?25": "cursor", "?7": "wraps"}[argument]
            setattr(self, name, command == "h")
        elif command != "m":
            self.strange.append(found[0])


class Running:
    """A program on a pty whose screen is read all the time."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        cwd: Path,
        size: tuple[int, int] = (80, 24),
    ) -> None:
        self._ours, self.theirs = pty.openpty()
        self.screen = Screen(*size)
        self.raw = ""
        self._size(size)
        self.settings = termios.tcgetattr(self.theirs)
        self._lock = threading.Lock()
        self.process = subprocess.Popen(
            command,
            stdin=self.theirs, stdout=self.theirs, stderr=self.theirs,
            env=dict(environment), cwd=cwd, process_group=0,

        )  # fmt: skip
        self._ending = threading.Event()
        self._reader = threading.Thread(target=self._read, name="screen", daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        self._ending.set()
        self._reader.join(5)
        os.close(self._ours)
        os.close(self.theirs)

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self._ours, keys.encode())

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of the window, as a terminal does."""
        with self._lock:
            self.screen.resize(columns, rows)
        self._size((columns, rows))
        self.process.send_signal(signal.SIGWINCH)  # it is not its controlling terminal

    def sees(self, *words: str, within: float = 15.0) -> str:
        """Wait until all these are on the screen; return it."""

        def look() -> str:
            with self._lock:
                text = self.screen.text
            return text if all(one in text for one in words) else ""

        try:
            return until(look, within)
        except AssertionError:
            raise AssertionError(f"{words} is not on the screen:\n{self.screen.text}") from None

    def restored(self) -> bool:
        """Whether the terminal is as it was."""
        screen = self.screen
        as_it_was = not screen.other and screen.cursor and screen.wraps
        return as_it_was and termios.tcgetattr(self.theirs) == self.settings

    def _size(self, size: tuple[int, int]) -> None:
        columns, rows = size
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def _read(self) -> None:
        while not self._ending.is_set():
            if not select.select([self._ours], [], [], 0.05)[0]:
                continue
            text = os.read(self._ours, 65536).decode(errors="replace")
            with self._lock:
                self.raw += text
                self.screen.feed(text)
