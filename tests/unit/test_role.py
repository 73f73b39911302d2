"""The SQL that makes the monitoring role, for every way to log in."""

import pytest

from pg_collector.pg.role import AUTHENTICATION, script

LAST = {
    "password": "\\password",
    "cert": "clientcert=verify-full",
    "peer": "peer",
    "aws_iam": 'GRANT rds_iam TO "my-id";',
    "gcp_iam": "gcloud sql users create my-id",
    "azure_ad": "pgaadauth_create_principal('my-id', false, false)",
}


def test_there_is_a_line_for_every_way():
    assert AUTHENTICATION.keys() == LAST.keys()


@pytest.mark.parametrize("auth", LAST)
def test_the_script_ends_with_what_the_way_needs(auth: str):
    lines = script("my-id", auth, 2, ["postgres"])
    assert LAST[auth] in lines[-1]
    assert 'GRANT pg_monitor TO "my-id";' in lines
