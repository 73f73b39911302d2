"""What this device may do: asked of the running agent, else read from the state directory."""

from typing import NamedTuple

from pg_collector import control
from pg_collector.activation.device import Device, Told
from pg_collector.activation.elapsed import now
from pg_collector.activation.state import DeviceStore
from pg_collector.checkup import account
from pg_collector.checkup.asked import Asked
from pg_collector.checkup.reach import refusal
from pg_collector.clock import SystemClock
from pg_collector.device_verbs import DeviceRequest
from pg_collector.errors import CollectorError
from pg_collector.plan import DEMO, Grant

COLLECTING = frozenset(("ACTIVE", "GRACE"))


class Plan(NamedTuple):
    """A grant and where it goes; `told` is of the device, None where there is none to ask."""

    grant: Grant | None
    output: str  # local, platform
    said: str  # of the plan, in a few words
    told: Told | None = None
    key_sha256: str = ""  # of the API key that the device was activated with, as far as is known
    trouble: str = ""
    remedy: str = ""


def found(asked: Asked) -> Plan:
    """Return what the device of this configuration may do. Changes nothing."""
    if asked.config.local.enabled:
        return Plan(DEMO, "local", f"plan {DEMO.plan}")
    try:
        told, key = _told(asked)
    except OSError as error:
        trouble = f"{error.filename or asked.state_dir}: {error.strerror or error}"
        return Plan(None, "platform", "plan unknown", trouble=trouble, remedy=account.command())
    except CollectorError as error:
        return Plan(None, "platform", "plan unknown", trouble=str(error), remedy=error.remedy)
    usable = told.policy is not None and told.state in COLLECTING
    grant = told.policy.granted() if told.policy is not None and usable else None
    where = "cached" if key else "in force"
    said = f"plan {grant.plan} ({where})" if grant is not None else f"no plan: {told.state}"
    return Plan(grant, "platform", said, told, key)


def _told(asked: Asked) -> tuple[Told, str]:
    """Return what is told of the device, and the fingerprint of its key where no agent runs."""
    request = DeviceRequest(directory=str(asked.state_dir.resolve()))
    for path in asked.sockets:
        try:
            reply = asked.ask(request, path)
        except PermissionError:
            raise CollectorError(refusal(path), remedy=account.command(path)) from None
        if reply is not None:
            return control.told(reply, Told), ""
    device = Device(DeviceStore(asked.state_dir), SystemClock(), now)
    device.look()
    kept = device.kept
    return device.told(), kept.key_sha256 if kept is not None else ""
