"""The log: one line per record, as JSON or for people, redacted, and never in the way.

Any module says `logging.getLogger(__name__)` and `log.info("...", extra={...})`; `setup` decides
once how that looks. Redaction covers the message, the exception's text and every
further field. A destination that does not take the line in time loses it, and is told how many it
lost as soon as it listens again.
"""

import contextlib
import datetime as dt
import errno
import logging
import os
import select
import stat
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, TextIO

import msgspec

from pg_collector.clock import rfc3339
from pg_collector.errors import StateError
from pg_collector.secret import Secret

log = logging.getLogger(__name__)

WITHHELD: Final = "(withheld: it could not be redacted)"

_PATIENCE: Final = 1.0  # seconds that a line may wait for a reader
_PIPE_BUF: Final = 4096  # a pipe that polls as writable takes so many bytes at once
# Without O_NONBLOCK a named pipe would wait for a reader.
_FILE_FLAGS: Final = (
    os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
)
_TERMINAL_FLAGS: Final = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_LOG_MODE: Final = 0o640
_IRREGULAR: Final = "not a regular file"
_KNOWN_REPEATS: Final = 256
_LOUD: Final = ("apscheduler", "urllib3", "psycopg", "requests")
_PRIORITY: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}  # sd-daemon(3)
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "component"}

Scrub = Callable[[str], str]


class Settings(Protocol):
    """The part of the configuration that this module reads: the section `log`."""

    @property
    def level(self) -> str:
        """The lowest level that is written: debug, info, warning or error."""

    @property
    def format(self) -> str:
        """`json` or `console`."""

    @property
    def repeat_window(self) -> float:
        """For so many seconds the same message is said once; 0 says everything."""

    @property
    def file(self) -> Path | None:
        """A file that gets the lines, too."""


def setup(settings: Settings, *, scrub: Scrub, stream: TextIO | None = None) -> logging.Handler:
    """Send every record of this process to the stream (stderr) and to the file, if there is one.

    Replaces what an earlier call set up. Closing the returned handler says what is still unsaid.
    Raises StateError if the file cannot be opened, or is no regular file.
    """
    sinks: list[Sink] = [_sink(stream or sys.stderr)]
    if settings.file is not None:
        sinks.append(FileSink(settings.file, _LOG_MODE))
    handler = LineHandler(
        sinks, scrub, json=settings.format == "json", window=settings.repeat_window
    )
    root = logging.getLogger()
    for old in list(root.handlers):
        if isinstance(old, LineHandler):
            root.removeHandler(old)
            old.close()
    handler.setLevel(settings.level.upper())  # the audit log may want more
    root.addHandler(handler)
    root.setLevel(settings.level.upper())
    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)
    return handler


def close() -> None:
    """Say what is still unsaid, and close the files: for the end of the process."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LineHandler):
            handler.close()


def catch_uncaught() -> None:
    """Send exceptions that nobody caught to the log: a bare traceback would escape redaction."""

    def in_main(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        log.critical("an exception that nobody caught", exc_info=(kind, error, trace))

    def in_thread(found: threading.ExceptHookArgs) -> None:
        if found.exc_value is not None:
            in_main(found.exc_type, found.exc_value, found.exc_traceback)

    sys.excepthook = in_main
    threading.excepthook = in_thread


class LineHandler(logging.Handler):
    """Writes records as redacted lines. Never raises; waits at most a second for a reader."""

    def __init__(self, sinks: "Sequence[Sink]", scrub: Scrub, *, json: bool, window: float) -> None:
        super().__init__()
        self._sinks = sinks
        self._scrub = scrub
        self._write = _as_json if json else _for_people
        self._repeats = _Repeats(window)
        self._broken = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, and what is to be said about earlier ones."""
        try:
            fields = _fields(record, self._scrub)
            quiet = record.levelno < logging.INFO
            for each in self._repeats.admit(fields, time.monotonic(), quiet=quiet):
                self._put(each)
        except Exception:  # noqa: BLE001  # nothing may fail because its log line does
            self._broken += 1
            with contextlib.suppress(Exception):
                self._put(_note(f"{self._broken} log records could not be written"))

    def close(self) -> None:
        """Say how often the last messages were repeated, and close the file."""
        with self.lock or contextlib.nullcontext():
            for each in self._repeats.rest():
                self._put(each)
            for sink in self._sinks:
                sink.close()
        super().close()

    def _put(self, fields: dict[str, Any]) -> None:
        line = self._write(fields)
        for sink in self._sinks:
            sink.put(line, fields["level"])


