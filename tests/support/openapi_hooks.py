"""What schemathesis needs to know of the reference platform: which token is for which call."""

import os

import schemathesis

ADMIN_CALLS = frozenset({("GET", "/v1/devices"), ("GET", "/v1/series")})


@schemathesis.serializer("application/x-ndjson")
def lines(_context, value):
    return str(value).encode(errors="replace")


@schemathesis.auth(cache_by_key=lambda case, _: f"{case.operation.method} {case.operation.path}")
class Bearer:
    def get(self, case, _context):
        call = (case.operation.method.upper(), case.operation.path)
        return os.environ["ADMIN_TOKEN" if call in ADMIN_CALLS else "DEVICE_TOKEN"]

    def set(self, case, data, _context):
        case.headers["Authorization"] = f"Bearer {data}"
