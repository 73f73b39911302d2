"""A platform's signing keys, for what a test wants signed, well or badly."""

import base64
import time
from typing import Any

import msgspec
from nacl.signing import SigningKey

from pg_collector.activation.signed import KeySet, PublicKey, thumbprint


def encoded(raw: bytes) -> str:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Signer:
    """A private key."""

    def __init__(self) -> None:
        self._key = SigningKey.generate()
        x = encoded(bytes(self._key.verify_key))
        self.public = PublicKey(kty="OKP", crv="Ed25519", x=x, kid=thumbprint(x))

    def sign(self, payload: Any, typ: str = "policy+jwt", **header: Any) -> str:
        """Return a compact JWS; `header` replaces members, None takes one away."""
        head = {"alg": "EdDSA", "kid": self.public.kid, "typ": typ, **header}
        head = {name: value for name, value in head.items() if value is not None}
        body = payload if isinstance(payload, bytes) else msgspec.json.encode(payload)
        signed = f"{encoded(msgspec.json.encode(head))}.{encoded(body)}"
        return f"{signed}.{encoded(self._key.sign(signed.encode()).signature)}"


def key_set(*signers: Signer, version: int = 1) -> KeySet:
    """Return a set of public keys."""
    return KeySet(keys=tuple(one.public for one in signers), version=version)


def policy(device: str, version: int = 1, **changes: Any) -> dict[str, Any]:
    """Return the payload of a policy."""
    now = time.time()
    found = {
        "sub": device,
        "version": version,
        "plan": "pro",
        "max_databases": 5,
        "samplers": {"activity": {"min_interval_s": 10, "default_interval_s": None}},
        "features": {
            "masking_levels": ["basic", "custom"],
            "pii": "basic",
            "audit_log": False,
            "outputs": ["platform"],
        },
        "grace_s": 100,
        "heartbeat_s": 10,
        "ingest": {"max_batch_bytes": 1 << 20, "max_line_bytes": 1 << 20, "encodings": ["zstd"]},
        "iat": now,
        **changes,
    }
    return {"exp": found["iat"] + 3 * found["heartbeat_s"] + found["grace_s"], **found}
