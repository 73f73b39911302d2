"""The demo's temporary directory, and the small process that removes it whatever happens to us."""

import errno
import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Final, Self

from pg_collector.demo.account import Account
from pg_collector.errors import StateError

PREFIX: Final = "pgc-demo-"
NEEDED: Final = (
    250 * 1024 * 1024
)  # bytes: binaries 25 MB, a cluster 40 MB, WAL 130 MB, temporary files
_LONGEST: Final = 80  # bytes; the path of a Unix socket has 107, and file names follow

# It waits for the end of its input, which comes when this process ends in any way. PostgreSQL
# removes its pid file last of all.
_KEEPER: Final = """
read -r word
[ -e "$1/platform.pid" ] && kill -KILL "$(cat "$1/platform.pid")" 2>/dev/null
[ "$word" = keep ] && exit 0
file=$1/data/postmaster.pid
read -r pid <"$file" && kill -QUIT "$pid"
tries=0
while [ -e "$file" ] && kill -0 "$pid" && [ "$tries" -lt 50 ]; do
  sleep 0.1
  tries=$((tries + 1))
done
rm -rf -- "$1" || { sleep 1; rm -rf -- "$1"; }
"""
_KEEPER_ENDS: Final = 8.0  # seconds


class Place:
    """A directory for the server's files. Leaving it removes them, unless `keep` was called."""

    def __init__(self, account: Account) -> None:
        """Make the directory, so that `account` can enter it.

        Raises StateError where there is no fitting place, or no room.
        """
        self.account = account
        parent = _parent(as_another=account.uid != os.geteuid())
        try:
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        except OSError as error:
            raise unusable(error, parent) from error
        self._keeper = subprocess.Popen(  # noqa: S603  # a constant script
            ["/bin/sh", "-c", _KEEPER, "sh", str(self.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # Ctrl-C is not meant for it
        )
        if account.uid != os.geteuid():
            self.path.chmod(0o711)

    def folder(self, name: str) -> Path:
        """Make a directory that belongs to the server's account alone."""
        path = self.path / name
        path.mkdir(mode=0o700)
        os.chown(path, self.account.uid, self.account.gid)
        return path

    def write(self, name: str, text: str, *, for_server: bool = False) -> Path:
        """Write a file that only we (or only the server's account) can read."""
        path = self.path / name
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            if for_server:
                os.chown(fd, self.account.uid, self.account.gid)
        return path

    def keep(self) -> None:
        """Leave everything as it is, after we have ended, too."""
        self._finish(b"keep\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._finish(b"")

    def _finish(self, word: bytes) -> None:
        """Give the keeper its last word, and wait for its end."""
        if self._keeper.stdin is None or self._keeper.stdin.closed:
            return
        try:
            self._keeper.communicate(word, timeout=_KEEPER_ENDS)
        except subprocess.TimeoutExpired:
            return  # a slow disk: it goes on by itself
        if not word and self.path.exists():  # somebody ended the keeper
            shutil.rmtree(self.path, ignore_errors=True)


def unusable(error: OSError, path: Path) -> StateError:
    """Translate what the file system says."""
    remedies = {
        errno.ENOSPC: "Free some space there, or set TMPDIR to a directory on another volume.",
        errno.EDQUOT: "Your quota is used up: set TMPDIR to a directory on another volume.",
    }
    remedy = remedies.get(error.errno or 0, "Set TMPDIR to a directory that you can write to.")
    return StateError(f"cannot use {path}: {error.strerror}", remedy=remedy)


def _parent(*, as_another: bool) -> Path:
    """Return where temporary directories go; `as_another`: every account must be able to enter."""
    reasons: dict[Path, str] = {}
    for path in dict.fromkeys(map(Path, (tempfile.gettempdir(), "/tmp", "/var/tmp"))):  # noqa: S108
        reason = _objection(path, as_another=as_another)
        if reason is None:
            return path
        reasons[path] = reason
    why = "; ".join(f"{path}: {reason}" for path, reason in reasons.items())
    raise StateError(
        f"no temporary directory that the demo can use ({why})",
        remedy="Set TMPDIR to one with a short name and 250 MB free"
        + (" that every account may enter." if as_another else "."),
    )


def _objection(path: Path, *, as_another: bool) -> str | None:
    if not path.is_dir() or not os.access(path, os.W_OK | os.X_OK):
        return "not a writable directory"
    real = path.resolve()
    if len(os.fsencode(real)) > _LONGEST:
        return "its name is too long for a Unix socket"
    if as_another and not all(one.stat().st_mode & stat.S_IXOTH for one in (real, *real.parents)):
        return "other accounts cannot enter it"
    free = shutil.disk_usage(real).free
    if free < NEEDED:
        return f"only {free // 1024**2} MB free"
    return None
