"""What a device keeps on disk: who it is, and what the platform said last.

Two files of mode 0600 in the state directory. `device_id` is made once, for life. `device.json` is
replaced as a whole with each change, so that a crash leaves it as it was before or after; one that
is damaged is set aside, and the device has to be activated again.
"""

import contextlib
import fcntl
import hashlib
import itertools
import logging
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from pg_collector.activation.elapsed import Moment
from pg_collector.activation.signed import KeySet
from pg_collector.errors import CollectorError, StateError
from pg_collector.folders import sync, sync_folder
from pg_collector.meet import meet

log = logging.getLogger(__name__)
audit = logging.getLogger("pg_collector.audit")

FORMAT: Final = 1
FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700
COMMANDS_KEPT: Final = 256
_LONGEST: Final = 1024 * 1024  # bytes of the file
_OPEN: Final = os.O_CLOEXEC | os.O_NOFOLLOW
AGAIN: Final = "Activate the device again: pgc activate, with an api_key in the configuration."


class Damaged(CollectorError):
    """The file is not as it was written."""


class Kept(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of `device.json`. Ages are in seconds, as of `seen`."""

    device_id: str
    key_sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    refresh_token: str  # empty where its family has ended
    keys: KeySet
    policy: str  # as it was signed
    policy_version: int
    etag: str = ""
    seen: Moment
    policy_age: float = 0.0
    contact_age: float = 0.0
    stop_reason: str = ""
    stop_remedy: str = ""
    commands_done: tuple[str, ...] = ()  # the newest last

    def aged(self, now: Moment) -> "Kept":
        """Return the same as of now."""
        passed = self.seen.until(now)
        return msgspec.structs.replace(
            self,
            seen=now,
            policy_age=self.policy_age + passed,
            contact_age=self.contact_age + passed,
        )


class _Seal(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of the file."""

    format: int
    sha256: str


def fingerprint(api_key: str) -> str:
    """Return what is kept of an API key."""
    return hashlib.sha256(api_key.encode("utf-8")).hexdigest()


class DeviceStore:
    """The two files. One process at a time holds them: `held`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "device.json"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes off. Raises StateError where one has the device, or none can."""
        try:
            self.directory.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            self._refuse_of_another()
            fd = os.open(self.directory / "device.lock", os.O_RDWR | os.O_CREAT | _OPEN, FILE_MODE)
        except OSError as error:
            raise self._unusable(error) from error
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StateError(
                    f"another process has the device of {self.directory}",
                    remedy="Is an agent running? Ask it, or stop it first.",
                ) from None
            yield
        finally:
            os.close(fd)

    def device_id(self, kept: Kept | None) -> str:
        """Return the name of this device; make it, the first time. Raises StateError.

        What was activated has its name in the state, too: a lost file is mended from there.
        """
        path = self.directory / "device_id"
        written = ""
        try:
            written = str(uuid.UUID(path.read_text("ascii").strip()))
        except FileNotFoundError:
            pass
        except (ValueError, UnicodeDecodeError):
            log.error("%s is damaged: it is written anew", path)
        except OSError as error:
            raise self._unusable(error) from error
        found = kept.device_id if kept is not None else written or str(uuid.uuid4())
        if found != written:
            self._replace(path, f"{found}\n".encode("ascii"))
        return found

    def activated(self) -> bool:
        """Whether there is something to read. Raises StateError where that cannot be told."""
        try:
            self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise self._unusable(error) from error
        return True

    def read(self) -> Kept | None:
        """Return what is kept, None where nothing is. Changes nothing.

        Raises Damaged, and StateError for a file that cannot be read, or is a newer agent's.
        """
        try:
            fd = os.open(self.path, os.O_RDONLY | _OPEN)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unusable(error) from error
        with os.fdopen(fd, "rb") as file:
            content = file.read(_LONGEST + 1)
        head, _, body = content.partition(b"\n")
        try:
            seal = msgspec.json.decode(head, type=_Seal)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise Damaged(f"{self.path} is damaged: its head cannot be read") from None
        if seal.format > FORMAT:
            raise StateError(
                f"{self.path} has format {seal.format}, this agent knows {FORMAT}",
                remedy="A newer agent wrote it: start that one, or activate this one with a "
                "state_dir of its own.",
            )
        if hashlib.sha256(body).hexdigest() != seal.sha256:
            raise Damaged(f"{self.path} is damaged: it is not as it was written")
        try:
            return msgspec.json.decode(body, type=Kept)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Damaged(f"{self.path} is damaged: {error}") from None

    def load(self) -> Kept | None:
        """Return what is kept, for its holder: what is damaged is set aside, and told."""
        with contextlib.suppress(OSError):
            if stat.S_IMODE(self.path.lstat().st_mode) & 0o077:
                log.warning("%s could be read by others: its mode is mended", self.path)
                self.path.chmod(FILE_MODE)
        try:
            return self.read()
        except Damaged as error:
            aside = self.set_aside()
            log.error("%s; it is kept as %s", error, aside.name, extra={"remedy": AGAIN})
            audit.error("the device's state was damaged, and is set aside as %s", aside.name)
            return None

    def set_aside(self) -> Path:
        """Move the file out of the way; return its new place. Raises StateError."""
        names = (self.path.with_name(f"device.json.damaged-{n}") for n in itertools.count(1))
        aside = next(one for one in names if not one.exists())
        try:
            self.path.rename(aside)
            sync_folder(self.directory)
        except OSError as error:
            raise self._unusable(error) from error
        return aside

    def save(self, kept: Kept) -> None:
        """Keep this from now on, whatever happens next. Raises StateError."""
        body = msgspec.json.encode(kept)
        seal = _Seal(format=FORMAT, sha256=hashlib.sha256(body).hexdigest())
        self._replace(self.path, msgspec.json.encode(seal) + b"\n" + body)

    def forget(self) -> None:
        """Forget everything but the device's id. Raises StateError."""
        try:
            self.path.unlink(missing_ok=True)
            sync_folder(self.directory)
        except OSError as error:
            raise self._unusable(error) from error

    def _replace(self, path: Path, content: bytes) -> None:
        aside = path.with_name(f"{path.name}.new")
        try:
            self.directory.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _OPEN, FILE_MODE)
            with os.fdopen(fd, "wb") as file:
                file.write(content)
                file.flush()
                sync(fd)
            aside.rename(path)
            sync_folder(self.directory)
        except OSError as error:
            raise self._unusable(error) from error

    def _refuse_of_another(self) -> None:
        """Refuse a directory of another user, who could not read what is written into it."""
        owner = self.directory.stat().st_uid
        if owner not in {0, os.geteuid()}:  # root may lend one, as a volume of a container
            raise StateError(
                f"{self.directory} belongs to user {owner}, not to {os.geteuid()}",
                remedy=f"Do it as that user: sudo -u '#{owner}' pgc …; or set another state_dir.",
            )

    def _unusable(self, error: OSError) -> StateError:
        return StateError(
            f"{error.filename or self.directory}: {error.strerror}",
            remedy="state_dir has to be a directory that the agent's user can write to.",
        )


meet(Kept, _Seal)  # commands read it in several threads
