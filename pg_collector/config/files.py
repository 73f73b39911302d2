"""The files of a configuration: read within bounds, and never from something that could block."""

import os
import stat
from pathlib import Path
from typing import Final

from pg_collector.config import rights
from pg_collector.config.problems import Origin
from pg_collector.errors import ConfigurationError

MAX_CONFIG_BYTES: Final = 1024 * 1024
MAX_SECRET_BYTES: Final = 64 * 1024
_MAX_DROP_INS: Final = 256


class Unreadable(ConfigurationError):
    """A file cannot be used. `fault` completes a sentence that begins with its path.

    `own` is the remedy for a file, or directory, that is the configuration's own.
    """

    def __init__(
        self,
        path: Path,
        fault: str,
        remedy: str,
        place: tuple[int, int] = (0, 0),
        *,
        own: tuple[Path, str] | None = None,
    ) -> None:
        super().__init__(f"{path} {fault}", remedy=remedy)
        self.path = path
        self.fault = fault
        self.origin = Origin(str(path), *place)
        self._own = own

    def remedy_beside(self, source: Path | None) -> str:
        """Return the remedy for a configuration that was read from `source`."""
        directory = source.parent if source is not None else None
        if self._own is not None and rights.is_own(self._own[0], directory):
            return self._own[1]
        return self.remedy


def read_text(path: Path, limit: int) -> str:
    """Return the text of a regular file of at most `limit` bytes of UTF-8.

    Raises `Unreadable`, which never repeats what the file holds.
    """
    return _decoded(path, read_bytes(path, limit))


def read_bytes(path: Path, limit: int) -> bytes:
    """Return what a regular file of at most `limit` bytes holds. Raises `Unreadable`."""
    descriptor = _opened(path)
    try:
        content = _read(descriptor, limit + 1)
    except OSError as error:
        raise Unreadable(path, f"cannot be read: {error.strerror}", "check the disk") from None
    finally:
        os.close(descriptor)
    if len(content) > limit:
        raise Unreadable(path, f"is larger than {limit // 1024} kB", "is it the right file?")
    return content


def read_secret(path: Path) -> str:
    """Return the trimmed text of a file that holds one secret. Raises `Unreadable`."""
    text = read_text(path, MAX_SECRET_BYTES).strip()
    if not text:
        raise Unreadable(path, "is empty", "write the value into it")
    return text


def readable(path: Path) -> os.stat_result:
    """Return the status of a regular file that this user can read. Raises `Unreadable`."""
    descriptor = _opened(path)
    try:
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


def refuse_unwritable(path: Path) -> None:
    """Raise `Unreadable` unless this user can add to the file, or make it where it is missing."""
    try:
        status = path.stat()
    except PermissionError:
        raise _forbidden(path) from None
    except (FileNotFoundError, NotADirectoryError):
        _refuse_unusable(path)
        return
    except (OSError, ValueError) as error:
        raise _not_opened(path, error) from None
    _refuse_irregular(path, status)
    if not os.access(path, os.W_OK):
        user = _user_name(os.geteuid())
        fault = f"may not be written by {user} ({_owner(status)})"
        remedy = f"name a file in a directory of {user}'s own"
        raise Unreadable(path, fault, remedy, own=(path, f"chown {user} {path}"))


def expanded(text: str) -> Path:
    """Return the path; `~` and `~user` at its beginning are home directories, as in a shell.

    Raises `ConfigurationError`, which does not repeat the path, for a user who has none.
    """
    if not text.startswith("~"):
        return Path(text)
    try:
        return Path(text).expanduser()
    except (RuntimeError, ValueError):
        raise ConfigurationError(
            "begins with `~`, and this user or the home directory is not known",
            remedy="write the whole path, or ./~name for a name that begins with `~`",
        ) from None


def is_place(path: Path) -> bool:
    """Say whether the path is absolute and in a directory that is there, other than the root."""
    try:
        return path.is_absolute() and path.parent != Path("/") and path.parent.is_dir()
    except (OSError, ValueError):
        return False


