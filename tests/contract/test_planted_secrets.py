"""Fifty secrets, each in a place where one can be, and none in what an agent shows or writes.

A real server, a real platform behind a proxy that repeats what it hears, and an agent that logs all
it can. `Hoard` knows the forms in which a secret could stand somewhere.
"""

import base64
import json
import shutil
import signal
import tarfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from pg_collector import control, page_verbs
from pg_collector.buffer_verbs import (
    DrainRequest,
    ExamineRequest,
    PageRequest,
    RefusalsRequest,
    StatusRequest,
)
from pg_collector.bundle.peer import listed
from pg_collector.cli import app
from pg_collector.device_verbs import DeviceRequest
from pg_collector.status import StatusRequest as AgentStatusRequest
from pg_collector.support_verbs import ThreadsRequest
from tests.conftest import chosen_majors
from tests.support.conditions.hoarded import WAYS, full_of_secrets
from tests.support.daemon import Daemon
from tests.support.hoard import Hoard, forms
from tests.support.lab.server import Server
from tests.support.leaky_front import LeakyFront
from tests.support.pki import Leaf
from tests.support.reference_platform import ReferencePlatform
from tests.support.sampling import target
from tests.support.until import until

LEAST_PLANTED = 50
PAGES = (
    "/healthz?verbose",
    "/healthz",
    "/readyz?verbose",
    "/livez?verbose",
    "/status",
    "/watchdog",
)
VERBS = (
    ("config", "show", "--origin"), ("config", "show", "--json"), ("config", "check", "--json"),
    ("device", "--json"), ("samplers", "--json"), ("buffer", "status", "--json"),
    ("buffer", "quarantine", "list", "--json"), ("sample", "activity", "locks", "--json"),
    ("sample", "statements", "--explain"), ("reload", "--json"), ("bundle", "--list", "--json"),
    ("status", "--json"), ("status",), ("health", "--json"), ("health",), ("metrics",),
)  # fmt: skip
# What an agent knows: places of which a bundle must find the secrets by itself.
KNOWN = (
    *WAYS, "http token", "google key", "client key", "a passphrase", "a wrong password",
    "AWS secret key", "AWS session token", "Azure client secret", "proxy password",
    "refresh token", "masking key",
)  # fmt: skip
# What has to outlast a restart lies in a file of its own that its owner alone may read.
KEPT = {
    "device.json": frozenset(("refresh token",)),
    "masking.key": frozenset(("masking key",)),
}


def environment(hoard: Hoard, home: Path, server: Server, leaf: Leaf) -> dict[str, str]:
    """Return variables, and write files, that hold secrets."""
    where = server.dsn("X").replace("user=X", "")
    (home / "pgpass").write_text(f"*:*:*:passfile:{hoard.word('passfile')}\n")
    (home / "pgpass").chmod(0o600)
    service = f"[lab]\nuser=service\npassword={hoard.word('service')}\n"
    (home / "services").write_text(service)
    (home / "password").write_text(hoard.word("password_file"))
    (home / "reference").write_text(hoard.word("file reference"))
    (home / "token").write_text(hoard.word("http token"))
    google = {"type": "service_account", "private_key": hoard.word("google key"),
              "client_email": "x@y.example", "token_uri": "http://127.0.0.1:1/"}  # fmt: skip
    (home / "google.json").write_text(json.dumps(google))
    shutil.copy(leaf.key, home / "client.key")
    (home / "client.key").chmod(0o600)
    hoard.add("client key", leaf.key.read_text().splitlines()[1])
    user, password = "conn_string", hoard.word("conn_string")
    return {
        "PGSERVICEFILE": str(home / "services"),
        "PGPASSWORD": hoard.word("PGPASSWORD"),
        "DSN": f"{where} user={user} password={password} sslmode=disable",
        "DSN_WRONG": f"postgresql://wrong:{hoard.word('a wrong password')}@127.0.0.1:{server.port}"
        "/postgres?sslmode=disable",
        "DSN_KEY": f"{where} user=conn_string sslmode=disable "
        f"sslpassword={hoard.word('a passphrase')}",
        "AWS_ACCESS_KEY_ID": "AKIA" + hoard.word("AWS key id").upper(),
        "AWS_SECRET_ACCESS_KEY": hoard.word("AWS secret key"),
        "AWS_SESSION_TOKEN": hoard.word("AWS session token"),
        "AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c", "AZURE_AUTHORITY_HOST": "http://127.0.0.1:1",
        "AZURE_CLIENT_SECRET": hoard.word("Azure client secret"),
        "GOOGLE_APPLICATION_CREDENTIALS": str(home / "google.json"),
        "PROXY_LOGIN": f"agent:{hoard.word('proxy password')}",
    }  # fmt: skip


