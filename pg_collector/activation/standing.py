"""The state of a device: a pure function of what is known. docs/specs/protocol.md has the rules."""

from typing import Final, NamedTuple

from pg_collector.plan import UNPROVISIONED, DeviceState, Policy, Standing

MISSED: Final = 3  # heartbeats without a contact, then grace mode begins


class Stop(NamedTuple):
    """The platform, or our own caution, has stopped the device."""

    reason: str
    remedy: str


def standing(
    policy: Policy | None, *, since_policy: float, since_contact: float, stop: Stop | None
) -> Standing:
    """Return the state of a device.

    `since_policy` is how many seconds ago its policy arrived, `since_contact` how many ago the
    platform last answered as it should.
    """
    if stop is not None:
        return Standing(DeviceState.STOPPED, stop.reason, stop.remedy)
    if policy is None:
        return UNPROVISIONED
    left = policy.life - since_policy
    if left <= 0:
        return Standing(
            DeviceState.STOPPED,
            "grace period expired",
            "Let the platform be reached again: collection resumes by itself. What was collected "
            "waits in the buffer.",
            0.0,
        )
    if since_contact < MISSED * policy.heartbeat_s:
        return Standing(DeviceState.ACTIVE)
    return Standing(
        DeviceState.GRACE,
        f"no contact with the platform for {since_contact:.0f} s",
        "See `output` in the health report for what is in the way. Collecting goes on meanwhile.",
        left,
    )
