"""Cleans error texts and log lines: credentials, connection strings, values that servers quote.

`scrub` is for everything that the agent logs; `scrub_error` is for messages of PostgreSQL that
are sent away, and says less. Both take linear time. Apply them to a message, not to a line of
JSON: an unquoted secret is masked up to the next space, the line's own quotes included.
"""

import re
from typing import Final

from pg_collector.errors import USER_RAISED
from pg_collector.privacy.endings import CURLY_DOUBLE

MESSAGE_LIMIT: Final = 2_000  # code points kept of an error message
LOG_LIMIT: Final = 65_536  # code points kept of a log message

_FLAGS: Final = re.ASCII | re.IGNORECASE
_LABEL = (
    r"(?:password|passwd|passphrase|pwd|token|secret"
    r"|(?:api|access|private|client|server|account)[_-]?key|identity[_-]header"
    r"|signature|credentials?|authorization|cookie)"
)
# One of these is in every label, in lower case: a search for it is quicker than a pattern.
_LABEL_PARTS: Final = (
    *("passw", "passphrase", "pwd", "token", "secret", "key", "signature", "credential"),
    *("authorization", "cookie", "identity"),
)
_QUOTED = r"(?:'[^'\\]*+(?:(?:\\.|'')[^'\\]*+)*'?|\"[^\"\\]*+(?:\\.[^\"\\]*+)*\"?)"
_KEY_VALUE = re.compile(
    rf"({_LABEL}(?![_-]file(?![a-z0-9]))(?:[_-][a-z0-9]++)?[\"']?[ \t]*+[=:][ \t]*+)"
    # A string within a string has its quotes doubled; libpq takes a space behind a backslash.
    rf"(?:(?:bearer|basic|digest)[ \t]++)?(?:''[^\s',;)\]}}][^\s']*+'*+|{_QUOTED}"
    r"|(?:[^\s\"'\\]|\\.?)[^\s\\]*+(?:\\.[^\s\\]*+)*\\?)",
    _FLAGS | re.DOTALL,
)
_COOKIES = re.compile(r"(\bcookie[ \t]*+:[ \t]*+)[^\r\n\"']++", _FLAGS)
_PASSWORD_LITERAL = re.compile(
    rf"\b(password|identified[ \t]++by)[ \t]++{_QUOTED}", _FLAGS | re.DOTALL
)
_BEARER = re.compile(r"\b(bearer[ \t]++)[a-z0-9._~+/=-]{6,}+", _FLAGS)
_BASIC = re.compile(r"\b(Basic[ \t]++)[A-Za-z0-9+/=_-]{6,}+", re.ASCII)
_TOKEN = re.compile(
    r"\beyJ[A-Za-z0-9_-]{8,}+[A-Za-z0-9_.-]*+"  # a JSON web token
    r"|\bpgc_[A-Za-z0-9._-]{1,64}_[A-Za-z0-9]{32,}+|\bpg[ar]_[A-Za-z0-9_-]{20,}+"  # the platform's
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{12,}+"  # an access key of AWS
    r"|-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*+",
    re.ASCII | re.DOTALL,
)
_TOKEN_STARTS: Final = ("eyJ", "pgc_", "pga_", "pgr_", "AKIA", "ASIA", "-----BEGIN ")
_RUN = re.compile(r"\S++")
_PORT = re.compile(r"[0-9]{1,5}[^0-9A-Za-z]*+\Z")
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,30}+://)\S*+", re.ASCII)

_FIELD = re.compile(
    r"[ \t]*+(?:(?:DETAIL|HINT|CONTEXT|STATEMENT|QUERY|LOCATION|LINE [0-9]{1,9})\s*:"
    r"|Process [0-9]{1,9}(?: waits for|:))"
)
# A server that speaks another language names its lines in capitals as well: ZEILE 1: LIGNE 1 :
# (a no-break space), or in letters that have no case.
_LABELLED = re.compile(
    r"[ \t]*+(?:([^\W\d_]{1,24})(?:[ \t\xa0\u202f]*+[0-9]{1,9})?[ \t\xa0\u202f]*+[:\uff1a]"
    r"|\u7b2c[ ]?[0-9]{1,9}[ ]?\u884c)"
)
_SEVERITIES: Final = frozenset(
    {"DEBUG", "INFO", "NOTICE", "WARNING", "ERROR", "LOG", "WARN", "FATAL", "PANIC", "CRITICAL"}
)
_NEXT_PART = re.compile(r"\s*+\Z|Traceback |During |The above |[ \t]*+File \"")
_FIELD_INSIDE = re.compile(
    r"[ \t](?:(?:DETAIL|HINT|CONTEXT|STATEMENT|QUERY|LINE [0-9]{1,9}"
    r"|TIPP|KONTEXT|ANWEISUNG|ANFRAGE|ZEILE [0-9]{1,9}"
    r"|D\xc9TAIL|ASTUCE|CONTEXTE|INSTRUCTION|REQU\xcaTE|LIGNE [0-9]{1,9}"
    r"|DETALLE|SUGERENCIA|CONTEXTO|SENTENCIA|CONSULTA|L\xcdNEA [0-9]{1,9}"
    r"|DETTAGLI|SUGGERIMENTO|CONTESTO|ISTRUZIONE|RIGA [0-9]{1,9}"
    r"|DETALHE|DICA|COMANDO|LINHA [0-9]{1,9})[ \xa0\u202f]?:).*+"
)

