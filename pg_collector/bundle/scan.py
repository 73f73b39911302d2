"""Looks for secrets in a text: those that are known, in many forms, and what has a secret's shape.

What is found is replaced by `(secret)` and counted by kind. Known secrets of fewer than four
characters are not looked for: they stand everywhere by chance.
"""

import base64
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import quote, quote_plus

from pg_collector.bundle.known import Known, distinct

REPLACED: Final = "(secret)"
SHORTEST: Final = 4  # characters
_ANYWHERE: Final = 8  # characters: shorter ones are secrets where they are words of their own
_LEAST_FORM: Final = 8  # characters of base64 that are no accident

_LABEL = (
    r"(?:password|passwd|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key"
    r"|credentials?|authorization|cookie)"
)
_LABELLED: Final = re.compile(
    rf"(?P<head>{_LABEL}\\*[\"']?[ \t]*[=:][ \t]*(?:\\*[\"'])?(?:(?:bearer|basic|digest)[ \t]+)?)"
    r"(?P<value>[^\s\"',;&)\]}\\]+)",
    re.IGNORECASE,
)
_HARMLESS: Final = re.compile(
    r"\(secret\b.*|[?*]+|<.*|\$\{.*|null|none|true|false|on|off|yes|no|[0-9.]+[a-zA-Z]{0,2}",
    re.IGNORECASE,
)
_SHAPES: Final = {
    "private key": re.compile(
        r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)",
        re.DOTALL,
    ),
    "JSON web token": re.compile(r"\beyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){0,4}"),
    "AWS access key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{12,}"),
    "platform token": re.compile(
        r"\bpgc_[A-Za-z0-9.-]{1,64}_[A-Za-z0-9]{32,}|\bpg[ar]_[A-Za-z0-9_-]{20,}"
    ),
    "bearer token": re.compile(r"(?<=\bBearer )[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE),
    "basic login": re.compile(r"(?<=\bBasic )[A-Za-z0-9+/=_-]{6,}"),
    "login in a URL": re.compile(r"(?<=://)(?!\(secret\)@|\?@)[^\s/@\"']*:[^\s/@\"']*(?=@)"),
}


class Scan:
    """Knows the secrets of an installation."""

    def __init__(self, known: Iterable[Known]) -> None:
        found = distinct(known)
        self.too_short = sum(len(one.text) < SHORTEST for one in found)
        forms = [
            (form, one.kind)
            for one in found
            if len(one.text) >= SHORTEST
            for form in _forms(one.text)
        ]
        # The longest first: another may be a part of it.
        self._forms = sorted(dict(forms).items(), key=lambda form: -len(form[0]))

    def cleaned(self, text: str) -> tuple[str, Counter[str]]:
        """Return the text without what was found in it, and how often each kind was."""
        text, hits = self.without_known(text)
        for kind, shape in _SHAPES.items():
            text, count = shape.subn(REPLACED, text)
            hits[kind] += count
        text, count = _without_labelled(text)
        hits["labelled value"] += count
        return text, +hits

    def without_known(self, text: str) -> tuple[str, Counter[str]]:
        """Do the same with known secrets alone."""
        hits: Counter[str] = Counter()
        for form, kind in self._forms:
            if form not in text:
                continue
            # What stands where another was is not found again.
            pieces = text.split(REPLACED) if form in REPLACED else [text]
            replaced = [_replaced(form, piece) for piece in pieces]
            text = REPLACED.join(piece for piece, _ in replaced)
            hits[kind] += sum(count for _, count in replaced)
        return text, +hits


def _replaced(form: str, text: str) -> tuple[str, int]:
    """Return the text without a form of a secret, and how often that was in it."""
    if len(form) < _ANYWHERE or form.isalpha():
        word = rf"(?<![A-Za-z0-9]){re.escape(form)}(?![A-Za-z0-9])"
        return re.subn(word, REPLACED, text)
    return text.replace(form, REPLACED), text.count(form)


def _without_labelled(text: str) -> tuple[str, int]:
    hits = 0

    def replaced(found: re.Match[str]) -> str:
        nonlocal hits
        if _HARMLESS.fullmatch(found["value"]):
            return found[0]
        hits += 1
        return found["head"] + REPLACED

    return _LABELLED.sub(replaced, text), hits


def _forms(secret: str) -> Iterator[str]:
    """Yield how a secret may stand in a text."""
    yield secret
    yield from (
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        secret.encode("unicode_escape").decode(),
        secret.replace("'", "''"),
        quote(secret, safe=""),
        quote(secret),
        quote_plus(secret),
    )
    if len(secret) < _ANYWHERE:
        return
    yield secret[::-1]
    data = secret.encode("utf-8", "replace")
    for digits in (data.hex(), data.hex().upper()):
        yield digits
        pairs = [digits[at : at + 2] for at in range(0, len(digits), 2)]
        yield "%" + "%".join(pairs)
        yield "\\x" + "\\x".join(pairs)
        yield "\\u00" + "\\u00".join(pairs)
    for shift in range(3):  # bytes before it in its group of three
        text = base64.b64encode(bytes(shift) + data).decode()
        inner = text[-(-shift * 8 // 6) : (shift + len(data)) * 8 // 6]
        if len(inner) >= _LEAST_FORM:
            yield inner
            yield inner.translate(str.maketrans("+/", "-_"))
