"""Agents that meet one trouble each, for the long run of the alerts (tests/fault/monitoring.py)."""

import http.client
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any, TypeVar

from tests.support.daemon import Daemon
from tests.support.far_side import Answer, FarSide
from tests.support.lab.server import Server
from tests.support.pki import Pki
from tests.support.proxy import FaultProxy, Mode
from tests.support.reference_platform import ReferencePlatform
from tests.support.sampling import SAMPLERS
from tests.support.volumes import memory_volume

T = TypeVar("T")

# The platform that goes away: grace after 6 s, for two minutes, and then the end of the plan.
PLANS = """
short:
  max_databases: 2
  min_interval: {activity: 0, database: 0, statements: 0}
  masking_levels: [basic]
  pii: basic
  audit_log: false
  outputs: [platform]
  grace_s: 120
  heartbeat_s: 2
  ingest: {max_batch_bytes: 1000000, max_line_bytes: 200000, encodings: [zstd, gzip]}
"""
STUMBLE, HANG = "stumble", "hang"  # files that tell an agent what to do: daemon_main.py


def nothing() -> None:
    """Do nothing."""


@dataclass
class Scenario:
    """An agent, what happens to it, and which alerts are to fire then."""

    name: str
    daemon: Daemon
    expected: frozenset[str]
    begin: Callable[[], None] = nothing
    mend: Callable[[], None] | None = None  # what ends it: then no alert of `heals` fires any more
    heals: frozenset[str] = frozenset()
    tick: Callable[[], None] = nothing  # each second while it lasts
    after: dict[float, Callable[[], None]] = field(default_factory=dict)  # by seconds of trouble


class Stage:
    """What the scenarios share: servers, certificates, folders; all is gone at the end."""

    def __init__(self, home: Path, major: int, stack: ExitStack) -> None:
        self.home = home
        self.stack = stack
        self.major = major
        self.pki = Pki(home / "pki")
        self.server = self.enter(Server(major, settings={"max_connections": "120"}))
        self.server.query("create role many login; grant pg_monitor to many")

    def enter(self, context: AbstractContextManager[T]) -> T:
        """Keep something until the end."""
        return self.stack.enter_context(context)

    def agent(
        self,
        name: str,
        *samplers: str,
        how: str = "files",
        dsn: str = "",
        every: str = "2s",
        **keys: Any,
    ) -> Daemon:
        """Return an agent with these samplers, by default two, not yet started."""
        wanted = samplers or ("activity", "database")
        sampling = {
            "enabled": {one: one in wanted for one in SAMPLERS},
            **dict.fromkeys(wanted, every),
            "budget": "off",
        }
        home = self.home / name.replace(" ", "_")
        home.mkdir()
        return Daemon(
            home,
            {"prod": dsn or self.server.dsn("many")},
            how,
            **{"sampling": sampling, "state_dir": str(home / "state"), **keys},
        )

    def sending(self, name: str, far: FarSide, *samplers: str, **keys: Any) -> Daemon:
        """Return one that delivers to a far side."""
        shown = keys.pop("shown", {})
        platform = {"url": far.url, "linger": "1s", "resume_delay_max": "0s", **shown}
        keys = {"buffers": {"durability": "wal"}, **keys}
        return self.agent(
            name, *samplers, how="platform", local={"enabled": False}, platform=platform, **keys
        )

    def far(self) -> FarSide:
        """Return a far side."""
        return self.enter(FarSide())


def _reload(daemon: Daemon, text: str | None = None) -> None:
    daemon.write(text)
    daemon.signal(signal.SIGHUP)


def _all(*names: str) -> frozenset[str]:
    return frozenset(f"PgCollector{name}" for name in names)


def every(stage: Stage) -> Iterator[Scenario]:
    """Yield all scenarios; their agents are not started yet."""
    far = stage.far()
    yield Scenario("well", stage.sending("well", far, "activity", "database", "statements"), _all())
    yield from _of_targets(stage)
    yield from _of_sampling(stage)
    yield from _of_delivery(stage)
    yield from _of_buffers(stage)
    yield from _of_the_device(stage)
    yield from _of_the_process(stage)


