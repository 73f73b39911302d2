"""An agent between a real server and a real platform, and what its three probes say."""

import http.client
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from msgspec.structs import replace

from pg_collector.agent import Agent
from pg_collector.clock import SystemClock, rfc3339
from pg_collector.config.model import (
    Breaker,
    Breakers,
    Buffers,
    ClientCert,
    Config,
    Http,
    Platform,
    PlatformTimeout,
    Sampling,
)
from pg_collector.errors import Reason
from pg_collector.plan import OpenGrant
from pg_collector.sample import Row
from pg_collector.samplers._sampler import Group, LaneName, Query, Sampler, Scope
from tests.support.far_side import FarSide
from tests.support.lab.server import Server
from tests.support.pki import Leaf, Pki
from tests.support.proxy import FaultProxy
from tests.support.sampling import SAMPLERS
from tests.support.target import target
from tests.support.until import until
from tests.support.volumes import DiskVolume, disk_volume

MB = 1 << 20
SLOW = "truth: slow"  # while a session of this name is there, the sampler below takes 10 s
PATIENCE = 2.0  # seconds; the agent's own is ten times as much


class Ill(NamedTuple):
    """How a part is that is not ok; the texts are searched for."""

    state: str
    reason: str
    remedy: str


@dataclass(frozen=True)
class Truth:
    """What the probes are to say: the codes, and the parts that are not ok; no others."""

    parts: Mapping[str, Ill] = field(default_factory=dict)  # of /healthz, and threads of /livez
    livez: int = 200
    readyz: int = 200
    healthz: int = 200
    conditions: frozenset[str] = frozenset()  # of /readyz


WELL = Truth()


class Said(NamedTuple):
    """The answer of a probe."""

    code: int
    status: str
    parts: Mapping[str, Any]
    seconds: float = 0.0

    def ill(self) -> dict[str, Any]:
        """Return the parts that are not ok."""
        return {name: one for name, one in self.parts.items() if one["state"] != "ok"}


def ask(address: tuple[str, int], path: str) -> Said:
    """Ask for a path over a connection of its own."""
    client = http.client.HTTPConnection(*address, timeout=20)
    began = time.monotonic()
    try:
        client.request("GET", path)
        answer = client.getresponse()
        body = answer.read()
        seconds = time.monotonic() - began
    finally:
        client.close()
    if not answer.headers["Content-Type"].startswith("application/json"):
        return Said(answer.status, "", {}, seconds)
    report = json.loads(body)
    return Said(answer.status, report.get("status", ""), report.get("parts", {}), seconds)


def compare(address: tuple[str, int], truth: Truth) -> None:
    """Fail unless the probes say that, and of nothing else that it is not well."""
    alive, ready, healthy = (ask(address, path) for path in ("/livez", "/readyz", "/healthz"))
    assert (alive.code, ready.code, healthy.code) == (truth.livez, truth.readyz, truth.healthz), (
        alive, ready, healthy.ill(),
    )  # fmt: skip
    threads = {name for name in truth.parts if name.startswith("thread ")}
    assert set(alive.ill()) == threads, alive.ill()
    assert set(ready.ill()) == truth.conditions, ready.ill()
    ill = healthy.ill()
    assert set(ill) == set(truth.parts), ill
    for name, wanted in truth.parts.items():
        assert ill[name]["state"] == wanted.state, ill
        assert re.search(wanted.reason, ill[name].get("reason", "")), ill[name]
        assert re.search(wanted.remedy, ill[name].get("remedy", "")), ill[name]
    for one in (*ill.values(), *ready.ill().values()):
        assert one.get("reason"), one
        assert one.get("remedy") or one["state"] == "stopped", one
        assert one["since"].endswith("Z"), one


def says(address: tuple[str, int], truth: Truth, hurry: Callable[[], None] = lambda: None) -> None:
    """Wait until the probes say so."""

    def look() -> bool:
        hurry()
        compare(address, truth)
        return True

    until(look, 20.0, f"the truth, {truth}", not_yet=(AssertionError, OSError))


def moment() -> str:
    """Return what time it is, as the probes write it."""
    return rfc3339(SystemClock().now())


class _Slow(Row, frozen=True):
    """How long it took to look."""

    waited: int


