"""kill -9 of the platform under load: what it acknowledged is there, every number exactly once."""

import random
import threading
from functools import partial

import requests

from tests.support.lines import check, make
from tests.support.platform_device import Device, gap
from tests.support.reference_platform import ReferencePlatform
from tests.support.until import until

KILLS = 10
AGENTS = 3


class Agent(threading.Thread):
    """Sends what it has, from where the platform wants it, until it is told to stop."""

    def __init__(self, device):
        super().__init__(daemon=True)
        self.device = device
        self.acknowledged = 0
        self.stopping = threading.Event()
        self.refused = []
        self._chance = random.Random(device.stream)  # noqa: S311

    def run(self):
        while not self.stopping.is_set():
            first = self.acknowledged + 1
            count = self._chance.randrange(1, 12)
            again = self._chance.randrange(first) if self._chance.random() < 0.3 else first - 1
            begin = max(again, first - 5) + 1
            try:
                answer = self.device.send(begin, [line(k) for k in range(begin, first + count)])
            except requests.RequestException:
                self.stopping.wait(0.05)
                continue
            if answer.ok:
                self.acknowledged = answer.json()["ack_through"]
            else:
                self.refused.append(answer.text)
                self.stopping.wait(0.05)


def line(k):
    return gap(k, k) if k % 17 == 0 else make(k, 200)


def reached(pairs):
    return all(agent.acknowledged >= goal for agent, goal in pairs)


def test_ten_kills_under_load_leave_every_number_once(tmp_path):
    platform = ReferencePlatform(tmp_path)
    platform.start()
    key = platform.new_key("bench", devices=AGENTS)
    devices = [Device(platform.url) for _ in range(AGENTS)]
    assert all(device.activate(key).ok for device in devices)
    agents = [Agent(device) for device in devices]
    chance = random.Random(5)  # noqa: S311
    for agent in agents:
        agent.start()
    for _ in range(KILLS):
        goals = [agent.acknowledged + chance.randrange(1, 60) for agent in agents]
        pairs = list(zip(agents, goals, strict=True))
        until(partial(reached, pairs), 30.0, "deliveries go on")
        platform.kill()
        platform.start()
    for agent in agents:
        agent.stopping.set()
        agent.join(40)
    assert [agent.refused for agent in agents] == [[]] * AGENTS
    assert all(device.refresh().ok for device in devices)
    assert platform.stop() == 0

    for agent in agents:
        stream = [agent.device.stream]
        (through,) = platform.query("SELECT through FROM streams WHERE stream = ?", stream)[0]
        assert through >= agent.acknowledged
        stored = platform.query(
            "SELECT number, line FROM samples WHERE stream = ? ORDER BY number", stream
        )
        assert [check(text.encode()) for _, text in stored] == [number for number, _ in stored]
        gaps = platform.query("SELECT first, last FROM gaps WHERE stream = ? ORDER BY 1", stream)
        covered = [n for n, _ in stored] + [n for a, b in gaps for n in range(a, b + 1)]
        assert sorted(covered) == list(range(1, through + 1))


def test_answers_that_are_lost_after_the_commit_double_nothing(tmp_path):
    platform = ReferencePlatform(tmp_path)
    platform.start()
    device = Device(platform.url)
    device.activate(platform.new_key("bench"))
    platform.stop()
    platform.chaos = "503=0.2,drop-after-commit=0.4,delay=0.01s"
    platform.start()
    agent = Agent(device)
    agent.start()
    until(lambda: agent.acknowledged > 120, 30.0, "deliveries go on")
    agent.stopping.set()
    agent.join(30)
    assert any("busy" in text for text in agent.refused)
    assert all("busy" in text for text in agent.refused)
    assert platform.metric("lines_duplicate_total") > 0
    platform.stop()
    rows = platform.query("SELECT count(*), count(DISTINCT number), max(number) FROM samples")
    (missing,) = platform.query("SELECT count(*) FROM gaps")[0]
    count, distinct, most = rows[0]
    assert count == distinct
    assert count + missing in {most, most + 1}  # the last one may be a gap
