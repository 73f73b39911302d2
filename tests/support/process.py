"""Start a server process that gives up root and dies with the test process."""

import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

ACCOUNT = "nobody"  # PostgreSQL and PgBouncer refuse to run as root


def owner() -> tuple[int, int]:
    """Return the uid and gid that servers run under."""
    if os.geteuid() != 0:
        return os.getuid(), os.getgid()
    entry = pwd.getpwnam(ACCOUNT)
    return entry.pw_uid, entry.pw_gid


def give(path: Path, mode: int | None = None) -> Path:
    """Make `path` belong to the servers' account, and set its mode if given."""
    if os.geteuid() == 0:
        os.chown(path, *owner())
    if mode is not None:
        path.chmod(mode)
    return path


def as_owner(command: Sequence[str | Path], dying: signal.Signals | None = None) -> list[str]:
    """Return `command` wrapped so that it runs as the servers' account.

    With `dying` the process gets that signal when the thread that started it ends, so start
    servers in the main thread. setpriv (util-linux) does both; `preexec_fn` would fork with
    threads running, which Python 3.12 warns of.
    """
    setpriv = shutil.which("setpriv", path=f"{os.environ.get('PATH', '')}:/usr/bin:/usr/sbin")
    if setpriv is None:
        raise RuntimeError("setpriv is missing: install util-linux")
    uid, gid = owner()
    wrapped = [setpriv]
    if os.geteuid() == 0:
        wrapped += [f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
    if dying is not None:
        wrapped += ["--pdeathsig", dying.name.removeprefix("SIG")]
    return [*wrapped, "--", *map(str, command)] if len(wrapped) > 1 else list(map(str, command))


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return a small environment in English and UTC, plus `extra`."""
    path = os.environ.get("PATH", "/usr/bin:/bin")
    return {"PATH": path, "TZ": "UTC", "LC_ALL": "C", **(extra or {})}


def spawn(
    command: Sequence[str | Path],
    log: Path,
    *,
    dying: signal.Signals,
    inside: Sequence[str] = (),
    extra: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a long-running `command` as the servers' account; its output goes to `log`.

    `inside` is a command prefix (a network namespace), `extra` is added to the environment.
    """
    with log.open("ab") as sink:
        return subprocess.Popen(
            [*inside, *as_owner(command, dying)],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            cwd="/",
            env=environment(extra),
            start_new_session=True,
        )


def run(command: Sequence[str | Path], *, seconds: float = 60.0) -> str:
    """Run `command` as the servers' account and return its output; RuntimeError when it fails."""
    done = subprocess.run(
        as_owner(command), capture_output=True, text=True, timeout=seconds, cwd="/",
        env=environment(), check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"{Path(command[0]).name} failed: {done.stdout}{done.stderr}")
    return done.stdout


def end(process: subprocess.Popen[bytes], how: signal.Signals, *, seconds: float = 20.0) -> None:
    """Send `how`, wait, and use SIGKILL when it is not gone after `seconds`."""
    if process.poll() is None:
        process.send_signal(how)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(seconds)
