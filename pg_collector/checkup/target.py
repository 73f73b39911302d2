"""One server, from its name to its samples: the order in which a session comes to be."""

import re
from collections.abc import Iterator
from typing import Final

import msgspec

from pg_collector.checkup import grants, login, network, pgss, samplers, settings, tls
from pg_collector.checkup.asked import Asked
from pg_collector.checkup.finding import Finding, Level, Part
from pg_collector.checkup.plan import Plan
from pg_collector.checkup.reach import NoSession, Reach, agent, bounded, own
from pg_collector.config.model import Database
from pg_collector.errors import AgentUnreachable, CollectorError, ConfigurationError
from pg_collector.pg import conninfo
from pg_collector.pg.conninfo import Route
from pg_collector.plan import Grant
from pg_collector.samplers import discover
from pg_collector.samplers._sampler import Sampler
from pg_collector.schedule import lay_out

# SQL that a standby refuses, and that reaches it from its primary.
_REPLICATED: Final = re.compile(r"(?:GRANT|REVOKE|CREATE|ALTER (?:ROLE|DATABASE|EXTENSION)) ")
_LATE: Final = "not looked at: the server took too long to say what this role may see"
_LESS_BUSY: Final = "Check again when the server is less busy"
CLOCK = "clock_skew_s"  # of a server, among the figures of `login`
# Nothing is collected by it: the samplers are tried that a plan may allow one day.
_ANY = Grant(plan="unknown", samplers=None, max_databases=None)


def findings(database: Database, plan: Plan, asked: Asked) -> Iterator[Finding]:
    """Look at a server; what comes after a fault in the way of a session cannot be seen."""
    name = database.name
    if asked.left() <= 0:
        yield Finding(
            section="network", target=name, level=Level.FAIL, found="not asked: the time is over",
            remedy="pgc check --timeout 300", unreachable=True,
        )  # fmt: skip
        return
    try:
        route = conninfo.route(bounded(database, asked))
    except ConfigurationError as error:
        yield _refused(name, error)
        return
    try:
        lent = agent(database, asked)
    except NoSession as error:
        yield from _without(database, route, asked, error)
        return
    except CollectorError as error:
        yield Finding(
            section="login", target=name, level=Level.FAIL, found=str(error), remedy=error.remedy,
            unreachable=isinstance(error, AgentUnreachable),
        )  # fmt: skip
        return
    places = network.places(database, route, asked)
    yield from network.findings(name, places, lent=lent is not None)
    if lent is not None:
        yield from tls.findings(database, route, places, lent.examined)
        yield from _examined(database, plan, asked, lent)
        return
    if all(one.fault for one in places):
        return
    try:
        with own(database, asked) as reach:
            yield from tls.findings(database, route, places, reach.examined)
            yield from _examined(database, plan, asked, reach)
    except NoSession as error:
        yield from tls.findings(database, route, places, None)
        yield from login.refused(name, error.trouble)
    except ConfigurationError as error:
        yield _refused(name, error)


def _without(database: Database, route: Route, asked: Asked, error: NoSession) -> Iterator[Finding]:
    """Say why the running agent has no session: what it says, beside what can be seen from here."""
    places = network.places(database, route, asked)
    seen = [*network.findings(database.name, places, lent=False)]
    yield from seen
    if any(one.level is Level.FAIL for one in seen):
        return
    yield from tls.findings(database, route, places, None)
    yield from login.refused(database.name, error.trouble)


def _examined(database: Database, plan: Plan, asked: Asked, reach: Reach) -> Iterator[Finding]:
    for one in _asked(database, plan, asked, reach):
        yield on_primary(one) if reach.examined.in_recovery else one


def on_primary(one: Finding) -> Finding:
    """Say with the SQL that mends a standby where it is to be run."""
    if _REPLICATED.match(one.remedy) is None:
        return one
    comma = "," if "  -- " in one.remedy else "  --"
    return msgspec.structs.replace(one, remedy=f"{one.remedy}{comma} on the primary")


def _asked(database: Database, plan: Plan, asked: Asked, reach: Reach) -> Iterator[Finding]:
    """Judge what a session shows."""
    name, examined = database.name, reach.examined
    first, *others = login.findings(database, examined, lent=reach.lent)
    skew = {CLOCK: examined.skew_s, "round_trip_ms": examined.round_trip_ms}
    yield Finding(
        section=first.section, target=name, level=first.level, found=first.found,
        measured={**first.measured, **skew},
    )  # fmt: skip
    yield from others
    if examined.late:  # what is missing would be taken for what the server lacks
        yield Finding(
            section="grants", target=name, level=Level.WARN, found=_LATE, remedy=_LESS_BUSY
        )
    else:
        yield from grants.findings(name, examined)
        if any(one.name == "statements" for one in chosen(database, plan, asked)):
            yield from pgss.findings(name, examined)
        yield from settings.findings(name, examined)
    if Part.SAMPLERS in asked.parts:
        yield from samplers.findings(name, chosen(database, plan, asked), reach.sample, asked)


def chosen(database: Database, plan: Plan, asked: Asked) -> list[Sampler]:
    """Return the samplers that are at work on a target; before an activation all that it asks for.

    A target that was named although it is not enabled has none at work: then the same.
    """
    known = discover()
    grant = plan.grant or _ANY
    layout = lay_out(known, grant, asked.config, "" if plan.grant is None else plan.output)
    names = {job.sampler for job in layout.jobs if job.target == database.name}
    wanted = database.samplers or tuple(known)
    return [known[one] for one in known if one in names or (not database.enabled and one in wanted)]


def _refused(target: str, error: ConfigurationError) -> Finding:
    return Finding(
        section="login", target=target, level=Level.FAIL,
        found=str(error).removeprefix(f"{target}: "), remedy=error.remedy,
    )  # fmt: skip
