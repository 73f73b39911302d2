"""The plans: data of a file, plans.yaml beside this one or another one."""

import hashlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import yaml

from pg_collector.errors import ConfigurationError

# Whole numbers stay whole on the wire.
_Seconds = Annotated[int, msgspec.Meta(ge=0)] | Annotated[float, msgspec.Meta(ge=0)]
_Period = Annotated[int, msgspec.Meta(gt=0)] | Annotated[float, msgspec.Meta(gt=0)]
_Size = Annotated[int, msgspec.Meta(ge=1, le=1 << 26)]


class Ingest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a device may send at once, in bytes when inflated."""

    max_batch_bytes: _Size
    max_line_bytes: _Size
    encodings: tuple[Literal["zstd", "gzip", "identity"], ...]


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One plan, as the file has it."""

    max_databases: Annotated[int, msgspec.Meta(ge=1)] | None
    min_interval: dict[str, _Seconds]
    default_interval: dict[str, _Period] = {}
    masking_levels: tuple[Literal["none", "basic", "full", "custom"], ...]
    pii: Literal["none", "basic", "full"]
    audit_log: bool
    outputs: tuple[str, ...]
    grace_s: _Seconds
    heartbeat_s: _Period
    ingest: Ingest

    def members(self, name: str) -> dict[str, Any]:
        """Return what a policy of this plan says, but for its device, version and times."""
        return {
            "plan": name,
            "max_databases": self.max_databases,
            "samplers": {
                sampler: {
                    "min_interval_s": shortest,
                    "default_interval_s": self.default_interval.get(sampler),
                }
                for sampler, shortest in self.min_interval.items()
            },
            "features": {
                "masking_levels": self.masking_levels,
                "pii": self.pii,
                "audit_log": self.audit_log,
                "outputs": self.outputs,
            },
            "grace_s": self.grace_s,
            "heartbeat_s": self.heartbeat_s,
            "ingest": self.ingest,
        }


class Offer(NamedTuple):
    """A plan with what is asked of it all the time."""

    plan: Plan
    members: Mapping[str, Any]
    digest: str  # of the members: another one means another policy

    @property
    def life(self) -> int | float:
        """Seconds for which a policy holds."""
        return 3 * self.plan.heartbeat_s + self.plan.grace_s


def load(path: Path | None = None) -> dict[str, Offer]:
    """Read plans by name from a file, by default the built-in one.

    Raises ConfigurationError, OSError.
    """
    text = (
        resources.files(__package__).joinpath("plans.yaml").read_text()
        if path is None
        else path.read_text()
    )
    try:
        raw = msgspec.convert(yaml.safe_load(text), dict[str, dict[str, Any]])
        plans = {name: _plan(name, raw, ()) for name in raw}
    except (yaml.YAMLError, msgspec.ValidationError, ConfigurationError) as error:
        where = path or "plans.yaml"
        raise ConfigurationError(
            f"{where}: {error}", remedy="docs/plans.md has the form."
        ) from None
    return {name: _offer(name, plan) for name, plan in plans.items()}


def _plan(name: str, raw: Mapping[str, Any], below: tuple[str, ...]) -> Plan:
    return msgspec.convert(_inherited(name, raw, below), Plan)


def _inherited(name: str, raw: Mapping[str, Any], below: tuple[str, ...]) -> dict[str, Any]:
    if name not in raw or name in below:
        fault = "comes back to itself" if name in raw else "does not exist"
        raise ConfigurationError(f"plan {below[-1]} inherits {name}, which {fault}")
    own = dict(raw[name])
    parent = own.pop("inherits", None)
    if parent is None:
        return own
    whole = _inherited(parent, raw, (*below, name))
    samplers = {**whole.get("min_interval", {}), **own.get("min_interval", {})}
    return {**whole, **own, "min_interval": samplers}


def _offer(name: str, plan: Plan) -> Offer:
    members = plan.members(name)
    text = msgspec.json.encode(members, order="deterministic")
    return Offer(plan, members, hashlib.sha256(text).hexdigest()[:32])
