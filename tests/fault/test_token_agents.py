"""A whole agent that logs in with a cloud's token: it works, and shows the token nowhere."""

import signal
import urllib.parse
from pathlib import Path

import pytest

from tests.contract.test_iam import HOST
from tests.support import sigv4
from tests.support.clouds import Clouds
from tests.support.daemon import Daemon
from tests.support.iam_front import IamFront
from tests.support.until import until


@pytest.mark.parametrize("method", ["aws_iam", "gcp_iam", "azure_ad"])
def test_an_agent_logs_in_with_a_token_and_shows_it_nowhere(newest_server, pki, tmp_path, method):
    with Clouds() as clouds:

        def judge(user, password):
            if method != "aws_iam":
                return clouds.books.judge(user, password)
            return sigv4.fault(
                password, clouds.books.keys, host=HOST, port=front.port, user=user,
                region="eu-west-1",
            )  # fmt: skip

        leaf = pki.issue("rds", HOST, (HOST,))
        with IamFront(("127.0.0.1", newest_server.port), judge, tls=leaf) as front:
            dsn = (
                f"host={HOST} hostaddr=127.0.0.1 port={front.port} user=pgcollector dbname=postgres"
            )
            postgres = {
                "conn_string": dsn,
                "auth_method": method,
                "tls": {"ca_file": str(pki.ca)},
            }
            daemon = Daemon(
                tmp_path,
                {},
                databases=[{"name": "prod", "postgres": postgres}],
                log={"level": "debug", "repeat_window": "0s"},
            )
            place = f"127.0.0.1:{clouds.port}"
            daemon.environment |= {
                "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://{place}",
                "GCE_METADATA_HOST": place,
                "GCE_METADATA_IP": place,
                "AZURE_POD_IDENTITY_AUTHORITY_HOST": f"http://{place}",
                "CLOUDSDK_CONFIG": str(tmp_path),
            }
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
