"""The files that a configuration names: each is to be there, regular, and usable by this user.

What would end the start or keep a target away is told by the check already. Where libpq is stricter
than the file system, so is this. https://www.postgresql.org/docs/current/libpq-ssl.html
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pg_collector.config import rights
from pg_collector.config.files import Unreadable, read_secret, readable, refuse_unwritable
from pg_collector.config.model import Config, Database
from pg_collector.config.problems import joined
from pg_collector.config.schema import SectionShape, config_shape

_SYSTEM: Final = "system"  # the operating system's bundle instead of a file
_OPEN: Final = stat.S_IRWXG | stat.S_IRWXO
_OPEN_OF_ROOT: Final = stat.S_IWGRP | stat.S_IXGRP | stat.S_IRWXO


def complaints(config: Config) -> Iterator[tuple[str, Unreadable]]:
    """Yield the path of each key whose file cannot be used, and why."""
    for path, file in _named(config_shape(), config, ""):
        try:
            if path == "http.token_file":
                read_secret(file)
            elif path.endswith(".postgres.tls.key_file"):
                _refuse_open_key(file, readable(file))
            else:
                readable(file)
        except Unreadable as error:
            yield path, error
    if config.log.file is not None:
        try:
            refuse_unwritable(config.log.file)
        except Unreadable as error:
            yield "log.file", error


def _named(section: SectionShape, values: Any, path: str) -> Iterator[tuple[str, Path]]:
    """Yield path and value of each key that names a file to read; databases may be switched off."""
    for name, key in section.keys.items():
        below, value = joined(path, name), getattr(values, name)
        if key.shape.section is not None:
            yield from _named(key.shape.section, value, below)
        elif key.shape.of is not None and key.shape.of.section is not None:
            for number, item in enumerate(value):
                if not isinstance(item, Database) or item.enabled:
                    yield from _named(key.shape.of.section, item, f"{below}[{number}]")
        elif name.endswith("_file") and value and value != _SYSTEM:
            yield below, Path(value)


def _refuse_open_key(file: Path, status: os.stat_result) -> None:
    """Refuse the modes that libpq refuses: others may read it, or the group of a private owner."""
    if not status.st_mode & (_OPEN if status.st_uid else _OPEN_OF_ROOT):
        return
    mode = f"mode {stat.S_IMODE(status.st_mode):04o}"
    remedy = f"chmod 600 {file}" if status.st_uid == os.geteuid() else rights.copy(file)
    own = (file, rights.to_closed(file, file.parent)) if status.st_uid == 0 else None
    fault = f"is a key that others can use, which libpq refuses ({mode})"
    raise Unreadable(file, fault, remedy, own=own)
