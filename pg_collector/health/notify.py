"""What the agent tells systemd: that it is ready, that it lives, what it is doing.

The protocol is datagrams of `NAME=value` lines to the socket that NOTIFY_SOCKET names; without one
nothing is told. https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

import logging
import os
import socket
import time
from collections.abc import Mapping
from typing import Final, Self

log = logging.getLogger(__name__)

SEND_WITHIN: Final = 0.5  # seconds for a datagram to be taken; a busy manager must hold up nobody


class Notifier:
    """Tells whoever started this process. From any thread; it raises nothing."""

    def __init__(self, address: str = "", watchdog: float | None = None) -> None:
        """`address` is a path or, after `@`, an abstract name; empty: nobody is told.

        `watchdog` are the seconds within which each sign of life is expected; None: none is.
        """
        self.watchdog = watchdog if address else None
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._status = ""
        self._refused = False

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
        """Say that the start, or a reload, is complete."""
        self._send("READY=1")

    def reloading(self) -> None:
        """Say that the configuration is read anew; `ready` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, within: float) -> None:
        """Say that the end has begun, and will have come within so many seconds."""
        self._send(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={round(within * 1e6)}")

    def alive(self) -> None:
        """Give a sign of life, where one is expected."""
        if self.watchdog is not None:
            self._send("WATCHDOG=1")

    def status(self, sentence: str) -> None:
        """Say in a line what is going on, if it is not what was said before."""
        line = " ".join(sentence.split())
        if line != self._status:
            self._status = line
            self._send(f"STATUS={line}")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as one:
                one.settimeout(SEND_WITHIN)
                one.connect(self._address)
                one.sendall(text.encode())
        except OSError as error:
            if not self._refused:
                log.warning("the service manager cannot be told: %s", error.strerror or error)
            self._refused = True
        else:
            self._refused = False