class _Repeats:
    """Lets a message pass once per window, and counts what it held back."""

    def __init__(self, window: float) -> None:
        self._window = window
        self._said: OrderedDict[str, tuple[float, int, dict[str, Any]]] = OrderedDict()

    def admit(self, fields: dict[str, Any], now: float, *, quiet: bool) -> Iterator[dict[str, Any]]:
        """Yield what is to be written now: counts of windows that ended, then perhaps this."""
        yield from self._ended(now)
        if quiet or not self._window:
            yield fields
            return
        key = repr([(name, value) for name, value in fields.items() if name != "ts"])
        if key in self._said:
            since, count, _ = self._said[key]
            self._said[key] = (since, count + 1, fields)
            return
        self._said[key] = (now, 0, fields)
        yield fields

    def rest(self) -> Iterator[dict[str, Any]]:
        """Yield the counts of all windows and end them."""
        while self._said:
            yield from self._end()

    def _ended(self, now: float) -> Iterator[dict[str, Any]]:
        while self._said:
            since, _, _ = next(iter(self._said.values()))
            if now - since < self._window and len(self._said) < _KNOWN_REPEATS:
                return
            yield from self._end()

    def _end(self) -> Iterator[dict[str, Any]]:
        _, (_, count, fields) = self._said.popitem(last=False)
        if count:
            times = "once" if count == 1 else f"{count} times"
            yield {**fields, "msg": f"{fields['msg']} (repeated {times})", "repeated": count}


class Sink(Protocol):
    """Where lines go."""

    def put(self, line: str, level: str) -> None:
        """Write a line. Never raises."""

    def close(self) -> None:
        """Write no more."""


class _Descriptor:
    """A pipe, terminal or socket: written to only while it takes bytes."""

    def __init__(self, fd: int) -> None:
        # A terminal may stop in the middle of a write: open it anew, so that only we do not wait.
        self._given = fd
        self._fd = os.open(os.ttyname(fd), _TERMINAL_FLAGS) if os.isatty(fd) else fd
        self._journal = _is_journal(fd)
        self._lost = 0
        self._torn = False

    def put(self, line: str, level: str) -> None:
        if self._journal:
            prefix = f"<{_PRIORITY[level]}>"
            line = "".join(f"{prefix}{part}\n" for part in line[:-1].split("\n"))
        data = line.encode()
        if self._lost:
            data = f"({self._lost} log lines were lost: nobody read them)\n".encode() + data
        if self._torn:
            data = b"\n" + data
        # Who did not listen in time is not waited for again.
        left = self._send(data, patience=0.0 if self._lost else _PATIENCE)
        if not left:
            self._lost = 0
            self._torn = False
            return
        self._lost += 1
        self._torn = self._torn or left < len(data)

    def close(self) -> None:
        """Close what was opened here; what was given stays open, and in use."""
        if self._fd != self._given:
            os.close(self._fd)
            self._fd = self._given

    def _send(self, data: bytes, *, patience: float) -> int:
        """Return how many bytes were not taken within `patience` seconds."""
        deadline = time.monotonic() + patience
        view = memoryview(data)
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while view:
            left = max(0.0, deadline - time.monotonic())
            events = poll.poll(left * 1000)
            if not events or not events[0][1] & select.POLLOUT:
                break
            try:
                view = view[os.write(self._fd, view[:_PIPE_BUF]) :]
            except BlockingIOError:
                continue
            except OSError:
                break
        return len(view)