def databases(server: Server, home: Path) -> list[dict[str, Any]]:
    """Return the targets: each logs in with a password from another place, or tries to."""
    where = server.dsn("X").replace("user=X", "") + " sslmode=disable"
    few = {"samplers": ["activity"]}

    def one(name: str, conn_string: str, **postgres: Any) -> dict[str, Any]:
        return {"name": name, **few, "postgres": {"conn_string": conn_string, **postgres}}

    return [
        {"name": "prod", "postgres": {"conn_string": "${DSN}"}},
        one("variable", f"{where} user=pgpassword"),
        one("passfile", f"{where} user=passfile passfile={home / 'pgpass'}"),
        one("service", f"{where} service=lab"),
        one("file", f"{where} user=password_file", password_file=str(home / "password")),
        one("reference", f"{where} user=file_reference",
            password=f"${{file:{home / 'reference'}}}"),
        one("wrong", "${DSN_WRONG}"),
        one("key", "${DSN_KEY}"),
        one("aws", f"{where} user=pgpassword", auth_method="aws_iam",
            aws_iam={"region": "eu-west-1"}),
        one("gcp", f"{where} user=pgpassword", auth_method="gcp_iam"),
        one("azure", f"{where} user=pgpassword", auth_method="azure_ad"),
    ]  # fmt: skip


class Scene:
    """An agent with a device, and everything around it."""

    def __init__(self, home: Path, hoard: Hoard, server: Server, leaf: Leaf) -> None:
        self.home = home
        self.hoard = hoard
        self.state = home / "state"
        self.variables = environment(hoard, home, server, leaf)
        self.places = databases(server, home)
        headers = {"Set-Cookie": f"session={hoard.word('a cookie')}",
                   "X-Token": hoard.word("a header")}  # fmt: skip
        self.front = LeakyFront(headers, f"password={hoard.word('a sentence')}")
        self.dsn = server.dsn("conn_string")

    @property
    def buffer(self) -> str:
        """The buffer's directory, as requests name it."""
        return str((self.state / "buffer").resolve())

    def ask(self, question: control.Request) -> str:
        """Return what the agent answers at its socket."""
        (socket,) = self.state.glob("*.sock")
        reply = control.ask(question, socket)
        assert reply is not None, question
        return "\n".join((str(reply.result), *reply.lines))

    def daemon(self, platform: ReferencePlatform) -> Daemon:
        """Return the agent, not yet started."""
        hoard, home = self.hoard, self.home
        key = hoard.add("API key", platform.new_key("bench"))
        proxy = f"http://${{PROXY_LOGIN}}@127.0.0.1:{self.front.port}"
        cert = str(home / "client.key")
        daemon = Daemon(
            home, {}, "device", api_key="${API_KEY}", databases=self.places,
            platform={"url": platform.url, "proxy": proxy, "linger": "0s",
                      "resume_delay_max": "0s",
                      "client_cert": {"cert_file": str(home / "client.crt"), "key_file": cert}},
            local={"enabled": False}, state_dir=str(self.state), buffers={"durability": "wal"},
            breakers={"platform": {"reset": "1s"}, "identity": {"reset": "1s"}},
            security={"query_masking_level": "full", "drop_utility_text": False,
                      "audit_logging": True, "audit_log_path": str(home / "audit.log")},
            log={"level": "debug", "repeat_window": "0s", "file": str(home / "agent.log")},
        )  # fmt: skip
        daemon.keys["http"]["token_file"] = str(home / "token")
        daemon.write()
        daemon.environment |= self.variables | {"API_KEY": key}
        return daemon