# SQLSTATE classes of PostgreSQL's appendix A. Any other class was chosen by someone's RAISE.
_CLASSES = re.compile(
    "0[012389ABFLPZ]|10|2[0-8BDF]|3[489BDF]|4[024]|5[3-578]|72|F0|HV|P0|XX", re.ASCII
)
_RAISED: Final = frozenset({"P0001", "P0004"})  # RAISE and ASSERT: the text is the user's
# Messages of these quote values, not only names: data, integrity, external routines, internal.
_QUOTING: Final = frozenset({"22", "23", "38", "39", "XX"})
_NOUN = re.compile(
    r"\b(?:relation|table|view|index|sequence|column|constraint|role|user|group|database|schema"
    r"|function|procedure|routine|aggregate|operator|type|domain|enum|collation|encoding|extension"
    r"|language|server|server at|wrapper|tablespace|trigger|policy|rule|publication|subscription"
    r"|slot|parameter|cursor|savepoint|statement|portal|partition|attribute|option|file|directory"
    r"|library|host name|statistics object)[ ]\Z",
    _FLAGS,
)
_LONGEST_NOUN = 24
# Guillemets in both directions, typographic and Japanese quotes; U+2019 is an apostrophe as well.
_FOREIGN_QUOTES = re.compile(
    f"[\xab\xbb\u2039\u203a\u2018\u201a\u201b{CURLY_DOUBLE}\u300c-\u300f\uff02].*+"
)
_KEY_EQUALS = re.compile(r"\)=\(.*+")


def _hide_userinfo(run: re.Match[str]) -> str:
    """Return a run without spaces with what stands between `://` and the last `@` masked.

    A password may itself hold `@`, `/` and `:`. Without an `@` the URI may be cut off: what
    follows the first `:` is shown only if it is a port.
    """
    head, mark, tail = run[0].partition("://")
    if not mark:
        return head
    if "@" in tail:
        return f"{head}://?@{tail.rpartition('@')[2]}"
    authority = re.split(r"[/?#]", tail, maxsplit=1)[0]
    host, colon, port = authority.partition(":")
    if colon and not host.startswith("[") and not _PORT.match(port):
        return f"{head}://?"
    return run[0]


def _is_labelled(line: str) -> bool:
    """Return whether a line after a message's first is one that PostgreSQL adds, by its shape."""
    found = _LABELLED.match(line)
    if found is None:
        return False
    label = found[1] or ""
    return label == label.upper() and label not in _SEVERITIES


def _without_fields(text: str) -> str:
    """Return `text` without the lines that PostgreSQL adds to a message, and their sequels."""
    kept: list[str] = []
    dropping = False
    for line in text.splitlines(keepends=True):
        if _FIELD.match(line) or (kept and _is_labelled(line)):
            dropping = True
        elif _NEXT_PART.match(line):
            dropping = False
        if not dropping:
            kept.append(line)
    return "".join(kept)


def scrub(text: str) -> str:
    """Return a log message without credentials, and without DETAIL and the like of a server.

    In: a message or a traceback. What stays readable: hosts, names, codes, paths.
    """
    return without_credentials(_without_fields(text[:LOG_LIMIT]))


def without_credentials(text: str) -> str:
    """Return a text without passwords, tokens and keys, wherever they stand in it."""
    if "://" in text:
        text = _RUN.sub(_hide_userinfo, text)
    low = text.lower()
    if "cookie" in low:
        text = _COOKIES.sub(r"\1?", text)
    if any(word in low for word in _LABEL_PARTS):
        text = _KEY_VALUE.sub(r"\1?", text)
    if "password" in low or "identified" in low:
        text = _PASSWORD_LITERAL.sub(r"\1 ?", text)
    if "bearer" in low:
        text = _BEARER.sub(r"\1?", text)
    if "basic" in low:
        text = _BASIC.sub(r"\1?", text)
    if any(start in text for start in _TOKEN_STARTS):
        text = _TOKEN.sub("?", text)
    return text


def _hide_quoted(line: str) -> str:
    """Return `line` with quoted values masked; what follows a noun (`column "x"`) is a name.

    A value may hold quotes itself, so it ends at the line's last one.
    """
    at = 0
    while (start := line.find('"', at)) >= 0:
        name = _NOUN.search(line, max(0, start - _LONGEST_NOUN), start)
        end = line.find('"', start + 1)
        if not name or end < 0:
            last = line.rfind('"')
            return f'{line[:start]}"?"{line[last + 1 :] if last > start else ""}'
        at = end + 1
    return line


def scrub_error(sqlstate: str | None, message: str) -> str:
    """Return a message of PostgreSQL that may leave the host: one line, no values.

    sqlstate: five characters, or None if unknown (then the strictest rules hold).
    message: the primary message, or the whole text of an exception; its first line is used.
    """
    known = sqlstate is None or _CLASSES.fullmatch(sqlstate[:2])
    if sqlstate in _RAISED or not known:
        return USER_RAISED
    lines = message.lstrip()[:MESSAGE_LIMIT].splitlines()
    line = _FIELD_INSIDE.sub("", lines[0] if lines else "")
    line = _KEY_EQUALS.sub(")=(?)", line)
    if sqlstate is None or sqlstate[:2] in _QUOTING or sqlstate == "42601":
        line = _hide_quoted(line)
        line = _FOREIGN_QUOTES.sub('"?"', line)
    return scrub(_URI.sub(r"\1?", line))
