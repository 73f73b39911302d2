"""Prints what logging in with a cloud's tokens costs: resident memory, and CPU until the first one.

Each method in a process of its own, over what an agent has imported anyhow; the endpoints are those
of the tests, on loopback. Run: python -m bench.tokens
"""

import os
import subprocess
import sys
import tempfile

CHILD = """
import sys, time, resource
import pg_collector.cli.start, pg_collector.agent
from pathlib import Path
from pg_collector.config.model import AuthMethod, Database, Postgres
from pg_collector.pg.auth import methods
from pg_collector.wire import Wire
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6
before, began = resident(), time.process_time()
login = methods.login(Database(name="x", postgres=Postgres(auth_method=AuthMethod(sys.argv[1]))))
sign = login.prepare(Wire())
sign("db.x.eu-west-1.rds.amazonaws.com", "5432", "pgcollector")
print(before, resident() - before, time.process_time() - began)
"""


def main() -> None:
    """Print a line for each method."""
    from tests.support.clouds import Clouds  # noqa: PLC0415  # the tests' part needs a checkout

    with Clouds() as clouds, tempfile.TemporaryDirectory() as home:
        place = f"127.0.0.1:{clouds.port}"
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": home,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://{place}",
            "GCE_METADATA_HOST": place,
            "GCE_METADATA_IP": place,
            "AZURE_POD_IDENTITY_AUTHORITY_HOST": f"http://{place}",
        }
        for method in ("password", "aws_iam", "gcp_iam", "azure_ad"):
            done = subprocess.run(
                [sys.executable, "-c", CHILD, method],
                env=environment, capture_output=True, text=True, check=True,
            )  # fmt: skip
            before, more, spent = map(float, done.stdout.split())
            print(f"{method:9s} +{more:5.1f} MB over {before:.1f} MB, {spent:.2f} s of CPU")


if __name__ == "__main__":
    main()
