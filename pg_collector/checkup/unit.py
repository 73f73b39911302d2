"""What the unit of systemd gives the agent: variables, and credentials that only root may read.

Root's check reads the unit and its drop-ins, and then has both as the agent does. What cannot be
had so, such as what systemd decrypts, is named.
https://www.freedesktop.org/software/systemd/man/latest/systemd.exec.html
"""

import os
import re
import shlex
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from pg_collector.checkup.finding import Finding, Level
from pg_collector.config.files import MAX_CONFIG_BYTES, MAX_SECRET_BYTES, Unreadable, read_bytes
from pg_collector.config.rights import OWN, SERVICE

NAME: Final = f"{SERVICE}.service"
CONFIG: Final = OWN / "config.yaml"  # of the agent that the unit starts
PLACES: Final = tuple(
    Path(one)
    for one in ("/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system",
                "/usr/lib/systemd/system", "/lib/systemd/system")
)  # fmt: skip
MEMORY: Final = Path("/dev/shm")  # noqa: S108  # where files are in memory, and anybody may write

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SAFE: Final = re.compile(r"[A-Za-z0-9_.-]+")
# What gives an agent more than a check can see; a check through systemd has it.
_BEYOND: Final = ("LoadCredentialEncrypted", "SetCredentialEncrypted", "ImportCredential")


class Given(NamedTuple):
    """What the unit gives. `beyond` are lines of it that only systemd can follow."""

    files: tuple[Path, ...] = ()  # of the unit, and of variables
    variables: Mapping[str, str] = {}
    credentials: Mapping[str, bytes] = {}
    beyond: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()  # what it names and is not there, and ends the start
    named: tuple[str, ...] = ()  # its lines that name files: no secret is in them


def given(places: Sequence[Path] = PLACES) -> Given:
    """Read the unit of the agent, as root. Nothing is given where there is none."""
    settings: dict[str, list[str]] = {}
    files = []
    for path in _files(places):
        try:
            text = read_bytes(path, MAX_CONFIG_BYTES).decode(errors="replace")
        except Unreadable:
            continue
        files.append(path)
        for key, value in _service(text):
            settings[key] = [*settings.get(key, ()), value] if value else []
    variables, sources, missing = _variables(settings)
    credentials, absent, unread = _credentials(settings)
    return Given(
        files=(*files, *sources),
        variables=variables,
        credentials=credentials,
        beyond=(*(f"{key}={one}" for key in _BEYOND for one in settings.get(key, ())), *unread),
        missing=(*missing, *absent),
        named=(
            *(f"EnvironmentFile={one}" for one in settings.get("EnvironmentFile", ())),
            *(
                f"LoadCredential={one}"
                for one in settings.get("LoadCredential", ())
                if one.partition(":")[0] in credentials
            ),
        ),
    )


@contextmanager
def applied(what: Given) -> Iterator[None]:
    """Have variables and credentials as the agent has them, until the end.

    The credentials are files of this account alone, in memory; a signal that ends the check leaves
    none of them.
    """
    with (
        _ended_in_order(),
        tempfile.TemporaryDirectory(dir=_in_memory(), prefix="pgc-check-") as place,
    ):
        for name, value in what.credentials.items():
            file = Path(place) / name
            file.touch(mode=0o400)
            file.chmod(0o600)
            file.write_bytes(value)
        before = dict(os.environ)
        os.environ.update(what.variables)
        if what.credentials:
            os.environ["CREDENTIALS_DIRECTORY"] = place
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Have what ends the process end the block as an exception does; what is ignored stays so."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    ending = [
        one
        for one in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(one) is not signal.SIG_IGN
    ]
    before = {one: signal.signal(one, end) for one in ending}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def findings(what: Given) -> Iterator[Finding]:
    """Say what was seen of the unit's, and what was not."""
    if not what.files:
        return
    known = ", ".join([*sorted(what.variables), *(f"credential {c}" for c in what.credentials)])
    yield Finding(
        section="secrets",
        level=Level.OK,
        found=f"{NAME} gives {known or 'no variables and no credentials'}",
        measured={"files": [str(one) for one in what.files]},
    )
    for line in what.missing:
        yield Finding(
            section="secrets",
            level=Level.FAIL,
            found=f"{NAME} does not start: {line} names a file that cannot be read",
            remedy=f"Write the file, or take the line out: systemctl edit {SERVICE}",
        )
    if what.beyond:
        yield Finding(
            section="secrets",
            level=Level.WARN,
            found=f"not seen here, because only systemd can read it: {', '.join(what.beyond)}",
            remedy=through_systemd(what),
        )


