"""The way of a new configuration into the running agent: read, checked, adopted or refused.

A signal or a command asks for it. The reading may hang, on a dead file system for one, so it has a
daemon thread of its own, `reload`; everything else happens in the main thread, which builds and
stops the parts. What is not valid as a whole changes nothing.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Final

import msgspec

from pg_collector.clock import Clock
from pg_collector.config.model import Config
from pg_collector.errors import CollectorError, ConfigurationError
from pg_collector.metrics import Metrics

log = logging.getLogger(__name__)
audit = logging.getLogger("pg_collector.audit")

KEPT: Final = "the configuration was not reloaded, the one before stays in force"


class Reloaded(msgspec.Struct, frozen=True, kw_only=True):
    """The dotted keys that changed, and those whose new value needs a restart."""

    accepted: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


class Reloader:
    """Has the configuration read anew and adopted, one reading at a time.

    `read` is called in the thread `reload`, `adopt` in the main thread; both raise CollectorError
    where nothing is to change. `post` brings work to the main thread, and may be called anywhere.
    """

    def __init__(
        self,
        read: Callable[[], Config],
        adopt: Callable[[Config], Reloaded],
        post: Callable[[Callable[[], None]], None],
        metrics: Metrics,
        clock: Clock,
        *,
        on_begin: Callable[[], None] = lambda: None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_begin` and `on_end` are called around each reading, in the main thread."""
        self._on_begin = on_begin
        self._on_end = on_end
        self.trouble: CollectorError | None = None  # why the last reading changed nothing
        self.refused: tuple[str, ...] = ()  # what waits for a restart
        self.loaded_at = clock.now()  # of the configuration in force
        self._read = read
        self._adopt = adopt
        self._post = post
        self._metrics = metrics
        self._clock = clock
        # The main thread alone uses these two.
        self._asked: list[Future[Reloaded]] = []  # for the reading under way
        self._waiting: list[Future[Reloaded]] = []  # for the one after: files may change meanwhile

    def ask(self) -> Future[Reloaded]:
        """Ask for a reload, from any thread or a signal handler; return its result to come."""
        answer: Future[Reloaded] = Future()
        self._post(partial(self._begin, answer))
        return answer

    def _begin(self, answer: Future[Reloaded]) -> None:
        self._waiting.append(answer)
        if not self._asked:
            self._start()

    def _start(self) -> None:
        self._asked, self._waiting = self._waiting, []
        self._on_begin()
        log.info("reading the configuration anew")
        threading.Thread(target=self._reading, name="reload", daemon=True).start()

    def _reading(self) -> None:
        found: Config | CollectorError
        try:
            found = self._read()
        except CollectorError as error:
            found = error
        except Exception as error:  # noqa: BLE001  # whoever waits must hear of it
            found = self._panic(error)
        self._post(partial(self._finish, found))

    def _finish(self, found: Config | CollectorError) -> None:
        outcome: Reloaded | CollectorError
        if isinstance(found, CollectorError):
            outcome = found
        else:
            try:
                outcome = self._adopt(found)
            except CollectorError as error:
                outcome = error
            except Exception as error:  # noqa: BLE001  # the agent goes on, and health says it
                outcome = self._panic(error)
        if isinstance(outcome, CollectorError):
            self._keep(outcome)
        else:
            self._accept(outcome)
        self._on_end()
        asked, self._asked = self._asked, []
        for answer in asked:
            if isinstance(outcome, CollectorError):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)
        if self._waiting:
            self._start()

    def _panic(self, error: Exception) -> CollectorError:
        self._metrics.panics_recovered_total.labels("reload").inc()
        log.error("a reload failed unexpectedly", exc_info=error)
        return CollectorError(
            f"a fault of the agent: {type(error).__name__}",
            remedy="Restart the agent, and report this with its log.",
        )

    def _keep(self, error: CollectorError) -> None:
        self.trouble = error
        self._metrics.config_last_reload_successful.set(0)
        problems = str(error).splitlines()
        log.error(KEPT, extra={"problems": problems, "remedy": error.remedy})
        audit.info("configuration refused", extra={"problems": problems})

    def _accept(self, reloaded: Reloaded) -> None:
        self.trouble = None
        self.refused = reloaded.refused
        self.loaded_at = self._clock.now()
        self._metrics.config_last_reload_successful.set(1)
        self._metrics.config_last_reload_success_timestamp_seconds.set(
            self._clock.now().timestamp()
        )
        extra = {"accepted": reloaded.accepted, "needs_restart": reloaded.refused}
        audit.info("another configuration is in force", extra=extra)
        if reloaded.refused:
            log.warning("configuration reloaded; some keys need a restart", extra=extra)
        else:
            log.info("configuration reloaded", extra=extra)


def nothing_to_read() -> Config:
    """Be the reading of an agent that was started without a file to look at again."""
    raise ConfigurationError(
        "this agent was not started from a configuration that can be read again",
        remedy="Restart it.",
    )
