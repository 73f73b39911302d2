"""How every sampler fares on every target: told when it changes, in the log and as a line."""

import logging
import re
import threading
from collections.abc import Callable, Collection

import msgspec

from pg_collector.buffer import Intake
from pg_collector.errors import Reason, SamplerError, SamplerTimeout, SamplerUnavailable
from pg_collector.privacy.mask import NOT_SHOWN, Masker
from pg_collector.privacy.scrub import scrub_error
from pg_collector.sample import Body, Facts, Keep, Sample
from pg_collector.samplers._sampler import Query, Sampler, ServerRole

log = logging.getLogger(__name__)

GONE_KEPT = 256  # states of databases that are gone; when one is back and well, that is told


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
    about: tuple[str, ...] = ()  # names that message and remedy mention; not sent

    @property
    def foreign(self) -> bool:
        """Whether the message is the server's or the library's own."""
        return self.sqlstate is not None or self.state in {"error", "down"}


OK = State(state="ok")
_GONE = State(state="unavailable", message="this database is not visited any more")
_SENT = State.__struct_fields__[:-1]
_COLUMNS = ("sampler", "set", *_SENT)
_BASIC = Masker()


class States:
    """The states of one target, shared by its lanes."""

    def __init__(
        self,
        target: str,
        buffer: Intake,
        masker: Callable[[], Masker] = lambda: _BASIC,
        *,
        quiet: bool = False,
    ) -> None:
        """`masker` gives what the names in a line are to be masked with.

        `quiet`: nothing is logged.
        """
        self._quiet = quiet
        self._target = target
        self._buffer = buffer
        self._masker = masker
        self._lock = threading.Lock()
        # By sampler, set and database; changed under _lock.
        self._now: dict[tuple[str, str | None, str | None], State] = {}

    def tell(
        self,
        sampler: str,
        set_name: str | None,
        state: State,
        *,
        at: str,
        every: float,
        database: str | None = None,
    ) -> None:
        """Note a state of a set, or of the whole sampler where the set is None.

        `database` is one that is visited, None the target's own. If it is news, log it and put a
        `sampler_state` line into the buffer.
        """
        with self._lock:
            before = self._now.get((sampler, set_name, database), OK)
            self._now[sampler, set_name, database] = state
        if state == before and state.state != "error":
            return
        if state != before and (set_name is not None or state.reason == Reason.ROLE):
            self._log(set_name or sampler, state, database)
        masker = self._masker()
        sample = Sample(
            v=1, set="sampler_state", schema=1, target=self._target,
            database=masker.name(database) if database else database, at=at,
            every_s=every, took_ms=0.0, c=_COLUMNS,
        )  # fmt: skip
        shown = _shown(state, masker)
        body = Body()
        body.add((sampler, set_name, *(getattr(shown, name) for name in _SENT)))
        for line in sample.lines(body):
            self._buffer.put(line, Keep.EVENT)

    def retain(self, databases: Collection[str], *, at: str, every: float) -> None:
        """Forget the databases that are not visited any more; tell it where one was not well.

        That one is remembered, so that it can be told when it is back and well.
        """
        with self._lock:
            gone = {
                key: state
                for key, state in self._now.items()
                if key[2] is not None and key[2] not in databases
            }
        for (sampler, set_name, database), state in gone.items():
            if state != OK:
                self.tell(sampler, set_name, _GONE, at=at, every=every, database=database)
        ill = [key for key, state in gone.items() if state != OK]
        with self._lock:
            for key in gone.keys() - set(ill[-GONE_KEPT:]):
                self._now.pop(key, None)

    def of(self, sampler: str) -> dict[str | None, State]:
        """Return the states told so far of a sampler's sets; under None that of the sampler."""
        now = self._now.copy()  # whoever only looks waits for nobody
        return {
            name: state
            for (owner, name, database), state in now.items()
            if owner == sampler and database is None
        }

    def timed_out(self) -> frozenset[str]:
        """Return the samplers that have a set whose last turn ran into a time limit."""
        now = self._now.copy()  # whoever only looks waits for nobody
        return frozenset(key[0] for key, state in now.items() if state.reason == Reason.TIMEOUT)

    def _log(self, set_name: str, state: State, database: str | None) -> None:
        if self._quiet:
            return
        extra = {
            "target": self._target,
            "database": database,
            "set": set_name,
            "reason": state.reason,
            "sqlstate": state.sqlstate,
            "remedy": state.remedy,
        }
        if state.state == "ok":
            log.info("%s on %s: ok again", set_name, self._target, extra=extra)
        elif state.reason == Reason.ROLE:
            log.info("%s on %s: %s", set_name, self._target, state.message, extra=extra)
        else:
            log.warning(
                "%s on %s: %s: %s", set_name, self._target, state.state, state.message, extra=extra
            )


