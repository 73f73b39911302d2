"""What each call does: docs/specs/protocol.md and docs/specs/delivery.md, in their order."""

import hashlib
import logging
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from pg_collector.platform import ingest, keys, openapi, series
from pg_collector.platform.identity import Device, Identity, Issued, told
from pg_collector.platform.keys import BadToken, KeyRing
from pg_collector.platform.messages import (
    Acknowledgement,
    Activate,
    Activated,
    Commands,
    Devices,
    GapTold,
    PolicyReply,
    Refresh,
    Refreshed,
    Rejection,
    Result,
    StreamTold,
)
from pg_collector.platform.metering import CONTENT_TYPE, Numbers
from pg_collector.platform.plans import Offer
from pg_collector.platform.problems import Problem, bad_request
from pg_collector.platform.router import Request, Response, Route, json
from pg_collector.platform.store import Store

log = logging.getLogger(__name__)


class Policy(NamedTuple):
    """What a policy says, but for its times."""

    content: Mapping[str, Any]
    etag: str
    life: int | float  # seconds


class DeviceCalls:
    """The calls of devices about themselves."""

    def __init__(
        self,
        identity: Identity,
        ring: KeyRing,
        plans: Mapping[str, Offer],
        numbers: Numbers,
        *,
        token_seconds: float,
    ) -> None:
        self._identity = identity
        self._ring = ring
        self._plans = plans
        self._numbers = numbers
        self._token_seconds = token_seconds
        self._expires_in = max(1, round(token_seconds))

    def routes(self) -> list[Route]:
        """Return what answers what."""
        return [
            Route("POST", "/v1/devices/activate", self.activate),
            Route("POST", "/v1/devices/refresh", self.refresh),
            Route("POST", "/v1/devices/deactivate", self.deactivate),
            Route("GET", "/v1/devices/policy", self.policy),
            Route("GET", "/.well-known/jwks.json", self.key_set),
            Route("GET", "/v1/commands", self.commands),
            Route("POST", "/v1/commands/{id}/result", self.result),
        ]

    # --- who asks

    def holder(self, request: Request) -> Device:
        """Return the device that a request comes from. Raises Problem."""
        try:
            claims = self._ring.verify(keys.ACCESS, request.bearer)
        except BadToken:
            raise Problem(401, "token-invalid") from None
        if claims["exp"] <= time.time():
            raise Problem(401, "token-invalid", "it has expired")
        device = self._identity.holder(claims["sub"], claims["family"])
        self._identity.contact(device.id)
        return device

    def offer(self, device: Device) -> Offer:
        """Return the plan of a device. Raises Problem where it was taken out of the file."""
        found = self._plans.get(device.plan)
        if found is None:
            raise Problem(503, "busy", f"the plan {device.plan} is not set up")
        return found

    def current(self, device: Device) -> Policy:
        """Return the policy of a device; its version has grown if something changed."""
        offer = self.offer(device)
        version = self._identity.policy_version(device, offer.digest)
        content = {"sub": device.id, "version": version, **offer.members}
        text = msgspec.json.encode(content, order="deterministic")
        return Policy(content, hashlib.sha256(text).hexdigest()[:32], offer.life)

    def pending(self, device: Device) -> bool:
        """Tell whether commands wait for a device."""
        return bool(self._identity.commands(device.id))

    # --- the calls

    def activate(self, request: Request) -> Response:
        """Exchange an API key for tokens, a policy and the keys to pin."""
        asked = request.json(Activate)
        issued = self._identity.activate(
            asked.api_key, asked.device_id, asked.hostname, asked.agent_version
        )
        self._identity.contact(issued.device.id)
        self._numbers.activations.inc()
        log.info("device %s activated, plan %s", issued.device.id, issued.device.plan)
        return json(
            Activated(
                device_id=issued.device.id,
                access_token=self._access(issued),
                expires_in=self._expires_in,
                refresh_token=issued.refresh_token,
                policy=self._signed(self.current(issued.device)),
                jwks=self._ring.public(),
            )
        )

    def refresh(self, request: Request) -> Response:
        """Exchange a refresh token for the next pair."""
        asked = request.json(Refresh)
        try:
            issued = self._identity.refresh(asked.device_id, asked.refresh_token)
        except Problem as problem:
            if problem.name == "refresh-token-reused":
                self._numbers.families_ended.inc()
                log.warning("device %s: a spent refresh token came again", asked.device_id)
            raise
        self._numbers.refreshes.inc()
        access = self._access(issued)
        return json(Refreshed(access, self._expires_in, issued.refresh_token))

    def deactivate(self, request: Request) -> Response:
        """End the tokens of a device, and free its place."""
        device = self.holder(request)
        self._identity.deactivate(device.id)
        log.info("device %s deactivated", device.id)
        return Response(204)

    def policy(self, request: Request) -> Response:
        """Give the policy, signed anew: the heartbeat."""
        device = self.holder(request)
        policy = self.current(device)
        reply = PolicyReply(self._signed(policy), self.pending(device))
        return json(reply, {"ETag": f'"{policy.etag}"'})

    def key_set(self, _request: Request) -> Response:
        """Give the public keys."""
        return json(self._ring.public())

    def commands(self, request: Request) -> Response:
        """Give the commands that wait, each signed anew with what is left of its time."""
        device = self.holder(request)
        now = int(time.time())
        return json(
            Commands(
                [
                    self._ring.sign(
                        keys.COMMAND,
                        {
                            "sub": device.id,
                            "id": one.id,
                            "command": one.command,
                            "arguments": one.arguments,
                            "iat": now,
                            "exp": max(now + 1, int(one.expires)),
                        },
                    )
                    for one in self._identity.commands(device.id)
                ]
            )
        )

    def result(self, request: Request) -> Response:
        """Take what became of a command."""
        device = self.holder(request)
        done = request.json(Result)
        self._identity.finish(device.id, request.parts["id"], done.status, done.detail, done.at)
        return Response(204)

    # --- what is signed

    def _signed(self, policy: Policy) -> str:
        now = int(time.time())
        times = {"iat": now, "exp": now + policy.life}
        return self._ring.sign(keys.POLICY, {**policy.content, **times})

    def _access(self, issued: Issued) -> str:
        now = time.time()
        return self._ring.sign(
            keys.ACCESS,
            {
                "sub": issued.device.id,
                "family": issued.family,
                "iat": int(now),
                "exp": now + self._token_seconds,
            },
        )


