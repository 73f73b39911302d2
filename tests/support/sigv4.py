"""Looks at an RDS token as RDS does: the signature is made anew, and what it covers compared.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

import datetime as dt
import hashlib
import hmac
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, urlsplit

_EARLY = dt.timedelta(minutes=5)  # by which the signer's clock may be ahead


class Key(NamedTuple):
    """AWS credentials."""

    access: str
    secret: str
    session: str


def fault(
    token: str, keys: Mapping[str, Key], *, host: str, port: int, user: str, region: str
) -> str | None:
    """Return what is wrong with a token that is to let `user` in now; None if nothing."""
    url = urlsplit(f"https://{token}")
    fields = dict(parse_qsl(url.query, keep_blank_values=True, strict_parsing=True))
    access, day, where, service, _end = fields["X-Amz-Credential"].split("/")
    signed_at = dt.datetime.strptime(fields["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=dt.UTC)
    age = dt.datetime.now(dt.UTC) - signed_at
    if age > dt.timedelta(seconds=int(fields["X-Amz-Expires"])) or -age > _EARLY:
        return "expired"
    if (url.hostname, url.port, where, service) != (host, port, region, "rds-db"):
        return f"for {url.hostname}:{url.port} in {where}"
    if (fields["Action"], fields["DBUser"]) != ("connect", user):
        return f"for {fields['DBUser']}"
    key = keys.get(access)
    if key is None or fields.get("X-Amz-Security-Token") != key.session:
        return "unknown key"
    given = fields.pop("X-Amz-Signature")
    scope = f"{day}/{where}/{service}/aws4_request"
    made = _signature(key.secret, scope, fields, f"{host}:{port}")
    return None if hmac.compare_digest(made, given) else "another signature"


def _signature(secret: str, scope: str, fields: Mapping[str, str], host: str) -> str:
    query = "&".join(
        f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}"
        for name, value in sorted(fields.items())
    )
    nothing = hashlib.sha256(b"").hexdigest()
    request = f"GET\n/\n{query}\nhost:{host}\n\nhost\n{nothing}"
    digest = hashlib.sha256(request.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{fields['X-Amz-Date']}\n{scope}\n{digest}"
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()