class _TextSink:
    """A stream without a descriptor, such as an io.StringIO."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def put(self, line: str, level: str) -> None:
        del level
        self._stream.write(line)
        self._stream.flush()

    def close(self) -> None:
        """Leave it open: it is not ours."""


class FileSink:
    """A file, opened anew when somebody moved it away (logrotate)."""

    def __init__(self, path: Path, mode: int) -> None:
        """Make the file with a mode where it is missing. Raise StateError where that is refused."""
        self.path = path
        self.lost = 0  # lines since the last that was written
        self._mode = mode
        try:
            self.fd = self._open()
        except OSError as error:
            raise StateError(
                f"cannot write the log to {path}: {error.strerror}",
                remedy="Name a file in a folder that this user may write to, or leave log.file "
                "out: the lines go to stderr in any case.",
            ) from error

    def loss(self, lines: int) -> str:
        """Return the line that says how many are missing."""
        return f"({lines} log lines were lost)\n"

    def put(self, line: str, level: str) -> None:
        """Write a line as a whole, or count it."""
        del level
        data = line.encode()
        try:
            self._follow()
            if self.lost:
                data = self.loss(self.lost).encode() + data
            size = os.fstat(self.fd).st_size
            if os.write(self.fd, data) < len(data):
                os.ftruncate(self.fd, size)
                self.lost += 1
                return
        except OSError:
            self.lost += 1
            return
        self.lost = 0

    def close(self) -> None:
        """Close it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _open(self) -> int:
        """Return a descriptor of a regular file; nothing else takes every line at once."""
        try:
            fd = os.open(self.path, _FILE_FLAGS, self._mode)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a named pipe without a reader, or a socket
                raise OSError(errno.ENXIO, _IRREGULAR) from None
            raise
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.ENXIO, _IRREGULAR)
        self.opened(fd)
        return fd

    def opened(self, fd: int) -> None:
        """Look after a file that was just opened: here nothing. Raises OSError."""

    def _follow(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            if self.fd >= 0 and os.path.samestat(self.path.stat(), os.fstat(self.fd)):
                return
        self.close()
        self.fd = self._open()


def _sink(stream: TextIO) -> Sink:
    try:
        return _Descriptor(stream.fileno())
    except (OSError, ValueError, AttributeError):
        return _TextSink(stream)


def _is_journal(fd: int) -> bool:
    """Whether this is systemd's journal: JOURNAL_STREAM names its device and inode."""
    status = os.fstat(fd)
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _fields(record: logging.LogRecord, scrub: Scrub) -> dict[str, Any]:
    """Return what a record says, redacted: ts, level, msg, component and the extra fields."""
    name = getattr(record, "component", None) or record.name.removeprefix("pg_collector.")
    fields: dict[str, Any] = {
        "ts": rfc3339(dt.datetime.fromtimestamp(record.created, dt.UTC)),
        "level": _level(record.levelno),
        "msg": _redacted(_message(record), scrub),
        "component": _redacted(name, scrub),
    }
    for key, value in vars(record).items():
        if key not in _STANDARD:
            fields[key if key not in fields else f"{key}_"] = _redacted(value, scrub)
    if record.exc_info and record.exc_info[1] is not None:
        text = logging.Formatter().formatException(record.exc_info)
        fields["error"] = _redacted(text, scrub)
    if record.stack_info:
        fields["stack"] = _redacted(record.stack_info, scrub)
    return fields


def _level(number: int) -> str:
    for name in ("critical", "error", "warning", "info"):
        if number >= logging.getLevelNamesMapping()[name.upper()]:
            return name
    return "debug"


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):  # arguments that do not fit their text
        return f"{record.msg} (arguments withheld: they do not fit)"


def _redacted(value: Any, scrub: Scrub) -> Any:
    """Return a value as JSON takes it, with every text in it redacted; fail closed."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Secret):
        return str(value)
    if isinstance(value, dict):
        return {str(_redacted(str(k), scrub)): _redacted(v, scrub) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted(each, scrub) for each in value]
    try:
        text = scrub(str(value))
        return text.encode("utf-8", "backslashreplace").decode()  # lone surrogates
    except Exception:  # noqa: BLE001  # whatever it was, it is not shown
        return WITHHELD


def _as_json(fields: dict[str, Any]) -> str:
    return msgspec.json.encode(fields).decode() + "\n"


def _for_people(fields: dict[str, Any]) -> str:
    further = {k: v for k, v in fields.items() if k not in _HEAD}
    pairs = "".join(f" {key}={_one_line(str(value))}" for key, value in further.items())
    ts, level, msg, component = (fields[name] for name in _HEAD[:4])
    line = f"{ts[11:23]} {level.upper():<8} {component}: {_one_line(msg)}{pairs}\n"
    for name in _HEAD[4:]:
        for part in str(fields.get(name, "")).splitlines():
            line += f"    {_one_line(part)}\n"
    return line


_HEAD: Final = ("ts", "level", "msg", "component", "error", "stack")


def _one_line(text: str) -> str:
    """Show control characters instead of obeying them: no forged lines, no terminal codes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def as_note(msg: str, component: str) -> str:
    """Return a line of JSON that says something of the log itself."""
    return _as_json({**_note(msg), "component": component})


def _note(msg: str) -> dict[str, Any]:
    ts = rfc3339(dt.datetime.now(dt.UTC))
    return {"ts": ts, "level": "error", "msg": msg, "component": "logs"}