def _shown(state: State, masker: Masker) -> State:
    """Return a state as it may leave the host."""
    message, remedy = state.message, state.remedy
    if message is not None:
        foreign = state.foreign
        message = masker.message(message) if foreign else masker.mentioned(message, state.about)
    if remedy is not None and state.foreign and not state.about:
        remedy = masker.message(remedy)  # nobody says which names are in it
        remedy = None if remedy == NOT_SHOWN else remedy
    elif remedy is not None:
        remedy = masker.mentioned(remedy, state.about)
    return msgspec.structs.replace(state, message=message, remedy=remedy)


def failure(sampler: Sampler, error: SamplerError, facts: Facts) -> State:
    """Say what an error of a set means for it; what the message quotes of the user's is hidden."""
    reason: Reason | None = None
    if isinstance(error, SamplerUnavailable | SamplerTimeout):
        reason = error.reason
    return State(
        state="unavailable" if isinstance(error, SamplerUnavailable) else "error",
        reason=reason,
        sqlstate=error.sqlstate,
        message=scrub_error(error.sqlstate, str(error)),
        remedy=_remedy(sampler, reason, facts) or error.remedy or None,
        about=_about(facts),
    )


def lack(sampler: Sampler, query: Query, facts: Facts) -> State:
    """Say why a server cannot answer a query at all."""
    reason = Reason.VERSION
    message = f"this server has no {next(iter(query.relations.values()))}"
    if query.extension is not None and query.extension not in facts.extensions:
        libraries = facts.settings.get("shared_preload_libraries")
        message = f"the extension {query.extension} is not in the database {facts.database!r}"
        if libraries is not None and query.extension not in libraries:
            reason = Reason.SETTING
            message = f"{query.extension} is not loaded by this server"
    return State(
        state="unavailable",
        reason=reason,
        message=message,
        remedy=_remedy(sampler, reason, facts),
        about=_about(facts),
    )


def holes(sampler: Sampler, query: Query, facts: Facts, blind: int = 0) -> State:
    """Say what is missing from an answer that came; `blind` rows say so themselves."""
    message = None
    if query.hidden and not facts.reads_all_stats:
        message = f"what belongs to other roles is hidden from {facts.role}"
    elif blind:
        message = f"{blind} rows lack what {facts.role} may not see"
    if message is None:
        return OK
    return State(
        state="limited",
        reason=Reason.PRIVILEGE,
        message=message,
        remedy=_remedy(sampler, Reason.PRIVILEGE, facts),
        about=_about(facts),
    )


def elsewhere(sampler: Sampler, facts: Facts) -> State | None:
    """Say that a sampler has nothing to ask on a server in this part; None where it has."""
    is_standby = facts.in_recovery
    if sampler.only_on is None or is_standby is (sampler.only_on is ServerRole.STANDBY):
        return None
    return State(
        state="unavailable",
        reason=Reason.ROLE,
        message="not a primary" if is_standby else "not a standby",
    )


def _about(facts: Facts) -> tuple[str, ...]:
    return (facts.role, facts.database)


def _remedy(sampler: Sampler, reason: Reason | None, facts: Facts) -> str | None:
    text = sampler.remedy.get(reason) if reason is not None else None
    return text and text.format(role=_identifier(facts.role), database=facts.database)


def _identifier(name: str) -> str:
    """Quote an identifier where SQL needs it."""
    if _PLAIN.fullmatch(name):
        return name
    return '"' + name.replace('"', '""') + '"'


_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