_PROBE = Sampler(
    name="probe",
    learns="Whether the test wants it to be slow",
    group=Group.CORE,
    scope=Scope.INSTANCE,
    lane=LaneName.SLOW,
    every=1.0,
    queries=(
        Query(
            set="probe",
            row=_Slow,
            relations={"a": "pg_stat_activity"},
            columns={
                "waited": "length(pg_sleep(case when exists (select from pg_stat_activity where "
                f"application_name = '{SLOW}') then 10 else 0 end)::text)"
            },
            source="",
        ),
    ),
    remedy={Reason.PRIVILEGE: "GRANT something TO {role};"},
)


class Rig:
    """The agent, and everything around it that can be broken."""

    def __init__(
        self, server: Server, far: FarSide, proxy: FaultProxy, volume: DiskVolume | None
    ) -> None:
        self.server = server
        self.far = far
        self.proxy = proxy
        self._volume = volume
        self.certificate = Path(), Path()
        self.agent: Agent

    @property
    def volume(self) -> DiskVolume:
        """The file system of the buffer."""
        assert self._volume is not None
        return self._volume

    @property
    def address(self) -> tuple[str, int]:
        assert self.agent.health.address is not None
        return self.agent.health.address

    def says(self, truth: Truth, *, changed: Iterable[str] = (), since: str = "") -> None:
        """Wait until the probes say so; whoever may try again does so at once.

        The parts `changed` have been in their states since then, or later.
        """
        says(self.address, truth, self.agent.delivery.hurry)
        parts = ask(self.address, "/healthz").parts
        for name in changed:
            assert parts[name]["since"] >= since, (name, parts[name])

    def show(self, leaf: Leaf) -> None:
        """Put another certificate in the place of the one that the agent shows to the platform."""
        for source, file in zip((leaf.certificate, leaf.key), self.certificate, strict=True):
            new = Path(shutil.copy(source, file.with_suffix(".new")))
            new.chmod(0o600)
            new.replace(file)
        self.agent.life.routine()


@contextmanager
def rig(
    server: Server,
    pki: Pki,
    home: Path,
    *,
    volume: bool,
    timeout: float = 1.0,
    patience: float = PATIENCE,
) -> Iterator[Rig]:
    """Run an agent whose buffer is on a volume of its own, where that is wanted (root only)."""
    with (
        FarSide(tls=pki.server, client_ca=pki.ca) as far,
        FaultProxy((server.host, server.port)) as proxy,
        disk_volume(32 * MB) if volume else nullcontext() as disk,
    ):
        found = Rig(server, far, proxy, disk)
        found.certificate = home / "client.crt", home / "client.key"
        for source, file in zip(
            (pki.client.certificate, pki.client.key), found.certificate, strict=True
        ):
            shutil.copy(source, file)
        buffer = (disk.path if disk is not None else home) / "buffer"
        config = _config(found, pki, buffer, timeout)
        found.agent = Agent(
            config,
            OpenGrant(),
            samplers={"probe": _PROBE, "activity": SAMPLERS["activity"]},
            token=lambda: "good",
            state_dir=home / "state",
            patience=patience,
        )
        with found.agent:
            yield found
            proxy.set("pass")


def _config(rig: Rig, pki: Pki, buffer: Path, timeout: float) -> Config:
    dsn = rig.server.dsn("pgcollector", port=rig.proxy.port)
    cert, key = rig.certificate
    quick = Breaker(reset=0.3)
    return Config(
        databases=(replace(target(dsn, query_timeout=timeout, connect_timeout=1.0), name="prod"),),
        sampling=Sampling(every={"probe": 1.0, "activity": 1.0}, budget=None),
        platform=Platform(
            url=rig.far.url,
            ca_file=str(pki.ca),
            client_cert=ClientCert(cert_file=cert, key_file=key),
            no_proxy="*",
            linger=0.0,
            resume_delay_max=0.0,
            timeout=PlatformTimeout(connect=1.0, total=timeout),
        ),
        buffers=Buffers(disk_path=buffer, disk_max=MB, memory_max=MB),
        breakers=Breakers(postgres=quick, platform=quick),
        http=Http(address="127.0.0.1:0"),
    )


@contextmanager
def held(*locks: Any) -> Iterator[None]:
    """Hold locks from another thread, as one that hangs would."""
    got, release = threading.Event(), threading.Event()

    def hang() -> None:
        for one in locks:
            assert one.acquire(timeout=10)
        got.set()
        release.wait(60)
        for one in reversed(locks):
            one.release()

    thread = threading.Thread(target=hang, daemon=True)
    thread.start()
    try:
        assert got.wait(20)
        yield
    finally:
        release.set()
        thread.join(20)
