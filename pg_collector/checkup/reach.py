"""How a server is asked: on a lane of the agent that samples it, else on a session of our own.

So there are never more sessions than the two of the agent, and one where no agent runs.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

import msgspec

from pg_collector import control, spot
from pg_collector.checkup import account
from pg_collector.checkup.asked import Asked
from pg_collector.config.model import Database
from pg_collector.control import ExamineRequest, SampleRequest
from pg_collector.errors import AgentUnreachable, CollectorError, TargetError
from pg_collector.pg import examination
from pg_collector.pg.examination import Examination, Trouble
from pg_collector.pg.session import Session
from pg_collector.privacy.mask import Masker
from pg_collector.privacy.scrub import scrub_error
from pg_collector.samplers import discover
from pg_collector.samplers._sampler import Sampler

_SOCKETS: Final = Path("/proc/net/unix")
LEAST = 1.0  # seconds: what `query_timeout` is at least


class NoSession(Exception):
    """There is no session; `trouble` says why."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.message)
        self.trouble = trouble


class Reach(Protocol):
    """A server that can be asked."""

    examined: Examination
    lent: bool  # by the running agent

    def sample(self, sampler: Sampler) -> list[bytes]:
        """Take a sample. Raises CollectorError."""


class _Own:
    """A session of our own."""

    lent = False

    def __init__(self, name: str, session: Session) -> None:
        self.examined = examination.read(session)
        self._name = name
        self._session = session

    def sample(self, sampler: Sampler) -> list[bytes]:
        """Take a sample on it."""
        return spot.take(sampler, self._name, self._session, masker=Masker(), explain=False)


class _Lent:
    """A lane of the agent behind a socket."""

    lent = True

    def __init__(
        self, database: Database, socket: Path, asked: Asked, examined: Examination
    ) -> None:
        self.examined = examined
        self._database = database
        self._socket = socket
        self._asked = asked

    def sample(self, sampler: Sampler) -> list[bytes]:
        """Have the agent take a sample."""
        request = SampleRequest(
            samplers=(sampler.name,),
            target=self._database.name,
            connection=control.fingerprint(self._database),
        )
        reply = self._asked.ask(request, self._socket)
        if reply is None:
            raise AgentUnreachable("the agent ended meanwhile", remedy="Try again.")
        return [line.encode() for line in reply.lines]


def agent(database: Database, asked: Asked) -> _Lent | None:
    """Return what the running agent lends; None where none samples this database.

    Raises NoSession where it has no session either, AgentUnreachable, ConfigurationError, and
    CollectorError where it may not be asked.
    """
    request = ExamineRequest(target=database.name, connection=control.fingerprint(database))
    forbidden: Path | None = None
    for path in asked.sockets:
        if _is_hidden(path):
            forbidden = forbidden or path
            continue
        try:
            reply = asked.ask(request, path)
        except PermissionError:
            forbidden = forbidden or path
            continue
        if reply is None or reply.result is None:
            continue
        if "trouble" in reply.result:
            inner = control.Reply(result=reply.result["trouble"])
            raise NoSession(control.told(inner, Trouble))
        return _Lent(database, path, asked, control.told(reply, Examination))
    if forbidden is not None:
        raise CollectorError(refusal(forbidden), remedy=account.command(forbidden))
    return None


@contextmanager
def own(database: Database, asked: Asked) -> Iterator[Reach]:
    """Open a session of our own, which ends when the time is over.

    Raises NoSession, ConfigurationError.
    """
    relations = frozenset(name for one in discover().values() for name in one.relations)
    try:
        session = Session.open(bounded(database, asked), relations=relations)
    except TargetError as error:
        raise NoSession(examination.trouble(error, scrub_error)) from error
    end = threading.Timer(asked.left(), session.interrupt)
    end.start()
    try:
        try:
            reach = _Own(database.name, session)
        except TargetError as error:
            raise NoSession(examination.trouble(error, scrub_error)) from error
        yield reach
    finally:
        end.cancel()
        session.leave()  # its place is free again before an agent wants it


def bounded(database: Database, asked: Asked) -> Database:
    """Return a target that is given up sooner, where less is left than its bounds allow."""
    left = max(asked.left(), LEAST)
    postgres = msgspec.structs.replace(
        database.postgres,
        connect_timeout=min(database.postgres.connect_timeout, left),
        query_timeout=min(database.postgres.query_timeout, left),
    )
    return msgspec.structs.replace(database, postgres=postgres)


def _is_hidden(path: Path) -> bool:
    """Whether an agent listens where this user may not look, so that `control.ask` finds none.

    The kernel lists the sockets of directories that one may not enter, too; where it shows no list,
    there may be one.
    """
    try:
        path.stat()
    except PermissionError:
        pass
    except OSError:
        return False
    else:
        return False
    try:
        lines = _SOCKETS.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return True
    names = {str(path), os.path.realpath(path)}
    return any(line.split(maxsplit=7)[7:] == [one] for line in lines for one in names)


def refusal(path: Path) -> str:
    """Say of a socket that this user may not ask the agent behind it."""
    return f"{path}: an agent listens there, and this user may not ask it"
