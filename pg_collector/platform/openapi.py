"""What the platform serves, as OpenAPI 3.1: made from the types of the bodies."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from pg_collector import __version__
from pg_collector.platform import messages, problems
from pg_collector.platform.keys import KeySet
from pg_collector.platform.series import MOST_ROWS

Json = dict[str, Any]


class Problem(msgspec.Struct, frozen=True):
    """A problem document (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str = ""
    expected: int | None = None  # of a sequence-gap: the number that has to come next


class _Health(msgspec.Struct, frozen=True):
    """The platform is well."""

    status: str


class _Call(NamedTuple):
    """One call, as far as it is not the same for all."""

    method: str
    path: str
    does: str
    reply: type | None  # None: 204; str: text
    refusals: Mapping[int, Sequence[str]] = {}  # statuses with the names of their problems
    auth: str | None = None  # device or admin
    body: type | None = None
    parameters: Sequence[Json] = ()
    headers: Sequence[str] = ()


_OF_DEVICE: Final[Mapping[int, Sequence[str]]] = {
    401: ("token-invalid",),
    403: ("device-revoked", "key-revoked", "subscription-cancelled"),
}
_NO_BODY: Final = {400: ("bad-request",), 413: ("too-large",)}
_ADMIN: Final = {401: ("token-invalid",)}
_STREAM: Final = "[A-Za-z0-9_.:-]{1,100}"
_NUMBER: Final = "[1-9][0-9]{0,17}"
_MOMENT: Final = {"type": "string", "format": "date-time"}


def _header(name: str, pattern: str, says: str) -> Json:
    return {
        "name": name,
        "in": "header",
        "required": True,
        "description": says,
        "schema": {"type": "string", "pattern": f"^{pattern}$"},
    }


def _query(name: str, schema: Json, says: str, *, required: bool = False) -> Json:
    return {
        "name": name,
        "in": "query",
        "required": required,
        "description": says,
        "schema": schema,
    }


_CALLS: Final = (
    _Call(
        "post", "/v1/devices/activate", "Exchange an API key for tokens, a policy and keys to pin",
        messages.Activated,
        {401: ("api-key-unknown",),
         403: ("key-revoked", "key-exhausted", "device-revoked", "subscription-cancelled"),
         **_NO_BODY},
        body=messages.Activate,
    ),
    _Call(
        "post", "/v1/devices/refresh", "Exchange a refresh token for the next pair of tokens",
        messages.Refreshed,
        {401: ("refresh-token-unknown", "refresh-token-reused"), 403: _OF_DEVICE[403], **_NO_BODY},
        body=messages.Refresh,
    ),
    _Call("post", "/v1/devices/deactivate", "End a device's tokens, free its place", None,
          _OF_DEVICE, "device"),
    _Call("get", "/v1/devices/policy", "The policy, signed anew: the heartbeat",
          messages.PolicyReply, _OF_DEVICE, "device", headers=("ETag",)),
    _Call("get", "/.well-known/jwks.json", "The public keys", KeySet),
    _Call("get", "/v1/commands", "The commands that wait", messages.Commands, _OF_DEVICE, "device"),
    _Call(
        "post", "/v1/commands/{id}/result", "What became of a command", None,
        {**_OF_DEVICE, **_NO_BODY, 404: ("not-found",)}, "device", messages.Result,
        ({"name": "id", "in": "path", "required": True,
          "schema": {"type": "string", "minLength": 1}},),
    ),
    _Call(
        "post", "/v1/samples", "Bring a batch of lines; the answer comes after the commit",
        messages.Acknowledgement,
        {**_OF_DEVICE, **_NO_BODY, 409: ("sequence-gap", "stream-conflict"),
         415: ("unsupported-encoding",)},
        "device", bytes,
        (_header("Idempotency-Key", f"{_STREAM}/{_NUMBER}-{_NUMBER}", "stream/first-last"),
         _header("Pgc-Life", f"{_NUMBER}/{_STREAM}", "start count/UUID of this start"),
         {"name": "Content-Encoding", "in": "header", "required": False,
          "description": "as the policy's ingest.encodings allow",
          "schema": {"enum": ["zstd", "gzip", "identity"]}}),
    ),
    _Call("get", "/v1/devices", "All devices with their streams", messages.Devices, _ADMIN,
          "admin"),
    _Call(
        "get", "/v1/series", "Rows of a set over time, deltas made whole", messages.Series,
        {**_ADMIN, 400: ("bad-request",)}, "admin", None,
        (_query("set", {"type": "string", "minLength": 1}, "as in the lines", required=True),
         _query("target", {"type": "string"}, "of this target only"),
         _query("column", {"type": "string"}, "these columns only, with commas between"),
         _query("from", _MOMENT, "not before"),
         _query("to", _MOMENT, "not after"),
         _query("limit", {"type": "integer", "minimum": 1, "maximum": MOST_ROWS},
                "rows, 1000 by default")),
    ),
    _Call("get", "/healthz", "Whether it can take samples", _Health),
    _Call("get", "/metrics", "Metrics for Prometheus", str),
    _Call("get", "/openapi.json", "This document", dict),
)  # fmt: skip


def document(url: str) -> Json:
    """Return the document; `url` is where agents reach the platform."""
    types = [
        Problem,
        *(kind for call in _CALLS for kind in (call.reply, call.body) if _named(kind)),
    ]
    _, schemas = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    paths: dict[str, Json] = {}
    for call in _CALLS:
        paths.setdefault(call.path, {})[call.method] = _operation(call)
    bearer = {"type": "http", "scheme": "bearer"}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "PG Collector platform",
            "version": __version__,
            "description": "docs/specs/protocol.md and docs/specs/delivery.md say what it means.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": url}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "device": {**bearer, "description": "the access token of a device"},
                "admin": {**bearer, "description": "the administrator's token"},
            },
        },
    }


def calls() -> set[tuple[str, str]]:
    """Return method and path of every call that the document has."""
    return {(call.method.upper(), call.path) for call in _CALLS}


def _named(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _operation(call: _Call) -> Json:
    operation: Json = {
        "operationId": f"{call.method}{call.path}".replace("/", "_").replace(".", "_"),
        "summary": call.does,
        "security": [{call.auth: []}] if call.auth else [],
        "responses": {**_reply(call), **_refusals(call)},
    }
    if call.parameters:
        operation["parameters"] = list(call.parameters)
    if call.body is not None:
        operation["requestBody"] = {"required": True, "content": _content(call.body)}
    return operation


def _reply(call: _Call) -> Json:
    if call.reply is None:
        return {"204": {"description": "done"}}
    reply: Json = {"description": "done", "content": _content(call.reply)}
    if call.headers:
        reply["headers"] = {
            name: {"required": True, "schema": {"type": "string"}} for name in call.headers
        }
    return {"200": reply}


def _refusals(call: _Call) -> Json:
    found = {
        str(status): _refusal(", ".join(names)) for status, names in sorted(call.refusals.items())
    }
    # What a proxy, the server or a fault may answer at any time.
    return {**found, "default": _refusal("any other problem: busy, internal, bad-request")}


def _refusal(names: str) -> Json:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": names, "content": {problems.CONTENT_TYPE: {"schema": schema}}}


def _content(kind: type) -> Json:
    if kind is bytes:
        return {"application/x-ndjson": {"schema": {"type": "string"}}}
    if kind is str:
        return {"text/plain": {"schema": {"type": "string"}}}
    if kind is dict:
        return {"application/json": {"schema": {"type": "object"}}}
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}}
