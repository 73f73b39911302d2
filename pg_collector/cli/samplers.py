"""`pgc samplers`: what can be sampled, and what of it this agent's plan allows."""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from pg_collector.cli.device_access import Place
from pg_collector.cli.options import ConfigOption, JsonOption, SetOption
from pg_collector.cli.printable import printable
from pg_collector.config.model import Config
from pg_collector.device_verbs import DeviceRequest
from pg_collector.errors import ConfigurationError
from pg_collector.plan import DEMO, Grant
from pg_collector.samplers import discover
from pg_collector.samplers._sampler import Sampler
from pg_collector.schedule import Layout, lay_out

if TYPE_CHECKING:
    from pg_collector.activation.device import Told


class Allowed(NamedTuple):
    """A plan, and what it makes of the configuration."""

    grant: Grant | None
    layout: Layout
    output: str


def samplers(
    config: ConfigOption = None, overrides: SetOption = None, as_json: JsonOption = False
) -> None:
    r"""List the samplers: what each one learns, how often, in which sets.

    \b
      pgc samplers --json | jq -r '.[].name'
      pgc samplers --config /etc/pg-collector/config.yaml

    With a configuration it says too which of them this device's plan allows, on how many databases
    and how often, and why the others are paused.

    Exit codes: 0, 77 an agent runs that this user may not ask, 78 the configuration that was named
    is invalid.
    """
    found = discover()
    try:
        allowed = _allowed(Place(config, overrides))
    except ConfigurationError:
        if config is not None or overrides:
            raise
        allowed = None  # the list needs no configuration
    if as_json:
        print(told(allowed))
        return
    for one in found.values():
        print(f"{one.name:<12} every {one.every:g} s, {one.group}, per {one.scope}: {one.learns}")
        print(f"{'':<12} from {', '.join(sorted(one.relations))}")
        if allowed is not None:
            for line in _verdict(one, allowed):
                print(printable(f"{'':<12} {line}"))
    if allowed is not None:
        for paused in allowed.layout.paused:
            if paused.sampler is None:
                print(printable(f"{paused.target}: paused: {paused.why}"))


def told(allowed: Allowed | None) -> str:
    """Return all samplers, and what a plan makes of them, as JSON."""
    return json.dumps([_told(one, allowed) for one in discover().values()], indent=2)


def allowed_by(config: Config, device: "Told | None") -> Allowed:
    """Return what a device may do with a configuration; it matters where `local` is not enabled."""
    if config.local.enabled:
        return Allowed(DEMO, lay_out(discover(), DEMO, config, "local"), "local")
    policy = device.policy if device is not None else None
    usable = device is not None and device.state in {"ACTIVE", "GRACE"}
    grant = policy.granted() if policy is not None and usable else None
    return Allowed(grant, lay_out(discover(), grant, config, "platform"), "platform")


def _allowed(place: Place) -> Allowed:
    if place.config.local.enabled:
        return allowed_by(place.config, None)
    request = DeviceRequest(directory=str(place.directory.resolve()))
    return allowed_by(place.config, place.asked(request) or place.read())


def _told(one: Sampler, allowed: Allowed | None) -> dict[str, Any]:
    told: dict[str, Any] = {
        "name": one.name,
        "learns": one.learns,
        "group": one.group,
        "scope": one.scope,
        "lane": one.lane,
        "every_s": one.every,
        "views": sorted(one.relations),
        "sets": list(dict.fromkeys(query.set for query in one.all_queries)),
    }
    if allowed is not None:
        limit = allowed.grant.limit(one.name) if allowed.grant is not None else None
        jobs = [job for job in allowed.layout.jobs if job.sampler == one.name]
        told["allowed"] = limit is not None
        told["min_interval_s"] = limit.min_interval if limit is not None else None
        told["jobs"] = {job.target: job.every for job in jobs}
        told["verdict"] = list(_verdict(one, allowed))
    return told


def _verdict(one: Sampler, allowed: Allowed) -> Iterable[str]:
    """Yield what a plan makes of a sampler, in sentences."""
    grant = allowed.grant
    if grant is None:
        yield "paused: this device may not collect now; see pgc device"
        return
    limit = grant.limit(one.name)
    if limit is None:
        yield f"paused: the plan {grant.plan} does not include it"
        return
    every = {job.target: job.every for job in allowed.layout.jobs if job.sampler == one.name}
    if not every:
        yield "not at work: no database is allowed and asks for it"
        return
    paces = ", ".join(f"{seconds:g} s" for seconds in sorted(set(every.values())))
    yield f"allowed: every {paces} on {len(every)} database(s)"
    for paused in allowed.layout.paused:
        if paused.sampler == one.name:
            yield f"raised on {paused.target}: {paused.why}"
