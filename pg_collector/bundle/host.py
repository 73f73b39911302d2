"""What a bundle says of the machine and of the libraries, and what lies in a directory."""

import datetime as dt
import json
import os
import platform
import re
import ssl
import stat
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any, Final

from pg_collector import __version__
from pg_collector.bundle.parts import LeftOut
from pg_collector.pg.conninfo import libpq_version

_MEMORY: Final = ("MemTotal", "MemAvailable", "SwapTotal", "SwapFree", "Dirty")
_SETTINGS: Final = re.compile(
    r"PG|PGC_|AWS_|AZURE_|GOOGLE_|API_KEY|LOG_|HTTP_|STATE_|RUNTIME_|CREDENTIALS_|JOURNAL_|NOTIFY_"
    r"|WATCHDOG_|XDG_|HOME\Z|LANG\Z|LC_|TZ\Z|PYTHON|MALLOC_|SSL_|REQUESTS_|CURL_|.*_proxy\Z",
    re.IGNORECASE,
)
_MOST_FILES: Final = 10_000  # of a directory that are listed


def versions() -> str:
    """Return the versions of pgc, of Python and of the libraries, as JSON."""
    libraries = {}
    for line in metadata.requires("pg-collector") or []:
        name = re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0]
        try:
            libraries[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # of an extra that is not installed
            continue
    return as_json(
        {
            "pgc": __version__,
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            "built_with": platform.python_compiler(),
            "libc": " ".join(platform.libc_ver()),
            "openssl": ssl.OPENSSL_VERSION,
            "libpq": libpq_version(),
            "libraries": dict(sorted(libraries.items())),
        }
    )


def machine(environ: Mapping[str, str]) -> str:
    """Return facts of the platform, as JSON: of variables the names alone."""
    uname = platform.uname()
    try:
        system = platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        system = None
    try:
        facts = dict(fields(Path("/proc/meminfo"), _MEMORY))
    except OSError:  # other systems than Linux have none
        facts = {}
    return as_json(
        {
            "kernel": f"{uname.system} {uname.release} {uname.version}",
            "machine": uname.machine,
            "os": system,
            "cpus": os.cpu_count(),
            "cpus_usable": _cpus_usable(),
            "load": os.getloadavg(),
            "memory": facts,
            "uptime_s": _uptime(),
            "utc": dt.datetime.now(dt.UTC).isoformat(),
            "time_zone": time.tzname[0],
            "user": os.geteuid(),
            "variables_set": sorted(name for name in environ if _SETTINGS.match(name)),
        }
    )


def _cpus_usable() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _uptime() -> float | None:
    try:
        return float(Path("/proc/uptime").read_text("ascii").split()[0])
    except OSError:
        return None


def listing(directory: Path) -> str:
    """Return names, sizes and modes of what lies below a directory, as JSON; never what is in it.

    Raises LeftOut where there is none, PermissionError where it may not be read.
    """
    if not directory.is_dir():
        raise LeftOut(f"{directory} does not exist")
    volume = os.statvfs(directory)
    entries = list(islice(_entries(directory), _MOST_FILES + 1))
    return as_json(
        {
            "directory": str(directory),
            "volume_bytes": volume.f_frsize * volume.f_blocks,
            "volume_free_bytes": volume.f_frsize * volume.f_bavail,
            "volume_free_inodes": volume.f_favail,
            "cut": len(entries) > _MOST_FILES,
            "entries": entries[:_MOST_FILES],
        }
    )


def _entries(directory: Path) -> Iterator[dict[str, Any]]:
    """Yield what is known of the directory itself, and of all below it; links are not followed."""
    waiting = [directory]
    yield _entry(directory, ".")
    while waiting:
        folder = waiting.pop()
        try:
            names = sorted(os.listdir(folder))  # noqa: PTH208  # names are what is sorted
        except PermissionError:
            if folder == directory:
                raise
            continue
        except OSError:  # gone meanwhile
            continue
        for name in names:
            path = folder / name
            told = _entry(path, str(path.relative_to(directory)))
            if told.get("type") == "directory":
                waiting.append(path)
            yield told


def _entry(path: Path, name: str) -> dict[str, Any]:
    try:
        status = path.lstat()
    except OSError as error:
        return {"name": name, "error": error.strerror}
    kinds = {stat.S_IFDIR: "directory", stat.S_IFREG: "file", stat.S_IFLNK: "link"}
    return {
        "name": name,
        "type": kinds.get(stat.S_IFMT(status.st_mode), "other"),
        "bytes": status.st_size,
        "mode": f"{stat.S_IMODE(status.st_mode):04o}",
        "owner": status.st_uid,
        "group": status.st_gid,
        "changed": dt.datetime.fromtimestamp(status.st_mtime, dt.UTC).isoformat("T", "seconds"),
    }


def fields(file: Path, names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield name and value of some lines `Name: value` of a file of /proc. Raises OSError."""
    for line in file.read_text("utf-8", "replace").splitlines():
        name, _, value = line.partition(":")
        if name in names:
            yield name, " ".join(value.split())


def as_json(value: object) -> str:
    """Return JSON for people and machines."""
    return json.dumps(value, indent=2)
