"""A managed server, as a cloud has it: PostgreSQL that asks the cloud whether to let a login in."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.support import sigv4
from tests.support.clouds import Clouds
from tests.support.iam_front import IamFront
from tests.support.lab.server import Server
from tests.support.pki import Pki

HOST: Final = "db-1.c0ffee.eu-west-1.rds.amazonaws.com"


class Managed(NamedTuple):
    """What runs, the section `postgres` that logs in, and the environment of a machine there."""

    clouds: Clouds
    front: IamFront
    postgres: dict[str, Any]
    environment: dict[str, str]


@contextlib.contextmanager
def managed(
    server: Server, method: str, pki: Pki, home: Path, database: str = "postgres"
) -> Iterator[Managed]:
    """Have a server that takes a cloud's tokens, or with `password` any word, as long as the block.

    `home` is a directory for what the agent needs beside them.
    """
    with Clouds() as clouds:

        def judge(user: str, password: str) -> str | None:
            if method == "password":
                return None
            if method != "aws_iam":
                return clouds.books.judge(user, password)
            return sigv4.fault(
                password, clouds.books.keys, host=HOST, port=front.port, user=user,
                region="eu-west-1",
            )  # fmt: skip

        leaf = pki.issue("rds", HOST, (HOST,))
        with IamFront(("127.0.0.1", server.port), judge, tls=leaf) as front:
            where = f"host={HOST} hostaddr=127.0.0.1 port={front.port}"
            postgres: dict[str, Any] = {
                "conn_string": f"{where} user=pgcollector dbname={database}",
                "auth_method": method,
                "tls": {"ca_file": str(pki.ca)},
            }
            if method == "password":
                file = home / "password"
                file.write_text("any")
                file.chmod(0o600)
                postgres["password_file"] = str(file)
            place = f"127.0.0.1:{clouds.port}"
            environment = {
                "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://{place}",
                "GCE_METADATA_HOST": place,
                "GCE_METADATA_IP": place,
                "AZURE_POD_IDENTITY_AUTHORITY_HOST": f"http://{place}",
                "CLOUDSDK_CONFIG": str(home),
            }
            yield Managed(clouds, front, postgres, environment)
