"""The archive: every text scrubbed and scanned, and a manifest of them, in one file."""

import datetime as dt
import gzip
import hashlib
import io
import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from pg_collector import __version__
from pg_collector.bundle.content import Kind, scrubbed
from pg_collector.bundle.parts import Found
from pg_collector.bundle.scan import Scan
from pg_collector.clock import rfc3339
from pg_collector.errors import CollectorError, StateError

MANIFEST: Final = "manifest.json"
MODE: Final = 0o600


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the archive."""

    name: str
    what: str
    bytes: int
    sha256: str


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was left out."""

    name: str
    what: str
    why: str


class Redacted(msgspec.Struct, frozen=True, kw_only=True):
    """What was replaced by `(secret)`: never the value."""

    file: str
    kind: str
    count: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What is in an archive. `since_s` are the seconds that the log goes back.

    `not_searched` says why not everything could be searched for all secrets; then it is left out.
    """

    pgc: str
    made_at: str
    host: str
    since_s: float
    files: list[File]
    left_out: list[Missing]
    redacted: list[Redacted]
    secrets_too_short_to_look_for: int
    not_searched: str = ""


class Bundle(NamedTuple):
    """A manifest, and the files by name, the manifest among them."""

    manifest: Manifest
    files: dict[str, bytes]
    name: str  # of the archive, without its ending


def pack(
    found: Iterable[Found],
    scan: Scan,
    *,
    host: str,
    now: dt.datetime,
    since: float,
    not_searched: str = "",
) -> Bundle:
    """Scrub and scan what was found.

    Where not all secrets are known, `not_searched` says why: then what could hold one is left out.
    Raises CollectorError where the manifest would not be clean.
    """
    files: list[File] = []
    left_out: list[Missing] = []
    redacted: list[Redacted] = []
    contents: dict[str, bytes] = {}
    for part, text, why in found:
        if not_searched and not part.plain:
            why = not_searched  # noqa: PLW2901  # whatever else there is to say was not searched
        clean, hits, remains = _clean(text, part.kind, scan) if not why else ("", Counter(), "")
        if remains:
            why = f"a secret would be left in it: {remains}"  # noqa: PLW2901  # one more reason
        if why:
            left_out.append(Missing(name=part.name, what=part.what, why=_sentence(why, scan)))
            continue
        redacted += [Redacted(file=part.name, kind=k, count=n) for k, n in sorted(hits.items())]
        data = contents[part.name] = clean.encode("utf-8", "backslashreplace")
        digest = hashlib.sha256(data).hexdigest()
        files.append(File(name=part.name, what=part.what, bytes=len(data), sha256=digest))
    host = _sentence(host, scan)
    manifest = Manifest(
        pgc=__version__,
        made_at=rfc3339(now),
        host=host,
        since_s=since,
        files=files,
        left_out=left_out,
        redacted=redacted,
        secrets_too_short_to_look_for=scan.too_short,
        not_searched=not_searched,
    )
    text = json.dumps(msgspec.to_builtins(manifest), indent=2) + "\n"
    contents = {MANIFEST: text.encode("ascii"), **contents}
    name = f"pgc-bundle-{re.sub(r'[^A-Za-z0-9.-]', '-', host)}-{now:%Y%m%dT%H%M%SZ}"
    return Bundle(manifest, contents, name)


def _sentence(text: str, scan: Scan) -> str:
    """Return a text of the manifest without secrets. Raises CollectorError where it holds one.

    Only what comes from elsewhere is looked through: words of ours, numbers and digests hold none,
    and one that was replaced in them would be told by what is missing.
    """
    clean, _, remains = _clean(text, Kind.TEXT, scan)
    if remains:
        raise CollectorError("the manifest would hold a secret, so nothing is written")
    return clean.encode("utf-8", "backslashreplace").decode()


def _clean(text: str, kind: Kind, scan: Scan) -> tuple[str, Counter[str], str]:
    """Return a text without secrets, how many of each kind it held, and which kind is in it still.

    Known ones go first: what the scrubber leaves of a text, they may no longer be found in.
    """
    text, hits = scan.without_known(text)
    text, further = scan.cleaned(scrubbed(text, kind))
    return text, hits + further, ", ".join(sorted(scan.cleaned(text)[1]))


def compressed(bundle: Bundle, now: dt.datetime) -> bytes:
    """Return the archive: one folder with all files, of nobody, readable by its owner."""
    whole = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=whole, mtime=now.timestamp()) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for name, data in bundle.files.items():
            member = tarfile.TarInfo(f"{bundle.name}/{name}")
            member.size, member.mode, member.mtime = len(data), MODE, int(now.timestamp())
            archive.addfile(member, io.BytesIO(data))
    return whole.getvalue()


def write(path: Path, data: bytes) -> None:
    """Write a new file of mode 0600. Raises StateError where there is one, or it cannot be made."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, MODE)
    except FileExistsError:
        raise StateError(
            f"{path} is there already", remedy="Name another file, or remove that one."
        ) from None
    except OSError as error:
        raise _not_written(path, error) from None
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(file.fileno(), MODE)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _not_written(path, error) from None
        raise


def _not_written(path: Path, error: OSError) -> StateError:
    return StateError(
        f"cannot write {path}: {error.strerror or error}",
        remedy="Name a file in a folder that this user may write to: pgc bundle -o FILE.",
    )
