"""Secrets by the place where they are planted, and the search for them in every form.

What `word` makes is looked for by its first twelve characters: a part of a secret is one, too.
"""

import base64
import random
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_LENGTH: Final = 20
_PIECE: Final = 12
_AROUND: Final = 100  # bytes shown on either side of what was found


class Hoard:
    """What was planted so far. Letters are compared without their case."""

    def __init__(self) -> None:
        self.planted: dict[str, str] = {}
        self._pick = random.SystemRandom()
        self._forms: dict[str, list[bytes]] = {}

    def word(self, place: str) -> str:
        """Return the secret of a place: letters and digits that nobody else writes."""
        if place not in self.planted:
            letters = self._pick.choices(string.ascii_lowercase + string.digits, k=_LENGTH - 1)
            self.add(place, self._pick.choice("qxz") + "".join(letters))
        return self.planted[place]

    def number(self, place: str) -> str:
        """Return one of digits."""
        self.add(place, "7" + "".join(self._pick.choices(string.digits, k=15)))
        return self.planted[place]

    def add(self, place: str, secret: str) -> str:
        """Look for a secret that somebody else made, by its end, which is its very own."""
        self.planted[place] = secret
        piece = secret[-_PIECE:] if len(secret) > _LENGTH else secret[:_PIECE]
        self._forms[place] = [one.lower() for one in dict.fromkeys(_forms(piece.encode()))]
        return secret

    def add_bytes(self, place: str, secret: bytes) -> None:
        """Look for a key that is no text."""
        self.planted[place] = secret.hex()
        self._forms[place] = [one.lower() for one in dict.fromkeys(_forms(secret[:_PIECE]))]

    def seen(self, data: bytes, *, but: frozenset[str] = frozenset()) -> dict[str, bytes]:
        """Return what of it stands in some bytes, with what is around; `but` may."""
        low = data.lower()
        found = {}
        for place, forms in self._forms.items():
            for form in () if place in but else forms:
                if (at := low.find(form)) >= 0:
                    found[place] = data[max(0, at - _AROUND) : at + len(form) + _AROUND]
        return found

    def seen_below(
        self, *places: Path, but: dict[str, frozenset[str]] | None = None
    ) -> dict[str, dict[str, bytes]]:
        """Return the same of files and their names, by path; `but`: by a file's name, what may."""
        found = {}
        for place in places:
            for path in (place, *place.rglob("*")):
                data = str(path).encode() + (path.read_bytes() if path.is_file() else b"")
                if what := self.seen(data, but=(but or {}).get(path.name, frozenset())):
                    found[str(path)] = what
        return found


def forms(text: str) -> list[str]:
    """Return a whole secret as bytes could show it."""
    return [one.decode() for one in _forms(text.encode())]


def _forms(data: bytes) -> Iterator[bytes]:
    yield data
    yield data[::-1]
    digits = data.hex()
    yield digits.encode()
    pairs = [digits[at : at + 2] for at in range(0, len(digits), 2)]
    for mark in ("%", "\\x", "\\u00"):
        yield (mark + mark.join(pairs)).encode()
    for shift in range(3):  # bytes before it in its group of three
        coded = base64.b64encode(bytes(shift) + data)
        inner = coded[-(-shift * 8 // 6) : (shift + len(data)) * 8 // 6]
        yield inner
        yield inner.translate(bytes.maketrans(b"+/", b"-_"))