def through_systemd(what: Given) -> str:
    """Return the command that checks with every file that the unit gives."""
    lines = [f"User={SERVICE}", *what.named, *what.beyond]
    properties = " ".join(f"-p {shlex.quote(line)}" for line in lines)
    return f"systemd-run --pty --wait --collect {properties} pgc check --config {CONFIG}"


def _files(places: Sequence[Path]) -> Iterator[Path]:
    """Yield the unit, and its drop-ins in the order of their names; the first place goes first."""
    for place in places:
        if (place / NAME).is_file():
            yield place / NAME
            break
    else:
        return
    found: dict[str, Path] = {}
    for place in places:
        for path in (place / f"{NAME}.d").glob("*.conf"):
            found.setdefault(path.name, path)
    for name in sorted(found):
        yield found[name]


def _service(text: str) -> Iterator[tuple[str, str]]:
    """Yield keys and values of a unit's [Service]."""
    section = ""
    for line in re.sub(r"\\\n[ \t]*", " ", text).splitlines():
        bare = line.strip()
        if bare.startswith("["):
            section = bare
        elif section == "[Service]" and bare[:1] not in {"", "#", ";"}:
            key, _, value = bare.partition("=")
            yield key.strip(), value.strip()


def _variables(
    settings: Mapping[str, list[str]],
) -> tuple[dict[str, str], list[Path], list[str]]:
    """Return the variables, the files that they are from, and lines whose file is not there."""
    found: dict[str, str] = {}
    for line in settings.get("Environment", ()):
        found |= dict(_pairs(_words(line)))
    read, missing = [], []
    for line in settings.get("EnvironmentFile", ()):
        path = Path(line.removeprefix("-"))
        try:
            text = read_bytes(path, MAX_CONFIG_BYTES).decode(errors="replace")
        except Unreadable:
            if not line.startswith("-"):
                missing.append(f"EnvironmentFile={line}")
            continue
        read.append(path)
        for one in re.sub(r"\\\n", "", text).splitlines():
            if one.strip()[:1] not in {"", "#", ";"}:
                found |= dict(_pairs(_assignment(one)))
    for line in settings.get("UnsetEnvironment", ()):
        for word in _words(line):
            found.pop(word.partition("=")[0], None)
    return found, read, missing


def _assignment(line: str) -> list[str]:
    """Return a line of a file of variables without its quotes; spaces within a value stay."""
    name, sign, value = line.strip().partition("=")
    value = value.strip()
    if value[:1] in {'"', "'"}:
        value = "".join(_words(value)[:1])
    return [f"{name.strip()}{sign}{value}"]


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:  # quotes that do not end: systemd passes over the line
        return []


def _pairs(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    for word in words:
        name, sign, value = word.partition("=")
        if sign and _NAME.fullmatch(name):
            yield name, value


def _credentials(
    settings: Mapping[str, list[str]],
) -> tuple[dict[str, bytes], list[str], list[str]]:
    """Return the credentials, lines whose source cannot be read, and lines for systemd alone."""
    found: dict[str, bytes] = {}
    missing, unread = [], []
    for line in settings.get("SetCredential", ()):
        name, _, value = line.partition(":")
        if not _SAFE.fullmatch(name):
            continue
        try:
            found[name] = _unescaped(value)
        except UnicodeError:
            unread.append(f"SetCredential={name}:…")
    for line in settings.get("LoadCredential", ()):
        name, _, source = line.partition(":")
        if not source.startswith("/") or not _SAFE.fullmatch(name):
            continue  # of the manager's own, which may lack it
        try:
            found[name] = read_bytes(Path(source), MAX_SECRET_BYTES)
        except Unreadable:
            # What is set in its place serves where the file is absent, not where it is unreadable.
            if name not in found or os.path.lexists(source):
                missing.append(f"LoadCredential={line}")
    return {name: value for name, value in found.items() if value.strip()}, missing, unread


def _unescaped(value: str) -> bytes:
    r"""Return the bytes that C's escapes stand for, and systemd's `\s`. Raises UnicodeError."""
    plain = re.sub(r"\\(.)", lambda found: r"\x20" if found[1] == "s" else found[0], value)
    return plain.encode().decode("unicode_escape").encode("latin-1")


def _in_memory() -> Path | None:
    """Return a place in memory; None, for the usual one, where there is none."""
    usable = MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free
    return MEMORY if usable else None
