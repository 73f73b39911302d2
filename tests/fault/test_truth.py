"""Do the probes tell the truth? What is broken, and what /livez, /readyz and /healthz say of it.

The table is that of docs/specs/http.md. Each scenario breaks something real, says what the three
are to answer (and that nothing else is blamed), and mends it: then all is well again. The scenarios
in which the process ends, or hangs as a whole, are in test_truth_ends.py.
"""

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import closing

import pytest

from pg_collector.errors import StoreFull
from pg_collector.health import watchdog
from pg_collector.sample import Keep
from tests.support.far_side import Answer
from tests.support.pki import Pki
from tests.support.proxy import Mode
from tests.support.truth import SLOW, WELL, Ill, Rig, Truth, held, moment, rig
from tests.support.until import until
from tests.support.volumes import immutable

Truths = Generator[Truth, None, None]
Scenario = Callable[[Rig, Pki], Truths]
ROOT = os.geteuid() == 0


@pytest.fixture(scope="module")
def bench(lab, pki, tmp_path_factory) -> Iterator[Rig]:
    """One agent for the whole table, whose watchdog has more patience than the slowest probe.

    What it does about a lost thread, and how soon, is shown in test_watchdog.py.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watchdog, "LOOKS", 100)
        server, home = lab.newest().vacated(), tmp_path_factory.mktemp("truth")
        with rig(server, pki, home, volume=ROOT) as bench:
            yield bench


# PostgreSQL


def without_target(state: str, reason: str, remedy: str) -> Truth:
    ill = Ill(state, reason, remedy)
    return Truth({"postgres:prod": ill}, readyz=503, conditions=frozenset(("postgres",)))


def target_down(bench: Rig, _pki: Pki) -> Truths:
    bench.proxy.set(Mode.REFUSE)
    bench.proxy.cut()
    try:
        yield without_target("down", "Connection refused", "Is PostgreSQL running")
    finally:
        bench.proxy.set(Mode.PASS)


def target_hung(bench: Rig, _pki: Pki) -> Truths:
    bench.proxy.set(Mode.BLACKHOLE)
    try:
        yield without_target("down", "no answer|did not answer|within", "")
    finally:
        bench.proxy.set(Mode.PASS)


def target_slow(bench: Rig, _pki: Pki) -> Truths:
    with bench.server.connect(application_name=SLOW):
        ill = Ill("degraded", "too slow: .* for probe$", "query_timeout")
        yield Truth({"postgres:prod": ill}, conditions=frozenset(("postgres",)))


# The platform


def output(reason: str, remedy: str) -> Truth:
    return Truth({"output": Ill("degraded", f"^platform: .*{reason}", remedy)})


def platform_down(bench: Rig, _pki: Pki) -> Truths:
    bench.far.down()
    try:
        yield output("Connection refused", "Is the far side up")
    finally:
        bench.far.up()


def platform_hung(bench: Rig, _pki: Pki) -> Truths:
    bench.far.hang()
    try:
        yield output("no answer|within", "")
    finally:
        bench.far.resume()


def platform_refuses(bench: Rig, _pki: Pki) -> Truths:
    bench.far.rules.tokens = frozenset(("another",))
    try:
        yield output("401 token expired", "pgc device")
    finally:
        bench.far.rules.tokens = None


def captive_portal(bench: Rig, _pki: Pki) -> Truths:
    page = {"Content-Type": "text/html; charset=utf-8"}
    login = {"Location": "http://login.hotel.example/portal?token=secret"}
    try:
        bench.far.always = Answer(200, headers=page, body=b"<html><h1>Welcome, log in</h1></html>")
        yield output("200 with a web page", "login page of a network.*platform.proxy")
        bench.far.always = Answer(302, headers=login)
        yield output("302, a redirect to login.hotel.example$", "login page of a network")
    finally:
        bench.far.always = None


def platforms_certificate_expired(bench: Rig, pki: Pki) -> Truths:
    right = bench.far.tls
    bench.far.present(pki.expired_server)
    bench.far.cut()
    try:
        yield output("TLS: its certificate has expired", "clock")
    finally:
        bench.far.tls = right
        bench.far.cut()


def own_certificate_expired(bench: Rig, pki: Pki) -> Truths:
    bench.show(pki.expired_client)
    try:
        said = Ill("down", "certificate of platform, .*client.crt, expired on", "Renew it")
        refused = output("our client certificate has expired", "Renew platform.client_cert")
        yield Truth({"certificates": said, **refused.parts})
    finally:
        bench.show(pki.client)


# The buffer


def spool_full(bench: Rig, _pki: Pki) -> Truths:
    journal = bench.agent.buffer.journal
    assert journal is not None

    def full() -> bool:
        bench.volume.fill()
        return isinstance(journal.trouble, StoreFull)

    try:
        until(full, 20, "the volume is full")
        said = "lines are in memory only: .*(No space|the volume|is full)"
        yield Truth({"buffer": Ill("degraded", said, "Free space")})
    finally:
        bench.volume.free()


def spool_read_only(bench: Rig, _pki: Pki) -> Truths:
    with immutable(bench.volume.path / "buffer"):
        said = "lines are in memory only: .*(not permitted|read-only|readonly)"
        yield Truth({"buffer": Ill("degraded", said, "mount options")})


def spool_hung(bench: Rig, _pki: Pki) -> Truths:
    with bench.volume.frozen():
        said = "lines are in memory only: .* the disk has not answered for ([2-9]|[1-9][0-9]+) s"
        yield Truth({"buffer": Ill("degraded", said, "something holds it up")})


def buffer_at_its_cap(bench: Rig, _pki: Pki) -> Truths:
    """Nobody takes the lines: nearly full, thinned out, then the oldest go."""
    buffer = bench.agent.buffer

    def put(keep: Keep) -> None:
        for _ in range(40):
            buffer.put(b'{"pad":"%s"}' % (b"x" * 2000), keep)
        buffer.write_down()

    def state(kind: str, reason: str) -> Truth:
        out = output("Connection refused", "Is the far side up").parts
        return Truth({"buffer": Ill(kind, f"^buffers.disk_max is {reason}", "disk_max"), **out})

    thinned, oldest = buffer.given_up()
    bench.far.down()
    try:
        while buffer.fill < 0.8:
            put(Keep.DELTA)
        yield state("degraded", "nearly full: (8|9).%")
        while buffer.given_up()[0] == thinned:
            put(Keep.DELTA)
        yield state("degraded", "full: older samples are thinned out")
        while buffer.given_up()[1] == oldest:
            put(Keep.EVENT)
        yield state("down", "full: the oldest lines are given up, [0-9]+ so far")
    finally:
        bench.far.up()


# The agent itself


def scheduler_stuck(bench: Rig, _pki: Pki) -> Truths:
    with held(bench.agent.scheduler._aps._jobstores_lock):
        ill = Ill("down", "no sign of this thread for ([2-9]|[1-9][0-9]+) s", "Restart the agent")
        yield Truth({"thread scheduler": ill}, livez=503, healthz=503)
    assert not bench.agent.life.failed, "it was mended before the watchdog ended it"


SCENARIOS: list[Scenario] = [
    target_down, target_hung, target_slow, platform_down, platform_hung, platform_refuses,
    captive_portal, platforms_certificate_expired, own_certificate_expired, spool_full,
    spool_read_only, spool_hung, buffer_at_its_cap, scheduler_stuck,
]  # fmt: skip
OF_THE_DISK = {spool_full, spool_read_only, spool_hung}


@pytest.mark.parametrize(
    "scenario",
    [
        pytest.param(one, id=one.__name__, marks=[pytest.mark.root] if one in OF_THE_DISK else [])
        for one in SCENARIOS
    ],
)
def test_the_probes_tell_the_truth(bench: Rig, pki: Pki, scenario: Scenario):
    bench.says(WELL)
    begun = mended = moment()
    ill = set[str]()
    with closing(scenario(bench, pki)) as truths:
        for truth in truths:
            bench.says(truth, changed=truth.parts, since=begun)
            ill |= set(truth.parts)
            mended = moment()
    bench.says(WELL, changed=ill, since=mended)
