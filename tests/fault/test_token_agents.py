"""A whole agent that logs in with a cloud's token: it works, and shows the token nowhere."""

import signal
import urllib.parse
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.managed import managed
from tests.support.until import until


@pytest.mark.parametrize("method", ["aws_iam", "gcp_iam", "azure_ad"])
def test_an_agent_logs_in_with_a_token_and_shows_it_nowhere(newest_server, pki, tmp_path, method):
    with managed(newest_server, method, pki, tmp_path) as there:
        daemon = Daemon(
            tmp_path,
            {},
            databases=[{"name": "prod", "postgres": there.postgres}],
            log={"level": "debug", "repeat_window": "0s"},
        )
        daemon.environment |= there.environment
        front, clouds = there.front, there.clouds
        with daemon:
            until(lambda: len(front.tried) == 2, deadline=30, what="both lanes are let in")
            daemon.sampled()
            front.cut()
            until(lambda: len(front.tried) >= 4, deadline=30, what="and again")
            daemon.sampled()
            seen = daemon.get("/metrics") + daemon.get("/healthz?verbose")
            seen += Path(f"/proc/{daemon.process.pid}/cmdline").read_text()
            daemon.signal(signal.SIGTERM)
            assert daemon.ended()[0] == 0
        assert {one.fault for one in front.tried} == {None}
        assert 'component="token:prod"' in seen
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        raw = b"".join(path.read_bytes() for path in files) + seen.encode()
        secrets = {one.password for one in front.tried}
        secrets |= {key.secret for key in clouds.books.keys.values()}
        secrets |= {key.session for key in clouds.books.keys.values()}
        for secret in secrets:
            assert secret.encode() not in raw
            assert urllib.parse.quote(secret, safe="").encode() not in raw