def drop_ins(path: Path) -> tuple[list[Path], list[str]]:
    """Return the files of `config.d` beside `path`, sorted, and warnings on what is passed over.

    Raises `Unreadable` where the directory cannot be listed.
    """
    directory = path.parent / "config.d"
    try:
        names = sorted(os.listdir(directory))  # noqa: PTH208  # names are what is sorted
    except (FileNotFoundError, NotADirectoryError):
        return [], []
    except PermissionError:
        raise _forbidden(directory) from None
    visible = [name for name in names if not name.startswith(".")]
    found = [directory / name for name in visible if name.endswith(".yaml")]
    if len(found) > _MAX_DROP_INS:
        fault = f"holds more than {_MAX_DROP_INS} files"
        raise Unreadable(directory, fault, "is it the right place?")
    passed = [
        f"{directory / name} is not read: only names that end in .yaml are"
        for name in visible
        if name.endswith((".yml", ".json"))
    ]
    return found, passed


def readable_by_everyone(path: Path) -> str | None:
    """Return the mode (`0644`) of a file that every user of the host can read, else None."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return None
    return f"{stat.S_IMODE(mode):04o}" if mode & stat.S_IROTH else None


def _opened(path: Path) -> int:
    """Return a descriptor of a regular file."""
    try:
        # Without O_NONBLOCK a named pipe would wait here for somebody to write.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except PermissionError:
        raise _forbidden(path) from None
    except (FileNotFoundError, NotADirectoryError):
        raise Unreadable(path, "does not exist", "check the path") from None
    except (OSError, ValueError) as error:
        raise _not_opened(path, error) from None
    try:
        _refuse_irregular(path, os.fstat(descriptor))
    except Unreadable:
        os.close(descriptor)
        raise
    return descriptor


def _read(descriptor: int, count: int) -> bytes:
    """Read until the end, or until there are `count` bytes."""
    content = b""
    while len(content) < count:
        piece = os.read(descriptor, count - len(content))
        if not piece:
            break
        content += piece
    return content


def _decoded(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        raise Unreadable(path, "is not UTF-8", "save it as UTF-8", (line, column)) from None


def _refuse_irregular(path: Path, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise Unreadable(path, "is a directory", "name a file in it")
    if not stat.S_ISREG(status.st_mode):
        raise Unreadable(path, "is not a regular file", "name a file")


def _refuse_unusable(path: Path) -> None:
    """Raise `Unreadable` unless this user can make a file in the directory."""
    directory, user = path.parent, _user_name(os.geteuid())
    try:
        status = directory.stat()
    except OSError:
        fault, remedy = "is in a directory that does not exist", f"mkdir -p {directory}"
        raise Unreadable(path, fault, remedy) from None
    if not stat.S_ISDIR(status.st_mode):
        raise Unreadable(path, "is in a place that is no directory", "check the path")
    if not os.access(directory, os.W_OK | os.X_OK):
        fault = f"is in a directory that {user} may not write to ({_owner(status)})"
        remedy = f"name a file in a directory of {user}'s own"
        raise Unreadable(path, fault, remedy)


def _not_opened(path: Path, error: Exception) -> Unreadable:
    reason = getattr(error, "strerror", None) or "not a path"
    return Unreadable(path, f"cannot be opened: {reason}", "check the path")


def _forbidden(path: Path) -> Unreadable:
    """Say whose it is, and how to let this user read it."""
    user = _user_name(os.geteuid())
    try:
        status = path.stat()
    except OSError:
        closed = rights.barrier(path)
        fault = f"is in a directory that {user} may not enter"
        if (remedy := rights.as_service(closed, 0o1)) is not None:
            return Unreadable(path, fault, remedy)
        own = (closed, rights.to_group(closed, "750"))
        return Unreadable(path, fault, rights.copy(path), own=own)
    fault = f"may not be read by {user} ({_owner(status)})"
    if (remedy := rights.as_service(path, 0o4)) is not None:
        return Unreadable(path, fault, remedy)
    if stat.S_ISDIR(status.st_mode):
        own = (path, rights.to_group(path, "750"))
        return Unreadable(path, fault, f"name one that {user} may read", own=own)
    own = (path, rights.to_group(path, "640"))
    return Unreadable(path, fault, rights.copy(path), own=own)


def _owner(status: os.stat_result) -> str:
    return f"owner {_user_name(status.st_uid)}, mode {stat.S_IMODE(status.st_mode):04o}"


def _user_name(uid: int) -> str:
    import pwd  # noqa: PLC0415  # only when something is wrong

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