def _of_targets(stage: Stage) -> Iterator[Scenario]:
    own = stage.enter(Server(stage.major))
    daemon = stage.agent("target stopped", dsn=own.dsn("pgcollector"))
    down = _all("PostgresDown")
    yield Scenario(
        "target stopped", daemon, down, own.stop, mend=lambda: (own.start(), None)[1], heals=down
    )
    server = stage.server
    hung = stage.enter(FaultProxy((server.host, server.port)))
    yield Scenario(
        "target hung",
        stage.agent("target hung", dsn=server.dsn("many", port=hung.port)),
        down,
        lambda: hung.set(Mode.BLACKHOLE),
        mend=lambda: hung.set(Mode.PASS),
        heals=down,
    )
    late = stage.enter(FaultProxy((server.host, server.port)))
    yield Scenario(
        "way to the target slow",
        stage.agent("slow way", "activity", dsn=server.dsn("many", port=late.port), every="1s"),
        _all("SkippedTurns"),
        lambda: late.shape(latency=0.25),
    )


def _of_sampling(stage: Stage) -> Iterator[Scenario]:
    server = stage.server
    for name in ("dropped", "locked"):
        server.query(f"create database {name}")
        server.query("create extension pg_stat_statements", dbname=name)
    dropped, locked = server.database("dropped"), server.database("locked")
    both = ("activity", "statements")
    missing = _all("NoSamples")
    yield Scenario(
        "extension dropped",
        stage.agent("dropped", *both, dsn=dropped.dsn("many")),
        missing,
        lambda: (dropped.query("drop extension pg_stat_statements"), None)[1],
        mend=lambda: (dropped.query("create extension pg_stat_statements"), None)[1],
    )
    holder = stage.enter(locked.connect())

    def lock() -> None:
        holder.execute("begin")
        holder.execute("lock table pg_locks in access exclusive mode")

    def unlock() -> None:
        holder.execute("rollback")

    yield Scenario(
        "view locked",
        stage.agent("locked", "locks", dsn=locked.dsn("many")),
        _all("SampleErrors", "NoSamples"),
        lock,
        mend=unlock,
        heals=missing,
    )
    dear = stage.agent("dear", *both, "database", "vacuum")

    def limit() -> None:
        dear.keys["sampling"]["budget"] = "0.1%"
        _reload(dear)

    yield Scenario("sampling too dear", dear, _all("OverBudget"), limit)


def _of_delivery(stage: Stage) -> Iterator[Scenario]:
    shut = stage.far()

    def answer(far: FarSide, how: Answer | None) -> Callable[[], None]:
        return lambda: setattr(far, "always", how)

    stalled = _all("DeliveryStalled")
    yield Scenario(
        "platform says 401",
        stage.sending("401", shut),
        stalled | _all("DeliveryHeld"),
        answer(shut, Answer(status=401, problem="token-expired")),
    )
    slow = stage.far()
    yield Scenario(
        "platform slow",
        stage.sending("slow", slow, shown={"linger": "5s"}),
        _all("DeliverySlow"),
        answer(slow, Answer(delay=12.0)),
    )
    wrong = stage.far()
    date = formatdate(4102444800, usegmt=True)
    yield Scenario(
        "clocks differ",
        stage.sending("clock", wrong),
        _all("ClockSkew"),
        answer(wrong, Answer(headers={"Date": date})),
        mend=answer(wrong, None),
        heals=_all("ClockSkew"),
    )
    picky = stage.far()
    seen = [0]

    def rejects(_line: bytes) -> bool:
        seen[0] += 1
        return seen[0] % 20 == 0

    yield Scenario(
        "lines refused",
        stage.sending("refused", picky),
        _all("QuarantineGrowing"),
        lambda: setattr(picky.rules, "rejects", rejects),
    )
    near = stage.pki.issue("near", "agent", client=True, days=(-300, 300))
    end = stage.pki.issue("end", "agent", client=True, days=(-300, 1))
    shown = {"cert_file": str(near.certificate), "key_file": str(near.key)}

    def replace() -> None:
        end.key.replace(near.key)
        end.certificate.replace(near.certificate)

    yield Scenario(
        "certificate ends",
        stage.sending("certificate", stage.far(), shown={"client_cert": shown}),
        _all("CertificateExpires", "CertificateEnds"),
        replace,
    )