def get(daemon: Daemon, hoard: Hoard, path: str) -> str:
    """Return a page, shown the token that it takes."""
    url = f"http://127.0.0.1:{daemon.port}{path}"
    headers = {"Authorization": f"Bearer {hoard.word('http token')}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as reply:
            return str(reply.read().decode())
    except urllib.error.HTTPError as error:
        return error.read().decode()


def pages(daemon: Daemon, hoard: Hoard) -> dict[str, str]:
    """Return every page that there is, and what a stranger is told."""
    index = get(daemon, hoard, "/")
    assert "/metrics" in set(listed(index))
    wanted = dict.fromkeys((*listed(index), *PAGES))
    return {"stranger": daemon.get("/"), "/": index,
            **{path: get(daemon, hoard, path) for path in wanted}}  # fmt: skip


def replies(scene: Scene) -> str:
    """Return what the control socket answers to every question that changes nothing.

    But for `names`: it is there to say what the tokens of level full stand for.
    """
    state, buffer = str(scene.state.resolve()), scene.buffer
    there = control.fingerprint(target(scene.dsn))
    questions = (
        control.SampleRequest(samplers=(), target="prod", connection=there),
        control.SampleRequest(samplers=(), target="prod", connection=there, explain=True),
        StatusRequest(directory=buffer), PageRequest(directory=buffer),
        ExamineRequest(directory=buffer), RefusalsRequest(directory=buffer),
        DrainRequest(directory=buffer, urge=True), DeviceRequest(directory=state),
        ThreadsRequest(directory=state), page_verbs.PageRequest(path="/metrics"),
        AgentStatusRequest(),
    )  # fmt: skip
    return "\n".join(map(scene.ask, questions))


def verbs(daemon: Daemon) -> dict[str, str]:
    """Return what the verbs print that have something to tell."""
    told: dict[str, str] = {}
    for words in VERBS:
        done = CliRunner().invoke(
            app, [*words, "--config", str(daemon.file)], env=daemon.environment
        )
        assert done.exit_code in {0, 1}, done.output
        told[" ".join(words)] = done.output
    # libpq reads a password file where there is no PGPASSWORD.
    dsn = daemon.keys["databases"][2]["postgres"]["conn_string"]
    variables = {**daemon.environment, "PGPASSWORD": None}
    # With --dsn no configuration is read: names are as level basic shows them, so here are none.
    done = CliRunner().invoke(app, ["sample", "bgwriter", "--dsn", dsn, "--json"], env=variables)
    assert done.exit_code == 0, done.output
    told["sample --dsn"] = done.output
    return told


def members(archive: Path) -> dict[str, bytes]:
    """Return what an archive holds."""
    with tarfile.open(archive) as packed:
        return {one.name.partition("/")[2]: packed.extractfile(one).read()  # type: ignore[union-attr]
                for one in packed}  # fmt: skip


def provoked(scene: Scene, daemon: Daemon) -> dict[str, str]:
    """Wait until everything that can fail has failed; return what is told meanwhile."""
    hoard, front, said = scene.hoard, scene.front, daemon.log.read_text
    until(lambda: daemon.log.exists() and "device activated" in said(), 30, "it is activated")
    for state in ("57000", "22P02", "28P01"):
        until(lambda of=state: f'"sqlstate":"{of}"' in said(), 30, state)  # type: ignore[misc]
    for name in ("aws", "gcp", "azure"):
        until(lambda of=name: f'"target":"{of}"' in said(), 30, name)  # type: ignore[misc]
    asked = [one["authorization"] for one in list(front.heard) if "authorization" in one]
    hoard.add("access token", asked[-1].rpartition(".")[2])
    kept = (scene.state / "device.json").read_text()
    hoard.add("refresh token", kept.partition('"refresh_token":"')[2].partition('"')[0])
    hoard.add_bytes("masking key", (scene.state / "masking.key").read_bytes())
    told = {}
    for status, portal, sign in (
        (403, False, "403"),
        (500, False, "500"),
        (0, True, "unexpected answer"),
    ):
        front.portal, front.hostile = portal, status or 200

        def repeated(of: str = sign) -> bool:
            scene.ask(DrainRequest(directory=scene.buffer, urge=True))
            told[f"hostile {of}"] = get(daemon, hoard, "/healthz?verbose")
            return of in told[f"hostile {of}"]

        until(repeated, 30, sign)
        told[f"hostile {sign}, at the socket"] = scene.ask(StatusRequest(directory=scene.buffer))
    front.hostile = 0
    return told


def write_into_the_log(scene: Scene, key: str) -> int:
    """Write what the agent knows into its log, in every form, as a fault might; return how many."""
    planted = scene.hoard.planted
    access = scene.variables["AWS_ACCESS_KEY_ID"]
    secrets = [planted[place] for place in KNOWN] + [access, key]
    lines = [one for secret in secrets for one in forms(secret)]
    lines.append(f"token={planted['a sentence']}")  # nobody knows it, but for what is before it
    with (scene.home / "agent.log").open("a") as log:
        log.writelines(f"{one}\n" for one in lines)
        log.write(f'{{"ts":"x","msg":"{secrets[0]}","of":["{secrets[1]}"]}}\n')
    return len(lines)


def test_fifty_planted_secrets_are_in_nothing_that_an_agent_shows_or_writes(tmp_path, pki):
    hoard, home = Hoard(), tmp_path / "agent"
    home.mkdir()
    shutil.copy(pki.client.certificate, home / "client.crt")
    with (
        full_of_secrets(hoard, max(chosen_majors())) as server,
        ReferencePlatform(tmp_path) as platform,
    ):
        scene = Scene(home, hoard, server, pki.client)
        with scene.front, scene.daemon(platform) as daemon:
            told = provoked(scene, daemon)
            told |= pages(daemon, hoard)
            told["control socket"] = replies(scene)
            told |= verbs(daemon)
            assert json.loads(told["bundle --list --json"])["redacted"] == []
            daemon.keys["log"]["format"] = "console"
            daemon.write()
            daemon.signal(signal.SIGHUP)
            until(lambda: " WARNING  " in daemon.log.read_text(), 30, "it speaks to people")
            process = Path(f"/proc/{daemon.process.pid}")
            told["process"] = (process / "cmdline").read_text() + (process / "comm").read_text()
            lines = write_into_the_log(scene, daemon.environment["API_KEY"])
            done = daemon.pgc("bundle", "-o", str(home / "bundle.tar.gz"))
            assert done.returncode == 0, done.stderr
            daemon.signal(signal.SIGTERM)
            assert daemon.ended()[0] == 0
        assert platform.stop() == 0
        told["platform"] = "\n".join(one for (one,) in platform.query("SELECT line FROM samples"))
    archive = members(home / "bundle.tar.gz")
    assert len(hoard.planted) >= LEAST_PLANTED
    everything = {**{where: text.encode() for where, text in told.items()}, **archive}
    assert {where: what for where, one in everything.items() if (what := hoard.seen(one))} == {}
    assert hoard.seen_below(scene.state, daemon.run, but=KEPT) == {}
    assert hoard.seen_below(daemon.log, daemon.file, home / "audit.log") == {}
    # All of it was there to be seen, and to be told.
    assert "(secret)" in archive["config.yaml"].decode()
    hits = json.loads(archive["manifest.json"])["redacted"]
    assert sum(one["count"] for one in hits if one["file"] == "agent.log") >= lines
    assert {one["kind"] for one in hits} >= {"environment", "password", "private key", "api_key"}
    login = base64.b64encode(f"agent:{hoard.planted['proxy password']}".encode()).decode()
    assert all(one["proxy-authorization"] == f"Basic {login}" for one in scene.front.heard)
    assert '"sqlstate":"28P01"' in daemon.log.read_text()
    assert len(told["platform"]) > len(told["/metrics"])
