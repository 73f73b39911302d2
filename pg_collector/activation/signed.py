"""What the platform signs: compact JWS with Ed25519, checked against pinned keys. Pure.

https://www.rfc-editor.org/rfc/rfc7515, https://www.rfc-editor.org/rfc/rfc8037. One algorithm, one
form, nothing negotiable: what is not exactly that is refused.
"""

import base64
import binascii
import enum
import hashlib
from typing import Annotated, Final, Literal, TypeVar

import msgspec
from msgspec import Meta
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from pg_collector.errors import CollectorError
from pg_collector.meet import meet

T = TypeVar("T")

LONGEST: Final = 256 * 1024  # characters of a token
_SHOWN: Final = 40
_KEYS: Final = 16  # of a set
_KEY_BYTES: Final = 32


class Kind(enum.StrEnum):
    """What a token is for: its `typ`. One is never taken for another."""

    POLICY = "policy+jwt"
    COMMAND = "command+jwt"
    KEYS = "jwks+jwt"


class Untrusted(CollectorError):
    """What was received is not signed by a key that is pinned, or is not what it should be."""


class UnknownKey(Untrusted):
    """It is signed by a key that is not pinned: the platform may have rotated its keys."""


class PublicKey(msgspec.Struct, frozen=True, kw_only=True):
    """A public key as in https://www.rfc-editor.org/rfc/rfc8037#section-2."""

    kty: Literal["OKP"]
    crv: Literal["Ed25519"]
    x: Annotated[str, Meta(min_length=43, max_length=43)]
    kid: str
    alg: Literal["EdDSA"] = "EdDSA"
    use: Literal["sig"] = "sig"

    def verifier(self) -> VerifyKey:
        """Return what checks signatures. Raises Untrusted where it is no key."""
        raw = _decoded(self.x)
        if len(raw) != _KEY_BYTES or thumbprint(self.x) != self.kid:
            raise Untrusted(f"the key {self.kid[:_SHOWN]!r} is not what its name says")
        return VerifyKey(raw)


class KeySet(msgspec.Struct, frozen=True, kw_only=True):
    """The keys that are believed. A set with a higher version replaces it."""

    keys: Annotated[tuple[PublicKey, ...], Meta(min_length=1, max_length=_KEYS)]
    version: Annotated[int, Meta(ge=0)]

    def check(self) -> "KeySet":
        """Return itself. Raises Untrusted where a key is none."""
        for key in self.keys:
            key.verifier()
        return self


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    alg: str
    kid: str
    typ: str


def thumbprint(x: str) -> str:
    """Return the name of an Ed25519 key: https://www.rfc-editor.org/rfc/rfc7638."""
    text = f'{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}'
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def verified(token: str, keys: KeySet, kind: Kind, payload: type[T]) -> T:
    """Return what a token says. Raises UnknownKey, Untrusted; the token is not in the message."""
    if len(token) > LONGEST:
        raise Untrusted(f"a signed document of {len(token)} characters is too long")
    try:
        head, body, signature = token.split(".")
    except ValueError:
        raise Untrusted("not a signed document of three parts") from None
    header = _header(head)
    if header.alg != "EdDSA":
        raise Untrusted(f"signed with {header.alg[:_SHOWN]!r}, and only EdDSA is believed")
    if header.typ != kind:
        raise Untrusted(f"a {header.typ[:_SHOWN]!r} in the place of a {kind}")
    key = next((one for one in keys.keys if one.kid == header.kid), None)
    if key is None:
        raise UnknownKey(f"signed by the key {header.kid[:_SHOWN]!r}, which is not pinned")
    try:
        key.verifier().verify(f"{head}.{body}".encode("ascii"), _decoded(signature))
    except (BadSignatureError, ValueError, TypeError, UnicodeEncodeError):
        raise Untrusted("the signature does not fit: it was altered, or is a forgery") from None
    try:
        return msgspec.json.decode(_decoded(body), type=payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Untrusted(
            f"signed, but not as this agent knows it: {error}",
            remedy="Is the agent too old for this platform?",
        ) from None


def _header(part: str) -> _Header:
    try:
        return msgspec.json.decode(_decoded(part), type=_Header)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Untrusted("its header is not exactly alg, kid and typ") from None


def _decoded(part: str) -> bytes:
    """Decode base64url without padding. Raises Untrusted for anything else."""
    try:
        raw = base64.b64decode(part.encode("ascii") + b"=" * (-len(part) % 4), b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise Untrusted("not base64url") from None
    if base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii") != part:
        raise Untrusted("not base64url in its one form")
    return raw


meet(KeySet, _Header)  # commands read it in several threads
