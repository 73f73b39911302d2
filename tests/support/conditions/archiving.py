"""A WAL archiver that fails or works on demand."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import process
from tests.support.lab.server import Server
from tests.support.scratch import new_directory
from tests.support.until import until


@dataclass(frozen=True)
class Archive:
    """Archiving into `directory`; the file `broken` beside it makes the command fail."""

    server: Server
    directory: Path
    broken: Path

    def fail(self) -> int:
        """Let archiving fail; return the failures counted, at least one more than before."""
        before = self._count("failed_count")
        self.broken.touch()
        return self._switch_until("failed_count", before)

    def work(self) -> int:
        """Let archiving work; return the files counted, at least one more than before."""
        before = self._count("archived_count")
        self.broken.unlink(missing_ok=True)
        return self._switch_until("archived_count", before)

    def _switch_until(self, column: str, before: int) -> int:
        self.server.query("create table if not exists archived (i int)")
        self.server.query("insert into archived values (1)")
        self.server.query("select pg_switch_wal()")  # also wakes the archiver
        until(lambda: self._count(column) > before, 30.0, f"{column} grows")
        return self._count(column)

    def _count(self, column: str) -> int:
        return int(self.server.value(f"select {column} from pg_stat_archiver"))


@contextmanager
def archiving(server: Server) -> Iterator[Archive]:
    """Restart the server with archiving on, and at the end with archiving off."""
    place = process.give(new_directory("archive"))
    archive = Archive(server, place, place.with_name(f"{place.name}.broken"))
    command = f'test ! -e "{archive.broken}" && cp "%p" "{place}/%f"'
    server.restart({"archive_mode": "on", "archive_command": command})
    try:
        yield archive
    finally:
        archive.broken.unlink(missing_ok=True)
        server.restart({"archive_mode": "off"})
        server.query("drop table if exists archived")
