"""What an agent writes down: who was let in, what was refused, what changed."""

import http.client
import json
from contextlib import closing

import msgspec
import pytest

from pg_collector import control
from pg_collector.config.kinds import MaskingLevel
from pg_collector.config.model import Http, IpAllowlist, Security
from pg_collector.errors import StateError
from tests.support.agents import configuration, running
from tests.support.ports import free_port
from tests.support.until import until

replace = msgspec.structs.replace
PASSWORD = "audit-canary-4711"  # noqa: S105  # what must not be seen


def test_what_happens_is_in_the_audit_log_and_no_secret_is(newest_server, tmp_path):
    path, socket = tmp_path / "audit.log", tmp_path / "socket"
    port = free_port("127.0.0.1")
    wrong = f"{newest_server.dsn('nobody_of_that_name')} password={PASSWORD}"
    config = replace(
        configuration({"prod": wrong}, tmp_path / "output"),
        http=Http(address=f"127.0.0.1:{port}"),
        security=Security(
            audit_logging=True,
            audit_log_path=path,
            ip_allowlist=IpAllowlist(enabled=True, allowlist=("192.0.2.1",)),
        ),
    )

    def said():
        return [json.loads(line) for line in path.read_text().splitlines()]

    def messages():
        return [one["msg"] for one in said()]

    with running(config, socket) as agent:
        until(lambda: "prod does not let us in" in messages(), what="the refusal is written down")
        for _ in range(3):
            with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as client:
                client.request("GET", "/metrics", headers={"X-Forwarded-For": "192.0.2.1"})
                assert client.getresponse().status == 403
        custom = replace(
            config.security, query_masking_level=MaskingLevel.CUSTOM, masking_patterns=("ssn",)
        )
        agent.adopt(replace(config, security=custom))
        stranger = control.SampleRequest(
            samplers=("activity",), target="prod", connection="another", explain=True
        )
        assert control.ask(stranger, socket) is None
    lines = said()
    assert lines[0]["msg"] == "the audit log begins"
    assert lines[-1]["msg"] == "the audit log ends"
    by_message = {one["msg"]: one for one in lines}
    refused = by_message["prod does not let us in"]
    assert (refused["target"], refused["sqlstate"]) == ("prod", "28000")
    assert by_message["masking is at the level custom"]["masking"] == "custom"
    assert by_message["local command: sample"]["uid"] == by_message["the audit log begins"]["uid"]
    assert messages().count("a request was not let in: 127.0.0.1: address") == 1
    assert PASSWORD not in path.read_text()
    assert {one["component"] for one in lines} == {"audit"}


def test_a_path_that_cannot_be_written_ends_the_start_and_changes_nothing_later(
    newest_server, tmp_path
):
    config = configuration({"prod": newest_server.dsn("pgcollector")}, tmp_path)
    bad = Security(audit_logging=True, audit_log_path=tmp_path)
    with (
        pytest.raises(StateError, match="cannot write the audit log"),
        running(replace(config, security=bad)),
    ):
        pass
    with running(config) as agent:
        with pytest.raises(StateError, match="cannot write the audit log"):
            agent.adopt(replace(config, security=bad))
        assert agent.config is config
