"""How every sampler fares on every target: told when it changes, in the log and as a line."""

import logging
import threading

import msgspec

from pg_collector.buffer import Buffer
from pg_collector.sample import Body, Keep, Sample

log = logging.getLogger(__name__)


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a set: `state` is ok, limited, unavailable, error or down.

    `limited` is an answer with holes, such as the sessions of other roles without the right to see
    them; `down` says that the target could not be used. An error is worth a line each time, the
    others only when they change.
    """

    state: str
    reason: str | None = None
    sqlstate: str | None = None
    message: str | None = None
    remedy: str | None = None


OK = State(state="ok")
_COLUMNS = ("sampler", "set", *State.__struct_fields__)


class States:
    """The states of one target, shared by its lanes."""

    def __init__(self, target: str, buffer: Buffer) -> None:
        self._target = target
        self._buffer = buffer
        self._lock = threading.Lock()
        self._now: dict[tuple[str, str | None], State] = {}  # guarded by _lock

    def tell(
        self, sampler: str, set_name: str | None, state: State, *, at: str, every: float
    ) -> None:
        """Note a state of a set, or of the whole sampler where the set is None.

        If it is news, log it and put a `sampler_state` line into the buffer.
        """
        with self._lock:
            before = self._now.get((sampler, set_name), OK)
            self._now[sampler, set_name] = state
        if state == before and state.state != "error":
            return
        if state != before and set_name is not None:
            self._log(set_name, state)
        sample = Sample(
            v=1, set="sampler_state", schema=1, target=self._target, at=at, every_s=every,
            took_ms=0.0, c=_COLUMNS,
        )  # fmt: skip
        body = Body()
        body.add((sampler, set_name, *msgspec.structs.astuple(state)))
        for line in sample.lines(body):
            self._buffer.put(line, Keep.EVENT)

    def of(self, sampler: str) -> dict[str | None, State]:
        """Return the states told so far of a sampler's sets; under None that of the sampler."""
        with self._lock:
            return {name: state for (owner, name), state in self._now.items() if owner == sampler}

    def _log(self, set_name: str, state: State) -> None:
        extra = {
            "target": self._target,
            "set": set_name,
            "reason": state.reason,
            "sqlstate": state.sqlstate,
            "remedy": state.remedy,
        }
        if state.state == "ok":
            log.info("%s on %s: ok again", set_name, self._target, extra=extra)
        else:
            log.warning(
                "%s on %s: %s: %s", set_name, self._target, state.state, state.message, extra=extra
            )
