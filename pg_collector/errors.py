"""Every error the collector raises, sorted by what its catcher does next.

CollectorError                 carries a remedy: what the reader can do about it
├── ConfigurationError         the user must change something; the start ends with exit code 78
│   ├── InvalidConfiguration   every problem of one reading, one a line (config/problems.py)
│   └── Unreadable             a file that the configuration names is unusable (config/files.py)
├── StateError                 a place of ours cannot be made or used; exit code 73
├── AgentUnreachable           a command needs a running agent or a server, and there is none; 69
├── BreakerOpen                the far side failed too often; it is left alone for a while
├── SamplerError               one turn is missing; say it once, count it, take the next turn
│   ├── SamplerTimeout         the server did not finish in time, or a lock was held
│   └── SamplerUnavailable     the server will not answer this until something changes there
├── TargetError                the target cannot be used now; reconnect with back-off
│   ├── TargetDown             nobody answers, or the session was lost
│   │   └── SessionUnfinished  the log-in began and did not end: of a visited database, leave it out
│   └── TargetRefused          the server says no (password, pg_hba, pooler, version): back off long
│       └── LoginRefused       it is about who we are: told to the audit log
├── DeliveryError
│   ├── Deferred               keep the batch, try again after a pause
│   │   ├── Unreachable        nobody there, or nobody well: counts for the breaker
│   │   ├── Unexpected         what answers is not what was meant: a portal, a proxy, a redirect
│   │   ├── Busy               it asks for a pause
│   │   └── Held               it answers, but will not take batches until something changes
│   ├── Refused                the batch itself is bad; find the line, set it aside, carry on
│   │   └── TooLarge           the batch is too large; send fewer lines
│   ├── SequenceGap            the far side expects another number
│   └── StreamConflict         another agent sends under this stream's name; take a new one
└── StoreError                 the disk buffer: by what its owner does next
    ├── StoreFull              make room, else keep lines in memory
    ├── StoreDown              it cannot be used now; keep lines in memory, look again
    └── StoreDamaged           a segment is unreadable: set it aside, count it, go on
"""

import enum
from typing import Final

USER_RAISED: Final = "<user-raised message>"  # stands for what somebody's function said


class Reason(enum.StrEnum):
    """Why a set or a field is unavailable; these words travel to the platform."""

    VERSION = "version"  # this server or extension does not have it
    PRIVILEGE = "privilege"
    SETTING = "setting"
    UNSUPPORTED = "unsupported"  # a managed service refuses it
    ROLE = "role"  # it concerns standbys and this is a primary, or the other way round
    LOCK = "lock"
    TIMEOUT = "timeout"


class CollectorError(Exception):
    """Parent of everything below. `remedy` says what the reader can do."""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy

    def sentence(self) -> str:
        """Return message and remedy in one line."""
        return f"{self}. {self.remedy}" if self.remedy else str(self)


class ConfigurationError(CollectorError):
    """The configuration is invalid; the process ends with 78 (EX_CONFIG)."""


class StateError(CollectorError):
    """A file, directory or socket of ours cannot be made or used; exit code 73."""


class AgentUnreachable(CollectorError):
    """A command needs something that does not answer; exit code 69."""


class BreakerOpen(CollectorError):
    """A circuit breaker lets nothing pass; ask again in `retry_in` seconds.

    The message is that of the failure which opened it.
    """

    def __init__(self, message: str, *, retry_in: float, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.retry_in = retry_in


class SamplerError(CollectorError):
    """One turn of one sampler gave nothing."""

    def __init__(self, message: str, *, remedy: str = "", sqlstate: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.sqlstate = sqlstate


class SamplerTimeout(SamplerError):
    """The statement was cancelled by a time limit (57014) or a lock limit (55P03)."""

    def __init__(
        self, message: str, *, reason: Reason, remedy: str = "", sqlstate: str | None = None
    ) -> None:
        super().__init__(message, remedy=remedy, sqlstate=sqlstate)
        self.reason = reason


class SamplerUnavailable(SamplerError):
    """The server will not answer this until something changes; asked again later."""

    def __init__(
        self, message: str, *, reason: Reason, remedy: str = "", sqlstate: str | None = None
    ) -> None:
        super().__init__(message, remedy=remedy, sqlstate=sqlstate)
        self.reason = reason


class TargetError(CollectorError):
    """A target cannot be used now. `retry_in` seconds from now it is tried again."""

    def __init__(
        self,
        message: str,
        *,
        remedy: str = "",
        sqlstate: str | None = None,
        retry_in: float | None = None,
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.sqlstate = sqlstate
        self.retry_in = retry_in


class TargetDown(TargetError):
    """The server does not answer, or the session is lost: reconnect with back-off."""


class SessionUnfinished(TargetDown):
    """The server took the connection, and gave no session in time: its database may be locked."""


class TargetRefused(TargetError):
    """The server answers no; only a person can change that, so ask seldom."""


class LoginRefused(TargetRefused):
    """Who we say we are is not accepted: by the server, or by whom a token should come from."""


class DeliveryError(CollectorError):
    """A batch did not arrive."""


class Deferred(DeliveryError):
    """Keep the batch and try again, not before `retry_after` seconds if that is given."""

    def __init__(self, message: str, *, remedy: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.retry_after = retry_after


class Unreachable(Deferred):
    """Nothing answered in time, or what answered is broken."""


class Busy(Deferred):
    """It is well and asks for a pause; its breaker hears of no failure."""


class Unexpected(Deferred):
    """The answer is none of the far side's: nothing can be concluded from it."""


class Held(Deferred):
    """It answers, but takes nothing from this agent until someone changes something.

    `problem` is the far side's own name for it, if it gave one; `status` the answer's.
    """

    def __init__(
        self,
        message: str,
        *,
        remedy: str = "",
        retry_after: float | None = None,
        problem: str = "",
        status: int = 0,
    ) -> None:
        super().__init__(message, remedy=remedy, retry_after=retry_after)
        self.problem = problem
        self.status = status


class Refused(DeliveryError):
    """The outlet will never take this batch as it is."""


class TooLarge(Refused):
    """The batch has more bytes than the outlet takes at once."""


class SequenceGap(DeliveryError):
    """The far side expects the line `expected` next."""

    def __init__(self, message: str, *, expected: int, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.expected = expected


class StreamConflict(DeliveryError):
    """The far side knows a later life of this stream: the machine was cloned, or restored."""


class OrderRefused(CollectorError):
    """The platform asks for something that this agent does not do."""


class StoreError(CollectorError):
    """The disk buffer failed."""


class StoreFull(StoreError):
    """There is no room on the volume, or none left for this agent."""


class StoreDown(StoreError):
    """The directory cannot be used now, which says nothing about what lies in it."""


class StoreDamaged(StoreError):
    """What was read is not what was written."""
