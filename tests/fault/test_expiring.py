"""An agent whose client certificate ends soon says so everywhere, until it is renewed."""

import http.client
import json
import re
import shutil
from pathlib import Path

from msgspec.structs import replace

from pg_collector.agent import Agent
from pg_collector.config.model import AuthMethod, Http, Tls
from pg_collector.plan import OpenGrant
from tests.conftest import chosen_majors
from tests.support.agents import configuration
from tests.support.lab.server import Server
from tests.support.pki import Leaf, Pki
from tests.support.until import until

HBA = "hostssl all pgcollector 127.0.0.1/32 cert"


def page(agent: Agent, path: str) -> str:
    assert agent.health.address is not None
    client = http.client.HTTPConnection(*agent.health.address, timeout=5)
    client.request("GET", path)
    text = client.getresponse().read().decode()
    client.close()
    return text


def end(agent: Agent) -> float:
    """Return what the metric says."""
    series = 'pg_collector_cert_expiry_timestamp_seconds{path_role="postgres:prod"} '
    (value,) = re.findall(f"^{re.escape(series)}(.*)$", page(agent, "/metrics"), re.MULTILINE)
    return float(value)


def test_a_certificate_that_ends_soon_is_told_and_its_renewal_is_seen(
    pki: Pki, tmp_path: Path, caplog
):
    files = tmp_path / "client.crt", tmp_path / "client.key"

    def put(leaf: Leaf) -> None:
        for source, file in zip((leaf.certificate, leaf.key), files, strict=True):
            new = Path(shutil.copy(source, tmp_path / "new"))
            new.chmod(0o600)
            new.replace(file)

    put(pki.issue("ending", "pgcollector", client=True, days=(-300, 5)))
    with Server(max(chosen_majors()), tls=pki, hba=[HBA]) as server:
        config = configuration(
            {"prod": server.dsn(host="localhost", hostaddr="127.0.0.1")}, tmp_path / "out"
        )
        (database,) = config.databases
        tls = Tls(ca_file=str(pki.ca), cert_file=files[0], key_file=files[1])
        postgres = replace(database.postgres, auth_method=AuthMethod.CERT, tls=tls)
        config = replace(
            config,
            databases=(replace(database, postgres=postgres),),
            http=Http(address="127.0.0.1:0"),
        )
        with Agent(config, OpenGrant()) as agent:
            until(lambda: agent.buffer.account().delivered > 0, deadline=20, what="it delivers")
            report = json.loads(page(agent, "/healthz"))
            assert report["status"] == "degraded"
            told = report["parts"]["certificates"]
            assert re.search(
                "certificate of postgres:prod, .*client.crt, expires in ", told["reason"]
            )
            assert "no restart is needed" in told["remedy"]
            assert "expires in" in caplog.text
            before = end(agent)
            put(pki.issue("renewed", "pgcollector", client=True, days=(-1, 300)))
            agent.life.routine()
            report = json.loads(page(agent, "/healthz"))
            assert report["parts"]["certificates"].keys() == {"state", "since"}
            assert report["parts"]["certificates"]["state"] == "ok"
            assert end(agent) > before + 200 * 86400
            put(pki.issue("ended", "pgcollector", client=True, days=(-9, -1)))
            agent.life.routine()
            report = json.loads(page(agent, "/healthz"))
            told = report["parts"]["certificates"]
            assert told["state"] == "degraded", "the sessions stand: nothing is broken yet"
            assert re.search("certificate of postgres:prod, .* expired on", told["reason"])
            agent.targets["prod"].interrupt()

            def parts() -> dict[str, str]:
                found = json.loads(page(agent, "/healthz"))["parts"]
                return {name: one["state"] for name, one in found.items() if one["state"] != "ok"}

            broken = {"certificates": "down", "postgres:prod": "down"}

            def refused() -> bool:  # not only interrupted
                reason = json.loads(page(agent, "/readyz"))["parts"]["postgres"].get("reason", "")
                return "expired" in reason

            until(refused, deadline=20, what="nobody is let in with it")
            assert parts() == broken
            put(pki.issue("again", "pgcollector", client=True, days=(-1, 300)))
            agent.life.routine()
            until(lambda: parts() == {}, deadline=20, what="it is let in again")