def _of_buffers(stage: Stage) -> Iterator[Scenario]:
    away = stage.far()
    held = _all("DeliveryStalled", "BreakerOpen", "BufferFillsUp")
    yield Scenario(
        "platform away, small buffer",
        stage.sending("away", away, buffers={"durability": "memory", "memory_max": "1MB"}),
        held,
        away.down,
        mend=away.up,
        heals=held,
    )
    gone = stage.far()
    yield Scenario(
        "platform away, tiny buffer",
        stage.sending(
            "tiny", gone, *SAMPLERS, every="1s",
            buffers={"durability": "memory", "memory_max": "512kB"},
        ),
        _all("DeliveryStalled", "BreakerOpen", "LinesLost"),
        gone.down,
    )  # fmt: skip
    volume = stage.enter(memory_volume(8 * 1024 * 1024))
    unusable = _all("DiskBufferUnusable")
    disk = {"durability": "wal", "disk_path": str(volume.path / "buffer"), "disk_max": "4MB"}
    yield Scenario(
        "buffer's disk full",
        stage.sending("disk", stage.far(), buffers=disk),
        unusable,
        volume.fill,
        mend=volume.free,
        heals=unusable,
    )


def _of_the_device(stage: Stage) -> Iterator[Scenario]:
    (stage.home / "service").mkdir()
    platform = stage.enter(
        ReferencePlatform(stage.home / "service", plans=PLANS, token_seconds=30.0)
    )
    sent = {"url": platform.url, "linger": "1s", "resume_delay_max": "0s"}
    device: dict[str, Any] = {"local": {"enabled": False}, "platform": sent}
    yield Scenario(
        "device cut off",
        stage.agent(
            "device", how="device", api_key=platform.new_key("short"),
            buffers={"durability": "wal"}, **device,
        ),
        _all(
            "GraceMode", "GraceEnds", "Stopped", "TokenExpired", "BreakerOpen", "DeliveryStalled",
        ),
        platform.kill,
        mend=platform.start,
        heals=_all("Stopped", "GraceMode", "GraceEnds", "TokenExpired", "BreakerOpen"),
    )  # fmt: skip
    yield Scenario(
        "not activated",
        stage.agent("nobody", how="device", **device),
        _all("Unprovisioned"),
    )


def _of_the_process(stage: Stage) -> Iterator[Scenario]:
    wrong = stage.agent("reload")
    refused = _all("ReloadFailed")
    yield Scenario(
        "reload refused",
        wrong,
        refused,
        lambda: _reload(wrong, "databases: [{nam: x}]\n"),
        mend=lambda: _reload(wrong),
        heals=refused,
    )
    killed = stage.agent("killed")
    down = _all("InstanceDown")
    yield Scenario(
        "agent killed",
        killed,
        down,
        lambda: killed.signal(signal.SIGKILL),
        mend=lambda: (killed.__enter__(), None)[1],
        heals=down,
    )
    again = stage.agent("again")

    def restart() -> None:
        again.__exit__()
        again.__enter__()

    yield Scenario(
        "agent restarted thrice",
        again,
        _all("Restarting"),
        restart,
        after={20.0: restart, 40.0: restart},
    )
    defect = stage.agent("defect", "activity", "statements", how="stumbling when told")
    yield Scenario(
        "faults of the agent",
        defect,
        _all("Panics", "MaskingFailures"),
        (defect.home / STUMBLE).touch,
    )
    hanging = stage.agent("hanging", how="hanging when told")
    yield Scenario(
        "output hangs", hanging, down | _all("WatchdogStale"), (hanging.home / HANG).touch
    )
    guarded = stage.agent(
        "guarded", security={"ip_allowlist": {"enabled": True, "allowlist": ["127.0.0.1"]}}
    )
    yield Scenario(
        "strangers ask", guarded, _all("RequestsRefused"), tick=lambda: _knock(guarded.port)
    )


def _knock(port: int) -> None:
    """Ask from another address of the loopback."""
    with suppress(OSError, http.client.HTTPException):
        link = http.client.HTTPConnection(
            "127.0.0.1", port, timeout=2, source_address=("127.0.0.2", 0)
        )
        link.request("GET", "/healthz")
        link.getresponse().read()
        link.close()
