"""Whether each sampler that is at work on a target has its answers, in how long, and how many."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from pg_collector.checkup.asked import Asked
from pg_collector.checkup.finding import Finding, Level
from pg_collector.errors import AgentUnreachable, CollectorError, Reason
from pg_collector.samplers._sampler import Sampler

_AS_IT_IS = frozenset((Reason.ROLE, Reason.VERSION))  # without a remedy there is nothing to mend
_BUSY = frozenset((Reason.LOCK, Reason.TIMEOUT))


class _Taken(NamedTuple):
    ms: float
    rows: int
    states: list[dict[str, Any]]


class _Trouble(NamedTuple):
    """What is wrong with a set, or with a whole sampler."""

    level: Level
    said: str
    remedy: str

    @property
    def key(self) -> tuple[Level, str]:
        """What several have in common: that the same mends them."""
        return self.level, self.remedy or self.said


def findings(
    target: str,
    samplers: Sequence[Sampler],
    sample: Callable[[Sampler], list[bytes]],
    asked: Asked,
) -> Iterator[Finding]:
    """Take one sample of each, and say what came of it; what has the same remedy is told once."""
    well: list[str] = []
    measured: dict[str, Any] = {}
    troubles: list[tuple[str, _Trouble]] = []
    for sampler in samplers:
        if asked.left() <= 0:
            troubles.append((sampler.name, _LATE))
            continue
        try:
            taken = _read(sample(sampler))
        except CollectorError as error:
            if asked.left() <= 0:
                troubles.append((sampler.name, _LATE))
                continue
            level = Level.WARN if isinstance(error, AgentUnreachable) else Level.FAIL
            troubles.append((sampler.name, _Trouble(level, str(error), error.remedy)))
            continue
        well.append(f"{sampler.name} {taken.ms:.0f} ms {taken.rows} rows")
        measured[sampler.name] = {"ms": round(taken.ms, 1), "rows": taken.rows}
        judged = ((state["set"] or sampler.name, _judged(state)) for state in taken.states)
        troubles += [(name, found) for name, found in judged if found is not None]
    if well:
        yield Finding(
            section="samplers", target=target, level=Level.OK, found=", ".join(well),
            measured=measured,
        )  # fmt: skip
    yield from _together(target, troubles)


def _together(target: str, troubles: list[tuple[str, _Trouble]]) -> Iterator[Finding]:
    """Yield a finding for each thing to mend, whatever it mends."""
    for level, what in dict.fromkeys(trouble.key for _, trouble in troubles):
        mine = [(name, one) for name, one in troubles if one.key == (level, what)]
        names = list(dict.fromkeys(name for name, _ in mine))
        said = "; ".join(dict.fromkeys(one.said for _, one in mine))
        yield Finding(
            section="samplers", target=target, level=level, found=f"{', '.join(names)}: {said}",
            remedy=mine[0][1].remedy, measured={"sets": names},
        )  # fmt: skip


_LATE = _Trouble(Level.WARN, "not asked: the time is over", "pgc check --timeout 300")


def _read(lines: list[bytes]) -> _Taken:
    ms, rows = 0.0, 0
    states: list[dict[str, Any]] = []
    for raw in lines:
        line = msgspec.json.decode(raw)
        if line["set"] == "sampler_state":
            states += [dict(zip(line["c"], row, strict=True)) for row in line["r"]]
            continue
        ms += line["took_ms"]
        rows += len(line["r"])
    return _Taken(ms, rows, states)


def _judged(state: dict[str, Any]) -> _Trouble | None:
    """Return what is wrong with a set; None where nothing can be done, or nothing has to."""
    reason, remedy = state["reason"], state["remedy"] or ""
    if state["state"] == "ok" or (reason in _AS_IT_IS and not remedy) or reason == Reason.ROLE:
        return None
    failed = state["state"] in {"error", "down"} and reason not in _BUSY
    return _Trouble(
        Level.FAIL if failed else Level.WARN, f"{state['state']}: {state['message']}", remedy
    )
