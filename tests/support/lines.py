"""Lines that are made from a counter, and tell by themselves whether they are still what was made.

`make(k)` gives the same bytes at any time and in any process, so nothing has to be remembered of
what was sent: whoever finds a line asks `check`.
"""

import base64
import datetime as dt
import hashlib
import random
from typing import Any, Final

import msgspec

SMALLEST: Final = 0  # padding, in bytes; the rest of a line takes about 200
LARGEST: Final = 100_000

_EPOCH: Final = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


class _Head(msgspec.Struct):
    """The head of a sample's line, as far as these lines have one."""

    v: int
    set: str
    schema: int
    target: str
    at: str
    every_s: float
    took_ms: float
    c: tuple[str, ...]
    r: list[tuple[int, str, str]]


def padding(k: int) -> int:
    """Return the size of the padding of line `k`: mostly small, sometimes up to `LARGEST`."""
    chance = random.Random(k)  # noqa: S311 - it must come out alike
    return min(LARGEST, SMALLEST + int(chance.paretovariate(0.7) * 100) - 100)


def make(k: int, pad: int | None = None, *, target: str = "prod", set: str = "database") -> bytes:  # noqa: A002 - the wire's word
    """Return line `k` with so many bytes of padding (`padding(k)` without a number).

    The padding hardly compresses.
    """
    size = padding(k) if pad is None else pad
    key = f"{k} {size} {target} {set}".encode()
    text = base64.b64encode(hashlib.shake_128(key).digest(size))[:size].decode()
    line = _Head(
        v=1, set=set, schema=1, target=target,
        at=(_EPOCH + dt.timedelta(seconds=k % 2**31)).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        every_s=1.0, took_ms=k % 1000 / 10,
        c=("k", "digest", "padding"),
        r=[(k, hashlib.blake2b(key + text.encode(), digest_size=12).hexdigest(), text)],
    )  # fmt: skip
    return msgspec.json.encode(line)


def check(line: bytes) -> int:
    """Return the counter of a line. Raises ValueError where it is not, byte for byte, as made."""
    try:
        head = msgspec.json.decode(line, type=_Head)
        ((k, _, text),) = head.r
    except (msgspec.DecodeError, ValueError) as error:
        raise ValueError(f"not a line of ours: {error}: {excerpt(line)}") from error
    if k < 0:
        raise ValueError(f"not a line of ours: counter {k}: {excerpt(line)}")
    wanted = make(k, len(text), target=head.target, set=head.set)
    if line != wanted:
        at = next((n for n, (a, b) in enumerate(zip(line, wanted, strict=False)) if a != b), -1)
        raise ValueError(f"line {k} was changed at byte {at}: {excerpt(line)}")
    return k


def excerpt(line: bytes) -> str:
    """Return the beginning of a line for a message."""
    shown: Any = line[:120]
    return f"{shown!r} ({len(line)} bytes)"
