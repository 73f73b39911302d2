"""The composition root: builds every part, starts them in order, waits, stops them in reverse.

Whoever runs an agent comes through here: `pgc start`, the demo and the tests.
"""

import contextlib
import logging
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Self

from pg_collector import schedule
from pg_collector.buffer.memory import MemoryBuffer
from pg_collector.clock import Clock, SystemClock
from pg_collector.config.model import Config
from pg_collector.errors import TargetError
from pg_collector.health.server import HealthServer
from pg_collector.health.vitals import Vital, Vitals
from pg_collector.metrics import Metrics
from pg_collector.outlets import Outlet
from pg_collector.plan import GrantSource
from pg_collector.privacy.mask import Masker
from pg_collector.runner import Runner
from pg_collector.samplers import discover
from pg_collector.samplers._sampler import Sampler
from pg_collector.schedule import Job, Layout
from pg_collector.scheduler import Scheduler
from pg_collector.sender import Sender
from pg_collector.target import Target

log = logging.getLogger(__name__)

STOP_TURNS = 2.0  # seconds that running turns may take to end before their sockets are shut
STOP_FORCED = 1.0  # seconds after that
STOP_DRAIN = 4.0  # seconds for the last lines; together less than the 10 s of an orderly stop
MAX_BATCH_LINES = 500
FILE_LINGER = 0.5  # seconds; a file costs nothing to reach


class Agent:
    """A running agent. Use it as a context manager: leaving stops it in order."""

    def __init__(
        self,
        config: Config,
        grants: GrantSource,
        outlet: Outlet | None,
        *,
        samplers: Mapping[str, Sampler] | None = None,
        token: Callable[[], str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Build every part; nothing runs before `start`. `token` gives a database password."""
        self.config = config
        self.clock = clock or SystemClock()
        self.samplers = discover() if samplers is None else samplers
        self.stopping = threading.Event()
        self.metrics = Metrics(self.clock)
        self.vitals = Vitals(self.clock)
        self.buffer = MemoryBuffer(config.buffers.memory_max, self.metrics, self.clock)
        self.masker = Masker(config.security.query_masking_level, on_failure=self._unmasked)
        self.runner = Runner(
            self.buffer,
            self.masker,
            self.metrics,
            self.clock,
            drop_utility_text=config.security.drop_utility_text,
        )
        self.targets = {
            database.name: Target(
                database,
                self.samplers,
                self.runner,
                buffer=self.buffer,
                metrics=self.metrics,
                clock=self.clock,
                stopping=self.stopping,
                password=token,
            )
            for database in config.databases
            if database.enabled
        }
        self.scheduler = Scheduler(self._take, self.metrics, self.clock, self.stopping)
        self.outlet = outlet
        self.layout = Layout((), ())
        self._grants = grants
        self._ends: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._stack = contextlib.ExitStack()
        self._failed = False
        self._sender: threading.Thread | None = None
