"""The way of a new configuration: one reading at a time, adopted by the main thread, or not."""

import queue
import threading
from typing import Any

import pytest

from pg_collector.config.model import Config, Database
from pg_collector.errors import CollectorError, ConfigurationError
from pg_collector.metrics import Metrics
from pg_collector.reload import Reloaded, Reloader
from tests.support.hand_clock import HandClock

CONFIG = Config(databases=(Database(name="a"),))
DONE = Reloaded(accepted=("log.level",))


class Bench:
    """The main thread of an agent, in the test's own."""

    def __init__(self, read=lambda: CONFIG, adopt=lambda _config: DONE):
        self.clock = HandClock()
        self.metrics = Metrics(self.clock)
        self.posted: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.adopted = []
        self.reloader = Reloader(read, self.adopt, self.posted.put, self.metrics, self.clock)
        self._adopt = adopt

    def adopt(self, config):
        self.adopted.append((config, threading.current_thread()))
        return self._adopt(config)

    def turn(self, times=2):
        """Do what is posted: the beginning of a reload, and its end."""
        for _ in range(times):
            self.posted.get(timeout=10)()

    def value(self):
        name = "pg_collector_config_last_reload_successful"
        return self.metrics.registry.get_sample_value(name)


def test_a_configuration_is_read_aside_and_adopted_in_the_main_thread():
    readers = []

    def read():
        readers.append(threading.current_thread().name)
        return CONFIG

    bench = Bench(read)
    answer = bench.reloader.ask()
    bench.turn()
    assert answer.result(0) == DONE
    assert bench.adopted == [(CONFIG, threading.current_thread())]
    assert readers == ["reload"]
    assert bench.value() == 1
    assert bench.reloader.trouble is None


@pytest.mark.parametrize("where", ["read", "adopt"])
def test_what_is_refused_is_told_with_every_problem_until_it_is_mended(where, caplog):
    caplog.set_level("INFO", "pg_collector.audit")
    broken = [True]

    def fail(*_):
        if broken:
            raise ConfigurationError("config.yaml:1:1: a\nconfig.yaml:2:1: b")
        return CONFIG if where == "read" else DONE

    bench = Bench(**{where: fail})
    answer = bench.reloader.ask()
    bench.turn()
    with pytest.raises(ConfigurationError, match="2:1: b"):
        answer.result(0)
    assert bench.value() == 0
    assert bench.reloader.trouble is answer.exception(0)
    (said,) = [one for one in caplog.records if one.levelname == "ERROR"]
    assert said.problems == ["config.yaml:1:1: a", "config.yaml:2:1: b"]
    broken.clear()
    bench.reloader.ask()
    bench.turn()
    assert (bench.value(), bench.reloader.trouble) == (1, None)
    written = [one for one in caplog.records if one.name == "pg_collector.audit"]
    assert [one.message for one in written] == [
        "configuration refused",
        "another configuration is in force",
    ]
    assert (written[0].problems, written[1].accepted) == (said.problems, DONE.accepted)


def test_who_asks_during_a_reading_gets_the_next_one():
    allowed = threading.Semaphore(0)
    readings = []

    def read():
        readings.append(1)
        allowed.acquire(timeout=10)
        return CONFIG

    bench = Bench(read)
    first = bench.reloader.ask()
    bench.turn(1)
    others = [bench.reloader.ask() for _ in range(5)]
    bench.turn(5)
    allowed.release()
    bench.turn(1)
    assert first.done()
    assert not any(other.done() for other in others)
    allowed.release()
    bench.turn(1)
    assert all(other.result(0) == DONE for other in others)
    assert len(readings) == 2


def test_a_fault_of_ours_is_counted_told_and_survived():
    def read():
        raise RuntimeError("a bug")

    bench = Bench(read)
    answer = bench.reloader.ask()
    bench.turn()
    with pytest.raises(CollectorError, match="RuntimeError") as caught:
        answer.result(0)
    assert caught.value.remedy
    panics = bench.metrics.registry.get_sample_value(
        "pg_collector_panics_recovered_total", {"component": "reload"}
    )
    assert (panics, bench.value()) == (1, 0)
