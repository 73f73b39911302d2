"""Personal data in what stays of a text: e-mail addresses, cards, social security, phone numbers.

Runs on masked SQL (where names may be addresses), on names that people give, and on messages.
A detector says of what kind something is and where; the value itself goes nowhere. Numbers of
which a server has many stay: bigints, LSNs, versions, addresses, UUIDs, dates.

Every pattern is linear: quantifiers are bounded, or over one character set.
"""

import enum
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from pg_collector.errors import ConfigurationError

LEVELS: Final = ("basic", "full")


class Kind(enum.StrEnum):
    """What was found; `<kind>` stands in its place."""

    EMAIL = "email"
    CARD = "card"
    SSN = "ssn"
    PHONE = "phone"


class Finding(NamedTuple):
    """Something personal, from code point `start` to `end` (exclusive)."""

    kind: Kind
    start: int
    end: int


class Detector:
    """Finds personal data. Safe to share between threads.

    level: "basic" finds e-mail addresses, cards and social security numbers, "full" phone numbers,
    too; anything else raises ConfigurationError.
    on_found: called by `scrub` with each kind and how often it was there.

    Source: docs/specs/masking.md.
    """

    def __init__(
        self, level: str = "basic", *, on_found: Callable[[Kind, int], None] | None = None
    ) -> None:
        if level not in LEVELS:
            raise ConfigurationError(
                f"unknown level of PII detection {level!r}",
                remedy=f"Use one of: {', '.join(LEVELS)}.",
            )
        self.level = level
        self._finders = _FULL if level == "full" else _BASIC
        self._on_found = on_found

    def find(self, text: str) -> list[Finding]:
        """Return what is personal in a text, in its order, nothing twice."""
        every: list[Finding] = []
        if "@" in text or "%40" in text:
            every += _emails(text)
        if _DIGITS.search(text):
            every += [found for finder in self._finders for found in finder(text)]
        if self.level == "full" and "+" in text:
            every += _international(text)
        kept: list[Finding] = []
        for found in sorted(every, key=lambda one: (one.start, -one.end)):
            if not kept or found.start >= kept[-1].end:
                kept.append(found)
        return kept

    def scrub(self, text: str) -> str:
        """Return a text with `<email>` and the like where something personal was."""
        findings = self.find(text)
        if not findings:
            return text
        if self._on_found:
            for kind, count in Counter(found.kind for found in findings).items():
                self._on_found(kind, count)
        starts = [0, *(found.end for found in findings)]
        ends = [*(found.start for found in findings), len(text)]
        marks = [*(f"<{found.kind}>" for found in findings), ""]
        return "".join(
            text[start:end] + mark for start, end, mark in zip(starts, ends, marks, strict=True)
        )


# No number but an international one has fewer digits than that of a social security. To look for
# so many first is quick.
_DIGITS = re.compile(r"[0-9](?:[ ()./-]{0,2}[0-9]){8}")
# Digits that go on, on either side, are another number.
_BEFORE: Final = r"(?<![\w-])(?<![0-9]\.)"
_AFTER: Final = r"(?![\w-])(?!\.[0-9])"


# E-mail addresses: RFC 5321 and 6531, as far as people have them.

_AT = re.compile(r"@|%40")
_LOCAL_LENGTH: Final = 64
_LOCAL = re.compile(r"[\w.+%!#$&*/^`{|}~-]++(?:'[\w.+%-]++)?\Z")
_IN_QUOTES = re.compile(r"(?<=\")[^\"@\s]++\Z")
_HOST = re.compile(r"[\w-]{1,63}(?:\.[\w-]{1,63}){0,8}")
_LEAST_TOP_LEVEL: Final = 2


def _emails(text: str) -> Iterator[Finding]:
    for at in _AT.finditer(text):
        found = _HOST.match(text, at.end())
        host = found[0].rstrip("-_") if found else ""
        end = at.end() + len(host)
        before = text[max(0, at.start() - _LOCAL_LENGTH - 1) : at.start()]
        if _is_domain(host):
            local = _LOCAL.search(before[-_LOCAL_LENGTH:])
        elif host and text.startswith('"', end):  # a name that is an address, of a host within
            local = _IN_QUOTES.search(before)
        else:
            local = None
        name = local[0].lstrip("./%") if local else ""
        if name:
            yield Finding(Kind.EMAIL, at.start() - len(name), end)


def _is_domain(host: str) -> bool:
    """Whether a host's name has a top-level domain, which begins with a letter."""
    _, dot, top = host.rpartition(".")
    return bool(dot) and len(top) >= _LEAST_TOP_LEVEL and top[0].isalpha()