class Samples:
    """The call that brings samples."""

    def __init__(self, devices: DeviceCalls, store: Store, numbers: Numbers) -> None:
        self._devices = devices
        self._store = store
        self._numbers = numbers

    def routes(self) -> list[Route]:
        """Return what answers what."""
        return [Route("POST", "/v1/samples", self.samples)]

    def samples(self, request: Request) -> Response:
        """Commit a batch, then acknowledge it."""
        device = self._devices.holder(request)
        limits = self._devices.offer(device).plan.ingest
        sent = ingest.envelope(request.header("Idempotency-Key"), request.header("Pgc-Life"))
        body = request.body(limits.max_batch_bytes)
        content = ingest.inflated(body, request.header("Content-Encoding"), limits)
        self._numbers.inflated_bytes.inc(len(content))
        receipt = self._store.commit(ingest.read(sent, device.id, content, limits))
        return json(
            Acknowledgement(
                stream=sent.stream,
                first=sent.first,
                last=sent.last,
                ack_through=sent.last,
                duplicates=receipt.duplicates,
                rejected=[Rejection(*one) for one in receipt.rejected],
                policy_etag=self._devices.current(device).etag,
                commands_pending=self._devices.pending(device),
            )
        )


class Admin:
    """What the administrator may look at, and probes and Prometheus."""

    def __init__(self, identity: Identity, store: Store, numbers: Numbers) -> None:
        self._identity = identity
        self._store = store
        self._numbers = numbers

    def routes(self) -> list[Route]:
        """Return what answers what."""
        return [
            Route("GET", "/v1/devices", self.devices),
            Route("GET", "/v1/series", self.series),
            Route("GET", "/healthz", self.health),
            Route("GET", "/metrics", self.metrics),
            Route("GET", "/openapi.json", self.document),
        ]

    def devices(self, request: Request) -> Response:
        """List the devices with their streams."""
        self._check(request)
        streams: dict[str, list[StreamTold]] = {}
        for name, one in self._store.streams().items():
            gaps = [GapTold(*gap) for gap in self._store.gaps(name)] if one.missing else []
            streams.setdefault(one.device, []).append(
                StreamTold(name, one.through, one.lines, one.rejected, one.missing, gaps)
            )
        found = [
            msgspec.structs.replace(told(device), streams=streams.get(device.id, []))
            for device in self._identity.devices()
        ]
        return json(Devices(found))

    def series(self, request: Request) -> Response:
        """Give the rows of a set, whole."""
        self._check(request)
        return json(series.read(self._store, _question(request.query)))

    def health(self, _request: Request) -> Response:
        """Tell whether it can take samples."""
        if not self._store.alive():
            raise Problem(503, "busy", "the store does not write")
        return json({"status": "ok"})

    def metrics(self, _request: Request) -> Response:
        """Give the metrics."""
        return Response(body=self._numbers.text(), content_type=CONTENT_TYPE)

    def document(self, _request: Request) -> Response:
        """Give the OpenAPI document."""
        return json(openapi.document(self._identity.setting("url")))

    def _check(self, request: Request) -> None:
        if not self._identity.is_admin(request.bearer):
            raise Problem(401, "token-invalid", "the administrator's token is needed")


def _question(query: Mapping[str, str]) -> series.Question:
    """Read what a series is asked for. Raises Problem."""
    unknown = query.keys() - {"set", "target", "column", "from", "to", "limit"}
    if unknown or not query.get("set"):
        raise bad_request("it takes set, and may have target, column, from, to and limit")
    asked = series.Question(query["set"], query.get("target"))
    try:
        if "column" in query:
            asked = asked._replace(columns=tuple(query["column"].split(",")))
        if "from" in query:
            asked = asked._replace(since=ingest.moment(query["from"]))
        if "to" in query:
            asked = asked._replace(until=ingest.moment(query["to"]))
        if "limit" in query:
            asked = asked._replace(limit=_limit(query["limit"]))
    except ValueError as error:
        raise bad_request(str(error)) from None
    return asked


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:9]) <= series.MOST_ROWS:
        raise ValueError(f"limit lies between 1 and {series.MOST_ROWS}")
    return int(text[:9])
