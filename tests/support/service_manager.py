"""What systemd is to a service, as far as sd_notify(3) goes: somebody who hears datagrams."""

import socket
import threading
import time
from pathlib import Path
from typing import Self


class ServiceManager:
    """Hears what a service tells it. `told` are the messages so far, as (when, fields)."""

    def __init__(self, place: Path | str) -> None:
        """Listen at a path, or at an abstract name where it begins with `@`."""
        self.address = str(place)
        self.told: list[tuple[float, dict[str, str]]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + self.address[1:] if self.address.startswith("@") else self.address)
        self._thread = threading.Thread(target=self._listen, name="service-manager", daemon=True)

    def environment(self, watchdog: float | None = None) -> dict[str, str]:
        """Return what a service finds in its environment; `watchdog` is in seconds."""
        found = {"NOTIFY_SOCKET": self.address}
        if watchdog is not None:
            found["WATCHDOG_USEC"] = str(round(watchdog * 1e6))
        return found

    def names(self) -> list[str]:
        """Return the first word of each message so far, without the signs of life."""
        firsts = [next(iter(fields)) for _, fields in self.told]
        return [first for first in firsts if first != "WATCHDOG"]

    def beats(self) -> list[float]:
        """Return when signs of life came."""
        return [at for at, fields in self.told if fields.get("WATCHDOG") == "1"]

    def last(self, name: str) -> str | None:
        """Return the last value of a field."""
        values = [fields[name] for _, fields in self.told if name in fields]
        return values[-1] if values else None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.connect(self._socket.getsockname())
            end.send(b"")
        self._thread.join(5)
        self._socket.close()
        if not self.address.startswith("@"):
            Path(self.address).unlink()

    def _listen(self) -> None:
        while message := self._socket.recv(65536):
            fields = dict(line.split("=", 1) for line in message.decode().splitlines())
            self.told.append((time.monotonic(), fields))