# Cards: ISO/IEC 7812. Of more than 16 digits only those in groups, or any bigint might be one.

_CARD = re.compile(
    rf"{_BEFORE}(?:[0-9]{{13,16}}"
    r"|[0-9]{4}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{4}(?:\1[0-9]{3})?"
    rf"|[0-9]{{4}}([ -])[0-9]{{6}}\2[0-9]{{4,5}}){_AFTER}"
)
_ISSUERS: Final = (
    # prefixes from, to, and how many digits there are
    (4, 4, {13, 16, 19}),
    (51, 55, {16}),
    (2221, 2720, {16}),
    (34, 34, {15}),
    (37, 37, {15}),
    (300, 305, {14, 16}),
    (309, 309, {14, 16}),
    (36, 36, {14}),
    (38, 39, {14, 16}),
    (6011, 6011, {16, 19}),
    (644, 649, {16, 19}),
    (65, 65, {16, 19}),
    (3528, 3589, {16, 19}),
    (62, 62, {16, 19}),
    (50, 50, {13, 15, 16, 19}),
    (56, 58, {13, 15, 16, 19}),
    (63, 63, {13, 15, 16, 19}),
    (67, 67, {13, 15, 16, 19}),
)
_LARGEST_DIGIT: Final = 9


def _cards(text: str) -> Iterator[Finding]:
    for found in _CARD.finditer(text):
        digits = "".join(one for one in found[0] if one.isdigit())
        if len(set(digits)) > 1 and _issued(digits) and _luhn(digits):
            yield Finding(Kind.CARD, *found.span())


def _issued(digits: str) -> bool:
    return any(
        len(digits) in lengths and first <= int(digits[: len(str(first))]) <= last
        for first, last, lengths in _ISSUERS
    )


def _luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others: ISO/IEC 7812-1, annex B."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - _LARGEST_DIGIT if value > _LARGEST_DIGIT else value
    return total % 10 == 0


# Social security numbers of the USA: https://www.ssa.gov/employer/randomization.html

_SSN = re.compile(rf"{_BEFORE}([0-9]{{3}})-([0-9]{{2}})-([0-9]{{4}}){_AFTER}")
_NAMED_SSN = re.compile(
    r"(?:(?<![^\W_])ssn|social[ _-]{0,2}security)(?:_|[^\w\n]{0,4})"
    r"(?:(?:number|num|no|nr)(?:_|[^\w\n]{1,4}))?"
    rf"([0-9]{{3}})[ -]?([0-9]{{2}})[ -]?([0-9]{{4}}){_AFTER}",
    re.IGNORECASE,
)
_NOT_ISSUED: Final = 900  # areas from here on


def _ssns(text: str) -> Iterator[Finding]:
    for pattern in (_SSN, _NAMED_SSN):
        for found in pattern.finditer(text):
            area, group, serial = map(int, found.groups())
            if area not in {0, 666} and area < _NOT_ISSUED and group and serial:
                yield Finding(Kind.SSN, found.start(1), found.end())


# Phone numbers: E.164, and the North American plan's.

_INTERNATIONAL = re.compile(
    r"(?<![\w+-])(?<![0-9]\.)\+[1-9](?:[ .()/-]{0,2}[0-9]){7,14}(?![\w-])(?!\.[0-9])"
)
_NORTH_AMERICAN = re.compile(
    rf"{_BEFORE}(?:1[ .-])?(?:\([2-9][0-9]{{2}}\)[ -]?[2-9][0-9]{{2}}[ .-][0-9]{{4}}"
    rf"|[2-9][0-9]{{2}}([ .-])[2-9][0-9]{{2}}\1[0-9]{{4}}){_AFTER}"
)
_NAMED_PHONE = re.compile(
    r"(?<![^\W_])(?:tele)?(?:phone|tel|fax|mobile|cell)(?:[ _-]?(?:phone|number|num|no|nr))?"
    rf"[^\w\n]{{1,4}}([0-9]{{10}}){_AFTER}",
    re.IGNORECASE,
)


def _international(text: str) -> Iterator[Finding]:
    return (Finding(Kind.PHONE, *found.span()) for found in _INTERNATIONAL.finditer(text))


def _phones(text: str) -> Iterator[Finding]:
    for found in _NORTH_AMERICAN.finditer(text):
        yield Finding(Kind.PHONE, *found.span())
    for found in _NAMED_PHONE.finditer(text):
        yield Finding(Kind.PHONE, *found.span(1))


_BASIC: Final = (_cards, _ssns)
_FULL: Final = (*_BASIC, _phones)
