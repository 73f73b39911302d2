"""What the agent tells systemd: that it is ready, that it lives, what it is doing.

The protocol is datagrams of `NAME=value` lines to the socket that NOTIFY_SOCKET names; without one
nothing is told. https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Mapping
from typing import Final, Self

log = logging.getLogger(__name__)

_READY: Final = "READY=1"
SEND_WITHIN: Final = 0.5  # seconds for a datagram to be taken; a busy manager must hold up nobody


class Notifier:
    """Tells whoever started this process. From any thread; it raises nothing."""

    def __init__(self, address: str = "", watchdog: float | None = None) -> None:
        """`address` is a path or, after `@`, an abstract name; empty: nobody is told.

        `watchdog` are the seconds within which each sign of life is expected; None: none is.
        """
        self.watchdog = watchdog if address else None
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._status = ""  # what was told last
        self._ending = False
        self._refused = False
        self._lock = threading.Lock()  # guards what follows; held while it is sent, at most
        self._unsaid = ""  # that it is ready, while nobody has taken that

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Self:
        """Return the one that the environment of this process asks for."""
        meant_for_us = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environ.get("WATCHDOG_USEC", "") if meant_for_us else ""
        seconds = int(microseconds) / 1e6 if microseconds.isdecimal() else 0.0
        return cls(environ.get("NOTIFY_SOCKET", ""), seconds or None)

    @property
    def wanted(self) -> bool:
        """Whether anybody is told."""
        return bool(self._address)

    def ready(self) -> None:
        """Say that the start, or a reload, is complete; where nobody takes it, `alive` does."""
        with self._lock:
            self._unsaid = "" if self._send(_READY) else _READY

    def reloading(self) -> None:
        """Say that the configuration is read anew; `ready` ends it."""
        with self._lock:
            self._unsaid = ""
            self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, within: float) -> None:
        """Say that the end has begun, and will have come within so many seconds."""
        self._ending = True
        with self._lock:
            self._unsaid = ""
            self._send(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={round(within * 1e6)}")

    def alive(self) -> None:
        """Give a sign of life, where one is expected, and say what was not taken before."""
        with self._lock:
            sign = "WATCHDOG=1" if self.watchdog is not None else ""
            text = "\n".join(filter(None, (self._unsaid, sign)))
            if text and self._send(text):
                self._unsaid = ""

    def status(self, sentence: str) -> None:
        """Say in a line what is going on, if it is not what was said before.

        Once the end has begun nothing is said: parts that end are no trouble.
        """
        line = " ".join(sentence.split())
        if not self._ending and line != self._status and self._send(f"STATUS={line}"):
            self._status = line

    def _send(self, text: str) -> bool:
        """Return whether it was taken; or nobody is told."""
        if not self._address:
            return True
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
                one.settimeout(SEND_WITHIN)
                one.connect(self._address)
                one.sendall(text.encode(errors="backslashreplace"))
        except (OSError, ValueError) as error:  # the latter: an address that cannot be one
            if not self._refused:
                self._refused = True
                why = getattr(error, "strerror", None) or error
                log.warning("the service manager cannot be told: %s", why)
            return False
        self._refused = False
        return True
