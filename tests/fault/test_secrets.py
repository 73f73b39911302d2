"""A password, and literals of statements, on every path that leads out of the process."""

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.support.ports import free_port
from tests.support.until import until

pytestmark = pytest.mark.ends

PASSWORD = "s3cret-canary-4711"  # noqa: S105  # what must not be seen anywhere
LITERAL = "literal-canary-0815"
HBA = (
    "local all postgres trust",
    "host all postgres 127.0.0.1/32 trust",
    "host all pgcollector 127.0.0.1/32 scram-sha-256",
)


@pytest.fixture
def guarded(fresh_server):
    """A server that wants the password of the monitoring role."""
    fresh_server.query(f"alter role pgcollector password '{PASSWORD}'")
    fresh_server.allow(HBA)
    with fresh_server.connect() as session:
        session.execute(f"select '{LITERAL}', pg_sleep(0)")
        yield fresh_server


def outputs(home: Path) -> bytes:
    return b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())


@pytest.mark.parametrize("password", [PASSWORD, f"wrong-{PASSWORD}"])
def test_no_path_out_of_the_process_shows_a_secret(guarded, tmp_path, password):
    port = free_port("127.0.0.1")
    dsn = f"{guarded.dsn('pgcollector')} sslmode=disable password={password}"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PG_CONN_STRING": dsn,
        "LOG_LEVEL": "debug",
        "HTTP_ADDRESS": f"127.0.0.1:{port}",
        "XDG_RUNTIME_DIR": str(tmp_path),
    }
    pgc = Path(sys.executable).with_name("pgc")
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(
            [pgc, "start", "--local", "output"],
            env=environment, cwd=tmp_path, stdout=log, stderr=log,
        ) as process,
    ):  # fmt: skip

        def page(path):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as reply:
                return reply.read()

        def settled():
            text = page("/metrics").decode()
            state = "sample_errors_total" if password != PASSWORD else "samples_total"
            return any(
                line.startswith(f"pg_collector_{state}") and not line.endswith(" 0.0")
                for line in text.splitlines()
            )

        until(settled, not_yet=(OSError,), deadline=20)
        seen = page("/metrics") + page("/healthz?verbose") + page("/")
        seen += Path(f"/proc/{process.pid}/cmdline").read_bytes()
        seen += Path(f"/proc/{process.pid}/comm").read_bytes()
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    seen += outputs(tmp_path)
    assert PASSWORD.encode() not in seen
    assert LITERAL.encode() not in seen
    assert b"pg_collector_up" in seen
