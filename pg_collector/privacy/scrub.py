"""Cleans error texts and log lines: credentials, connection strings, values that servers quote.

`scrub` is for everything that the agent logs; `scrub_error` is for messages of PostgreSQL that
are sent away, and says less. Both are linear, and both are applied to a message, not to a line
of JSON, whose quotes they would not respect.
"""

import re
from typing import Final

from pg_collector.privacy.lexer import CURLY_DOUBLE, CURLY_SINGLE

USER_RAISED: Final = "<user-raised message>"
MESSAGE_LIMIT: Final = 2_000  # code points kept of an error message

_FLAGS: Final = re.ASCII | re.IGNORECASE
_SECRET_WORD = (
    r"(?:password|passwd|passphrase|pwd|token|secret|api[_-]?key|access[_-]?key|private[_-]?key"
    r"|signature|credential|credentials|authorization|cookie)"
)
_QUOTED = r"'[^'\\]*+(?:(?:\\.|'')[^'\\]*+)*'?|\"[^\"\\]*+(?:\\.[^\"\\]*+)*\"?"
_KEY_VALUE = re.compile(
    rf"({_SECRET_WORD}(?:[_-][a-z0-9]++)?[\"']?[ \t]*+[=:][ \t]*+)"
    rf"((?:bearer|basic|digest)[ \t]++)?(?:{_QUOTED}|[^\s\"'][^\s]*+)",
    _FLAGS | re.DOTALL,
)
_PASSWORD_LITERAL = re.compile(
    rf"\b(password|identified[ \t]++by)([ \t]++)(?:{_QUOTED})", _FLAGS | re.DOTALL
)
_BEARER = re.compile(r"\b(bearer[ \t]++)[a-z0-9._~+/=-]{6,}+", _FLAGS)
_BASIC = re.compile(r"\b(Basic[ \t]++)[A-Za-z0-9+/=_-]{6,}+", re.ASCII)
_JWT = re.compile(r"\beyJ[A-Za-z0-9_-]{8,}+[A-Za-z0-9_.-]*+", re.ASCII)
_AWS_KEY = re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{12,}+", re.ASCII)
_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}-----|\Z)", re.DOTALL
)
# Everything up to the last `@` of the run: a password may hold `@`, `/` and `:` itself.
_USERINFO = re.compile(r"(://)[^\s@]*+@(?:[^\s@]*+@)*", re.ASCII)
# Cut off or malformed: a `user:password` that no `@` follows; digits alone are a port.
_OPEN_USERINFO = re.compile(r"(://[^\s:/@?#\[\]]*+:)(?!\d{1,5}(?:[/?#\s,;)\"'\]]|\Z))[^\s]++", re.ASCII)
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,30}+://)[^\s]*+", re.ASCII)

_FIELD = (
    r"(?:DETAIL|HINT|CONTEXT|STATEMENT|QUERY|LOCATION|LINE [0-9]{1,9}"
    r"|Process [0-9]{1,9}|PL/pgSQL function)"
)
_DROPPED_FIELDS = re.compile(
    rf"^[ \t]*+{_FIELD}\b[^\n]*+(?:\n(?!\s*+\n|Traceback |During |The above |[ \t]*+File \")[^\n]++)*+\n?",
    re.MULTILINE,
)
_FIELD_IN_LINE = re.compile(rf"[ \t]{_FIELD}:[^\n]*+")
