"""A secret of one run, and the forms in which bytes could show it.

It is made of letters that neither hex digits nor words of ours hold in a row, so that a piece of
six of them is no accident, whatever else stands in a file.
"""

import base64
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

LETTERS: Final = "qxzj"
_ROOT: Final = 12  # letters that all words have in common
_PLACE: Final = 4  # further ones, which say where a word was planted
_PIECE: Final = 6  # letters that give it away
_DIGITS: Final = 11  # of a number
_BITS: Final = 24
_STEP: Final = 3
_AROUND: Final = 120  # bytes shown on either side of what was found


class Canary:
    """What is planted. `word(n)` is the secret of place n; the other values are of every place."""

    def __init__(self) -> None:
        pick = random.SystemRandom()
        self.root = "".join(pick.choices(LETTERS, k=_ROOT))
        self.number = "7" + "".join(pick.choices("0123456789", k=16))
        self.bits = "".join(pick.choices("01", k=3 * _BITS))
        self.card = _card(pick)
        self.address = f"{self.root}@{self.root}.example"
        self._pieces = tuple(dict.fromkeys(self._forms()))

    def word(self, place: int) -> str:
        """Return the word of a place."""
        digits = (place // 4**power % 4 for power in range(_PLACE))
        return self.root + "".join(LETTERS[digit] for digit in digits)

    def fill(self, template: str, place: int) -> str:
        """Return a template with what its words in capitals stand for."""
        for name, value in self._values(place).items():
            template = template.replace(name, value)
        return template

    def sign(self, template: str, place: int) -> bytes:
        """Return what stands in a template once it is filled."""
        return next(one for name, one in self._values(place).items() if name in template).encode()

    def _values(self, place: int) -> dict[str, str]:
        word = self.word(place)
        return {
            "CANARY": word,
            "HEX": word.encode().hex(),
            "ESCAPED": "".join(f"\\{ord(one):04x}" for one in word),
            "BITS": self.bits,
            "NUMBER": self.number,
            "ADDRESS": self.address,
            "CARD": self.card,
        }

    def seen(self, data: bytes) -> str:
        """Return what gives it away in some bytes, with what stands around it; empty if nothing."""
        low = data.lower()
        for piece in self._pieces:
            if (at := low.find(piece)) >= 0:
                around = data[max(0, at - _AROUND) : at + len(piece) + _AROUND]
                return f"{piece!r} in {around!r}"
        return ""

    def seen_below(self, *places: Path) -> dict[str, str]:
        """Return what gives it away in files, their names included, by path."""
        files = [path for place in places for path in (place, *place.rglob("*"))]
        found = {str(one): self.seen(str(one).encode() + _content(one)) for one in files}
        return {path: what for path, what in found.items() if what}

    def _forms(self) -> Iterator[bytes]:
        for piece in _cut(self.root, _PIECE, _STEP):
            yield piece.encode()
            yield piece.encode().hex().encode()
            yield piece.upper().encode().hex().encode()
            for form in ("%{:02x}", "\\x{:02x}", "\\u{:04x}", "\\{:04x}"):
                yield "".join(form.format(ord(one)) for one in piece).encode()
        for shift in range(3):  # where a group of three bytes begins in it
            whole = base64.b64encode(self.root[shift : shift + 9].encode())
            yield whole.lower()
        for digits in (self.number, self.card):
            yield from (piece.encode() for piece in _cut(digits, _DIGITS, _STEP))
        yield " ".join(_cut(self.card, 4, 4)).encode()
        yield from (piece.encode() for piece in _cut(self.bits, _BITS, _BITS))


def _cut(text: str, length: int, step: int) -> list[str]:
    """Return pieces of a text that begin `step` apart."""
    return [text[at : at + length] for at in range(0, len(text) - length + 1, step)]


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _card(pick: random.Random) -> str:
    """Return the number of a card that nobody has: its check digit fits."""
    digits = [4, *(pick.randrange(10) for _ in range(14))]
    doubled = sum(sum(divmod(2 * one, 10)) for one in digits[::2])
    check = -(doubled + sum(digits[1::2])) % 10
    return "".join(map(str, (*digits, check)))
