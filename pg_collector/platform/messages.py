"""The bodies of the calls, as docs/specs/protocol.md lists them; openapi.py shows them.

Members that are not listed are ignored.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from pg_collector.platform.keys import KeySet

DeviceId = Annotated[
    str,
    Meta(
        pattern="^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$",
        description="a UUID that the agent makes once and keeps",
    ),
]
_Secret = Annotated[str, Meta(min_length=1, max_length=200)]


class Activate(Struct, frozen=True):
    """An API key, and the device that it is for."""

    api_key: _Secret
    device_id: DeviceId
    hostname: Annotated[str, Meta(max_length=255)]
    agent_version: Annotated[str, Meta(max_length=64)]


class Activated(Struct, frozen=True):
    """What an agent keeps."""

    device_id: str
    access_token: str
    expires_in: int
    refresh_token: str
    policy: str
    jwks: KeySet


class Refresh(Struct, frozen=True):
    """A refresh token of a device."""

    device_id: DeviceId
    refresh_token: _Secret


class Refreshed(Struct, frozen=True):
    """The next pair of tokens."""

    access_token: str
    expires_in: int
    refresh_token: str


class PolicyReply(Struct, frozen=True):
    """A policy as a JWS."""

    policy: str
    commands_pending: bool


class Commands(Struct, frozen=True):
    """Commands that wait, as JWS, the oldest first."""

    commands: list[str]


class Result(Struct, frozen=True):
    """What became of a command."""

    status: Literal["done", "failed", "refused"]
    detail: Annotated[str, Meta(max_length=2000)]
    at: Annotated[str, Meta(max_length=64, description="RFC 3339")]


class Rejection(Struct, frozen=True):
    """A line that was not taken, while its neighbours were."""

    seq: int
    code: str
    detail: str


class Acknowledgement(Struct, frozen=True):
    """What is committed of a batch."""

    stream: str
    first: int
    last: int
    ack_through: int
    duplicates: int
    rejected: list[Rejection]
    policy_etag: str
    commands_pending: bool


class GapTold(Struct, frozen=True):
    """Numbers without a line."""

    first: int
    last: int
    reason: str


class StreamTold(Struct, frozen=True):
    """One stream of a device."""

    stream: str
    ack_through: int
    lines: int
    rejected: int
    missing: int  # numbers in gaps
    gaps: list[GapTold]  # the latest


class DeviceTold(Struct, frozen=True):
    """One device."""

    device_id: str
    hostname: str
    agent_version: str
    key: str  # its prefix
    plan: str
    state: str  # active, deactivated, revoked, key-revoked or subscription-cancelled
    activated_at: str
    activations: int
    last_contact: str | None
    policy_version: int
    streams: list[StreamTold] = []


class Devices(Struct, frozen=True):
    """All devices."""

    devices: list[DeviceTold]


class SeriesRow(Struct, frozen=True):
    """One row of a set at one moment."""

    at: str
    device_id: str
    target: str
    database: str | None
    whole: bool  # False: a line that it builds on is missing
    row: dict[str, Any]


class Series(Struct, frozen=True):
    """Rows of a set; `next` is the `from` to go on with, where there are more."""

    set: str
    rows: list[SeriesRow]
    next: str | None
