"""A backlog that is delivered while tokens, plan and configuration change (faults 33 and 48)."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.fault.test_device import PLANS, device, state, stored
from tests.support.daemon import Daemon
from tests.support.lab.server import Server
from tests.support.reference_platform import ReferencePlatform
from tests.support.until import until

WAITING = 60  # lines
RETURNS = 60.0  # seconds: the longest pause after a failure


@contextmanager
def backlog(
    home: Path, server: Server, chaos: str
) -> Iterator[tuple[ReferencePlatform, Daemon, str]]:
    """Be an agent with a backlog, five lines a request; its platform is back, troubled."""
    with ReferencePlatform(home, plans=PLANS) as platform:
        key = platform.new_key("calm")
        daemon = device(home, platform, server, key)
        daemon.keys["platform"]["batch_max_lines"] = 5
        daemon.write()
        with daemon:
            until(lambda: sum(stored(platform).values()) > 5, deadline=30, what="lines are stored")
            platform.kill()
            until(
                lambda: (daemon.metric("lines_buffered") or 0) > WAITING,
                deadline=40,
                what="lines wait",
            )
            platform.chaos = chaos
            platform.start()
            yield platform, daemon, key


def drained(platform: ReferencePlatform, daemon: Daemon) -> None:
    """Wait until what waited is stored, then end the agent; nothing may be missing."""
    goal = daemon.metric("lines_produced_total") or 0
    until(
        lambda: (daemon.metric("lines_delivered_total") or 0) >= goal,
        deadline=2 * RETURNS,
        what="all that waited is delivered",
    )
    assert daemon.metric("lines_quarantined") == 0
    daemon.signal(signal.SIGTERM)
    assert daemon.ended()[0] == 0
    assert not [entry for entry in platform.arrivals() if entry.line is None]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_33_tokens_that_are_refused_and_renewals_that_fail_and_are_slow_drop_nothing(
    newest_server, tmp_path
):
    chaos = "401=0.1,500=0.05,delay=0.02s"
    with backlog(tmp_path, newest_server, chaos) as (platform, daemon, _):
        drained(platform, daemon)
        assert "refresh-token-reused" not in platform.log.read_text()


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_33_a_subscription_that_ends_amid_a_drain_and_is_renewed_drops_nothing(
    newest_server, tmp_path
):
    with backlog(tmp_path, newest_server, "delay=0.05s") as (platform, daemon, key):
        before = sum(stored(platform).values())
        until(lambda: sum(stored(platform).values()) > before, deadline=RETURNS, what="it drains")
        platform.pgc("keys", "cancel", key)
        until(lambda: state(daemon) == "STOPPED", deadline=20, what="it is stopped")
        assert "subscription cancelled" in daemon.get("/readyz")
        assert (daemon.metric("lines_buffered") or 0) > 0
        platform.pgc("keys", "renew", key)
        until(lambda: state(daemon) == "ACTIVE", deadline=30, what="it is resumed")
        drained(platform, daemon)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_48_a_reload_a_downgrade_and_new_tokens_amid_a_drain_lose_nothing(newest_server, tmp_path):
    with backlog(tmp_path, newest_server, "delay=0.05s") as (platform, daemon, key):
        name = platform.get("/v1/devices")["devices"][0]["device_id"]
        for plan in ("all", "fast", "calm"):
            platform.change_plan(key, plan)
            platform.command(name, "rotate_token")
            daemon.keys["sampling"]["activity"] = "2s" if plan == "fast" else "1s"
            daemon.keys["platform"]["batch_max_lines"] = 7 if plan == "fast" else 5
            daemon.write()
            daemon.signal(signal.SIGHUP)
            in_force = partial(daemon.metric, f'plan_info{{plan="{plan}"}}')
            until(in_force, deadline=20, what=f"the plan {plan} is in force")
        drained(platform, daemon)
    assert "configuration reloaded" in " ".join(one["msg"] for one in daemon.said())
