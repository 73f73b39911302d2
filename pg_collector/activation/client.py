"""The calls of a device to the platform, as docs/specs/protocol.md lists them."""

import datetime as dt
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from pg_collector.activation.signed import KeySet
from pg_collector.clock import Clock
from pg_collector.errors import Unexpected
from pg_collector.outlets.answers import failed, stranger
from pg_collector.web import Reply, Web

T = TypeVar("T")

_WRONG: Final = "Is platform.url right? Something else answers there."


class Activated(msgspec.Struct, frozen=True, kw_only=True):
    """The reply to an activation."""

    device_id: str
    access_token: str
    expires_in: float
    refresh_token: str
    policy: str
    jwks: KeySet


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """The reply to a renewal."""

    access_token: str
    expires_in: float
    refresh_token: str


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """The reply to a heartbeat."""

    policy: str
    commands_pending: bool = False


class Fetched(NamedTuple):
    """A policy as it came."""

    token: str
    etag: str
    commands_pending: bool


class SignedKeys(msgspec.Struct, frozen=True, kw_only=True):
    """The platform's key set, as it is vouched for."""

    signed: tuple[str, ...] = ()


class Commands(msgspec.Struct, frozen=True, kw_only=True):
    """Commands that wait."""

    commands: tuple[str, ...] = ()


class Client:
    """The calls, one at a time. Each raises a DeliveryError; none writes a secret into it."""

    def __init__(self, web: Web, clock: Clock) -> None:
        self.on_call: Callable[[float], None] = lambda _seconds: None  # hears what one may take
        self._web = web
        self._clock = clock

    def activate(self, *, api_key: str, device_id: str, hostname: str, version: str) -> Activated:
        """Hand over the API key, this once."""
        body = {
            "api_key": api_key,
            "device_id": device_id,
            "hostname": hostname,
            "agent_version": version,
        }
        reply = self._call("POST", "/v1/devices/activate", body, secret=api_key)
        return self._told(reply, Activated)

    def refresh(self, device_id: str, refresh_token: str) -> Tokens:
        """Exchange a refresh token for new tokens."""
        body = {"device_id": device_id, "refresh_token": refresh_token}
        reply = self._call("POST", "/v1/devices/refresh", body, secret=refresh_token)
        return self._told(reply, Tokens)

    def deactivate(self, token: str) -> None:
        """Give the device's place back."""
        self._call("POST", "/v1/devices/deactivate", {}, token)

    def policy(self, token: str) -> Fetched:
        """Ask for the policy: the heartbeat."""
        reply = self._call("GET", "/v1/devices/policy", None, token)
        told = self._told(reply, Signed)
        return Fetched(told.policy, reply.headers.get("etag", ""), told.commands_pending)

    def signed_keys(self) -> tuple[str, ...]:
        """Ask for the key set, as each key of the platform signed it."""
        return self._told(self._call("GET", "/.well-known/jwks.json", None), SignedKeys).signed

    def commands(self, token: str) -> tuple[str, ...]:
        """Fetch the commands that wait."""
        return self._told(self._call("GET", "/v1/commands", None, token), Commands).commands

    def report(self, token: str, command: str, status: str, detail: str, at: str) -> None:
        """Say what came of a command."""
        body = {"status": status, "detail": detail, "at": at}
        self._call("POST", f"/v1/commands/{command}/result", body, token)

    def interrupt(self) -> None:
        """End a call under way, and refuse later ones. From any thread."""
        self._web.interrupt()

    def close(self) -> None:
        """Close the connection."""
        self._web.close()

    def _call(
        self, method: str, path: str, body: Any, token: str = "", *, secret: str = ""
    ) -> Reply:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        content = b""
        if body is not None:
            headers["Content-Type"] = "application/json"
            content = msgspec.json.encode(body)
        self.on_call(self._web.timeout)
        reply = self._web.request(method, path, headers, content, secrets=(token, secret))
        if not HTTPStatus.OK <= reply.status < HTTPStatus.MULTIPLE_CHOICES:
            raise failed(reply, self._clock.now().astimezone(dt.UTC))
        return reply

    @staticmethod
    def _told(reply: Reply, what: type[T]) -> T:
        try:
            return msgspec.json.decode(reply.body, type=what)
        except (msgspec.DecodeError, UnicodeDecodeError):  # its message might show a token
            raise stranger(reply) or Unexpected(
                f"unexpected answer: {reply.status} without what was asked for", remedy=_WRONG
            ) from None
