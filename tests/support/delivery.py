"""A buffer, a sender and the platform outlet against a far side, and what holds in the end."""

import threading
from typing import Any

from pg_collector.buffer.spill import SpillingBuffer
from pg_collector.clock import Clock, SystemClock
from pg_collector.config.model import Platform, PlatformTimeout
from pg_collector.metrics import Metrics
from pg_collector.outlets.platform import PlatformOutlet
from pg_collector.pacing import Backoff, Pacing
from pg_collector.sample import Keep
from pg_collector.sender import Guard, Sender
from tests.support.far_side import FarSide

QUICK = PlatformTimeout(connect=0.4, total=1.0)


def line(number: int, pad: int = 100) -> bytes:
    """Return the line of a number: it can be told again from it."""
    text = f"{number * 2654435761 % 2**32:08x}" * (pad // 8)
    return b'{"n":%d,"pad":"%s"}' % (number, text.encode())


def number_of(text: bytes) -> int:
    return int(text[5 : text.index(b",")])


class Delivery:
    """The sending half of an agent. Pauses are returned by `step`, and nobody waits for them."""

    def __init__(
        self,
        far: FarSide,
        *,
        clock: Clock | None = None,
        breaker: Guard | None = None,
        pad: int = 100,
        timeout: PlatformTimeout = QUICK,
        environ: dict[str, str] | None = None,
        **keys: Any,
    ) -> None:
        self.far = far
        self.pad = pad
        self.clock = clock or SystemClock()
        self.metrics = Metrics(self.clock)
        self.buffer = SpillingBuffer(32 << 20, self.metrics, self.clock)
        self.tokens = ["good"]  # the last one is given out
        self.refused_tokens: list[str] = []
        keys.setdefault("url", far.url)
        self.platform = Platform(timeout=timeout, **keys)
        self.outlet = PlatformOutlet(
            self.platform,
            self.clock,
            self.metrics,
            token=lambda: self.tokens[-1],
            unauthorized=lambda token, _gave_up: self.refused_tokens.append(token),
            environ=environ or {},
        )
        caps = Pacing(
            self.clock,
            max_bytes=self.platform.batch_max_bytes,
            max_lines=self.platform.batch_max_lines,
        )
        self.stopping = threading.Event()  # of a thread that runs the sender
        self.sender = Sender(
            self.buffer,
            self.outlet,
            self.stopping,
            self.metrics,
            clock=self.clock,
            pacing=caps,
            backoff=Backoff(uniform=lambda _low, high: high),
            breaker=breaker,
            linger=0.5,
        )
        self.produced = 0

    def put(self, count: int) -> None:
        for _ in range(count):
            self.produced += 1
            self.buffer.put(line(self.produced, self.pad), Keep.EVENT)

    def step(self) -> float:
        pause = self.sender.step()
        assert self.buffer.account().balanced
        return pause

    def work(self, steps: int = 1000) -> int:
        """Step until nothing waits; return how many steps that took."""
        for done in range(steps):
            if not self.buffer.account().buffered:
                return done
            self.step()
        raise AssertionError(f"after {steps} steps: {self.sender.trouble}")

    def errors(self, reason: str) -> float:
        labels = {"output": "platform", "reason": reason}
        value = self.metrics.registry.get_sample_value("pg_collector_output_errors_total", labels)
        assert value is not None, reason
        return value

    @property
    def message(self) -> str:
        """What the health check would say."""
        return self.sender.trouble.message if self.sender.trouble else ""

    def oracle(self, *, quarantined: int = 0) -> None:
        """Fail unless every line is in the store once, in order, as it was, or set aside.

        A fresh line passes first.
        """
        self.put(1)
        self.work()
        account = self.buffer.account()
        assert account.balanced
        assert account.quarantined == quarantined
        assert not account.lost
        self.far.ledger.check()
        aside = {number_of(one.line.encode()) for one in self.buffer.quarantined()}
        assert len(aside) == quarantined
        stored = [one.line for one in self.far.ledger.lines]
        wanted = [n for n in range(1, self.produced + 1) if n not in aside]
        assert stored == [line(n, self.pad) for n in wanted]

    def close(self) -> None:
        self.outlet.close()
