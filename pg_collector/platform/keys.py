"""Signing keys, what they sign, and the key set that others check it with.

Compact JWS (RFC 7515) with Ed25519 (RFC 8037); a key's id is its thumbprint (RFC 7638).
"""

import base64
import hashlib
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey

POLICY: Final = "policy+jwt"
COMMAND: Final = "command+jwt"
KEY_SET: Final = "jwks+jwt"
ACCESS: Final = "at+jwt"

_LONGEST: Final = 4096  # characters of a token that is looked at


class BadToken(Exception):
    """A token that none of our keys has signed, or of another type."""


class PublicKey(msgspec.Struct, frozen=True):
    """A public key as a JWK."""

    x: str
    kid: str
    kty: str = "OKP"
    crv: str = "Ed25519"
    alg: str = "EdDSA"
    use: str = "sig"


class KeySet(msgspec.Struct, frozen=True):
    """The public keys; `signed` has `{keys, version}` as a JWS by each private key we have."""

    keys: list[PublicKey]
    version: int
    signed: list[str]


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    alg: str
    kid: str
    typ: str


class _File(msgspec.Struct, frozen=True):
    version: int
    seeds: list[str]  # base64url, the newest last


class Key:
    """One signing key."""

    def __init__(self, seed: bytes) -> None:
        self._key = SigningKey(seed)
        x = encode64(bytes(self._key.verify_key))
        thumb = hashlib.sha256(f'{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}'.encode()).digest()
        self.public = PublicKey(x=x, kid=encode64(thumb))

    def sign(self, typ: str, payload: object) -> str:
        """Return a compact JWS of `payload`, which msgspec encodes."""
        header = msgspec.json.encode({"alg": "EdDSA", "kid": self.public.kid, "typ": typ})
        text = f"{encode64(header)}.{encode64(msgspec.json.encode(payload))}"
        return f"{text}.{encode64(self._key.sign(text.encode()).signature)}"

    def check(self, text: bytes, signature: bytes) -> None:
        """Raise BadToken unless this key made the signature of `text`."""
        try:
            self._key.verify_key.verify(text, signature)
        except (BadSignatureError, ValueError):
            raise BadToken from None


class KeyRing:
    """The signing keys of a file, which other processes may change. Thread-safe.

    The newest key signs; tokens of the older ones still hold.
    """

    def __init__(self, path: Path) -> None:
        """Read the file; raises OSError or ValueError if it cannot be read."""
        self._path = path
        self._lock = threading.Lock()  # guards the three below
        self._seen: tuple[int, int] = (0, 0)
        self._version = 0
        self._keys: list[Key] = []
        self._read()

    def sign(self, typ: str, payload: object) -> str:
        """Sign with the newest key."""
        return self._read()[1][-1].sign(typ, payload)

    def verify(self, typ: str, token: str) -> dict[str, Any]:
        """Return the payload of a token of ours. Raises BadToken."""
        parts = token.split(".")
        if len(token) > _LONGEST or len(parts) != len(("header", "payload", "signature")):
            raise BadToken
        try:
            header = msgspec.json.decode(decode64(parts[0]), type=_Header)
            signature = decode64(parts[2])
        except ValueError:  # of base64, and of msgspec
            raise BadToken from None
        key = next((one for one in self._read()[1] if one.public.kid == header.kid), None)
        if key is None or header.alg != "EdDSA" or header.typ != typ:
            raise BadToken
        key.check(f"{parts[0]}.{parts[1]}".encode(), signature)
        found: dict[str, Any] = msgspec.json.decode(decode64(parts[1]))
        return found

    def public(self) -> KeySet:
        """Return the key set, signed by every key."""
        version, keys = self._read()
        plain: Mapping[str, Any] = {"keys": [key.public for key in keys], "version": version}
        return KeySet(**plain, signed=[key.sign(KEY_SET, plain) for key in keys])

    def _read(self) -> tuple[int, list[Key]]:
        status = self._path.stat()
        seen = (status.st_ino, status.st_mtime_ns)
        with self._lock:
            if seen != self._seen:
                file = msgspec.json.decode(self._path.read_bytes(), type=_File)
                self._version = file.version
                self._keys = [Key(decode64(seed)) for seed in file.seeds]
                self._seen = seen
            return self._version, self._keys


def make(path: Path) -> None:
    """Make a file with a first key."""
    _write(path, _File(1, [encode64(os.urandom(32))]))


def rotate(path: Path, *, drop_old: bool = False) -> int:
    """Add a key, which signs from now on, and return the set's version.

    With `drop_old` the earlier ones go, and with them all that they signed: devices that did not
    see the new set before have to be activated again.
    """
    file = msgspec.json.decode(path.read_bytes(), type=_File)
    kept = [] if drop_old else file.seeds
    changed = _File(file.version + 1, [*kept, encode64(os.urandom(32))])
    _write(path, changed)
    return changed.version


def encode64(data: bytes) -> str:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode64(text: str) -> bytes:
    """Read base64url without padding. Raises ValueError."""
    return base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)


def digest(secret: str) -> str:
    """Return what is kept of a key or a token: its SHA-256."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _write(path: Path, file: _File) -> None:
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as out:
        out.write(msgspec.json.encode(file))
        out.flush()
        os.fsync(out.fileno())
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
