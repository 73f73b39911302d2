"""A device as the reference platform sees one: the calls of the protocol, made by hand."""

import base64
import json
import uuid
from typing import Any

import requests
from backports import zstd
from nacl.signing import VerifyKey

URN = "urn:pg-collector:problem:"


def decoded(jws: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return header and payload of a compact JWS, unchecked."""
    header, payload, _ = jws.split(".")
    return json.loads(_bytes(header)), json.loads(_bytes(payload))


def checked(jws: str, jwks: dict[str, Any], typ: str) -> dict[str, Any]:
    """Return the payload of a JWS that a key of the set has signed; fails otherwise."""
    header, payload = decoded(jws)
    assert header.keys() == {"alg", "kid", "typ"}
    assert (header["alg"], header["typ"]) == ("EdDSA", typ)
    (key,) = (one for one in jwks["keys"] if one["kid"] == header["kid"])
    text, _, signature = jws.rpartition(".")
    VerifyKey(_bytes(key["x"])).verify(text.encode(), _bytes(signature))
    return payload


def name(answer: requests.Response) -> str:
    """Return the name of a problem document."""
    assert answer.headers["Content-Type"] == "application/problem+json", answer.text
    found = answer.json()
    assert found["status"] == answer.status_code
    assert found["title"]
    return str(found["type"]).removeprefix(URN)


class Device:
    """One device. `verify` is the file of an authority, where the platform has TLS."""

    def __init__(self, url: str, *, verify: str | bool = True) -> None:
        self.url = url
        self.id = str(uuid.uuid4())
        self.stream = str(uuid.uuid4())
        self.life = f"1/{uuid.uuid4()}"
        self.access = self.refresh_token = ""
        self.activated: dict[str, Any] = {}
        self.session = requests.Session()
        self.session.verify = verify
        self.session.trust_env = False

    def call(
        self, method: str, path: str, *, token: str | None = None, **how: Any
    ) -> requests.Response:
        """Ask with the access token, or another one."""
        headers = {"Authorization": f"Bearer {self.access if token is None else token}"}
        headers |= how.pop("headers", {})
        return self.session.request(method, f"{self.url}{path}", headers=headers, timeout=30, **how)

    def activate(self, key: str) -> requests.Response:
        """Activate; keep what came."""
        body = {"api_key": key, "device_id": self.id, "hostname": "here", "agent_version": "1"}
        answer = self.call("POST", "/v1/devices/activate", json=body)
        if answer.ok:
            self.activated = answer.json()
            self.keep(answer)
        return answer

    def refresh(self, token: str | None = None, *, keep: bool = True) -> requests.Response:
        """Use the refresh token, or another one; keep what came."""
        body = {"device_id": self.id, "refresh_token": token or self.refresh_token}
        answer = self.call("POST", "/v1/devices/refresh", json=body)
        if answer.ok and keep:
            self.keep(answer)
        return answer

    def keep(self, answer: requests.Response) -> None:
        """Keep the tokens of an answer."""
        self.access = answer.json()["access_token"]
        self.refresh_token = answer.json()["refresh_token"]

    def policy(self) -> dict[str, Any]:
        """Return the payload of the policy; fails where there is none."""
        answer = self.call("GET", "/v1/devices/policy")
        assert answer.ok, answer.text
        return decoded(answer.json()["policy"])[1]

    def send(
        self, first: int, lines: list[bytes], *, last: int | None = None, **headers: str
    ) -> requests.Response:
        """Post a batch; without `last` each line has one number."""
        last = first + len(lines) - 1 if last is None else last
        return self.post(
            zstd.compress(b"".join(one + b"\n" for one in lines)), first, last, **headers
        )

    def post(self, body: bytes, first: int, last: int, **headers: str) -> requests.Response:
        """Post a body as it is; headers are named with underscores."""
        whole = {
            "Content-Type": "application/x-ndjson",
            "Content-Encoding": "zstd",
            "Idempotency-Key": f"{self.stream}/{first}-{last}",
            "Pgc-Life": self.life,
            **{key.replace("_", "-"): value for key, value in headers.items()},
        }
        return self.call("POST", "/v1/samples", data=body, headers=whole)


def gap(first: int, last: int, reason: str = "thinned") -> bytes:
    """Return the object that stands for numbers without a line."""
    return json.dumps(
        {"gap": {"from": first, "to": last, "reason": reason}}, separators=(",", ":")
    ).encode()


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
