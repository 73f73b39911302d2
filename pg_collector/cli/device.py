"""`pgc device`: state, plan and limits of this device."""

from typing import TYPE_CHECKING

import msgspec

from pg_collector.cli.device_access import Place
from pg_collector.cli.options import ConfigOption, JsonOption, SetOption
from pg_collector.cli.printable import printable
from pg_collector.cli.status_words import span
from pg_collector.device_verbs import DeviceRequest
from pg_collector.plan import Policy

if TYPE_CHECKING:
    from pg_collector.activation.device import Told


def device(
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    r"""Show this device: its state, its plan, and what that allows.

    \b
      pgc device
      pgc device --json | jq -r .state

    It is asked of the running agent, or read from the state directory.

    Exit codes: 0, 73 the state directory cannot be read, 77 an agent runs that this user may not
    ask, 78 the configuration is invalid.
    """
    place = Place(config, overrides)
    told = place.asked(DeviceRequest(directory=str(place.directory.resolve()))) or place.read()
    if as_json:
        print(msgspec.json.encode(told).decode())
    else:
        show(told)


def show(told: "Told") -> None:
    """Print a device for people."""
    lines = [("state", told.state)]
    lines += [("reason", told.reason)] if told.reason else []
    lines += [("remedy", told.remedy)] if told.remedy else []
    lines += [("device", told.device_id)] if told.device_id else []
    lines += [("trouble", told.trouble)] if told.trouble else []
    ages = (
        ("policy from", told.policy_age_s, "ago"),
        ("last contact", told.contact_age_s, "ago"),
        ("grace left", told.grace_left_s, ""),
        ("token valid for", told.token_expires_in_s, ""),
    )
    if told.policy is not None:
        lines += allowed(told.policy)
    lines += [
        (name, f"{span(seconds)} {more}".strip())
        for name, seconds, more in ages
        if seconds is not None
    ]
    for name, text in lines:
        print(printable(f"{name:<16} {text}"))
    if told.policy is not None:
        print("samplers")
        for name, one in sorted(told.policy.samplers.items()):
            print(printable(f"  {name:<14} every {one.min_interval_s:g} s at most"))


def allowed(policy: Policy) -> list[tuple[str, str]]:
    """Return what a policy allows, beside the samplers."""
    features = policy.features
    return [
        ("plan", f"{policy.plan} (policy {policy.version})"),
        ("databases", "any number" if policy.max_databases is None else f"{policy.max_databases}"),
        ("masking levels", ", ".join(features.masking_levels)),
        ("PII detection", features.pii),
        ("audit log", "yes" if features.audit_log else "no"),
        ("outputs", ", ".join(features.outputs)),
        ("grace", span(policy.grace_s)),
        ("heartbeat", span(policy.heartbeat_s)),
    ]
