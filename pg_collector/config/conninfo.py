"""libpq's connection strings as far as a configuration must understand them.

Enough to find a password in one, to add a keyword to one and to tell which may be shown. libpq
itself decides what is valid. https://www.postgresql.org/docs/current/libpq-connect.html
"""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl, quote, unquote

_SCHEMES: Final = ("postgresql://", "postgres://")
_SECRETS: Final = frozenset(
    (
        "password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key",
        "options",  # may carry anything
    )
)  # fmt: skip
_HARMLESS: Final = frozenset(
    (
        "host", "hostaddr", "port", "dbname", "user", "passfile", "service", "servicefile",
        "sslmode", "sslnegotiation", "sslrootcert", "sslcert", "sslkey", "sslcrl", "sslcertmode",
        "connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval",
        "keepalives_count", "tcp_user_timeout", "target_session_attrs", "load_balance_hosts",
        "channel_binding", "gssencmode", "krbsrvname", "require_auth", "application_name",
        "ssl_min_protocol_version", "ssl_max_protocol_version", "min_protocol_version",
        "max_protocol_version", "client_encoding", "requirepeer", "sslsni", "sslcompression",
    )
)  # fmt: skip
_PAIR: Final = re.compile(
    r"\s*(?P<key>[^\s=]+)\s*=\s*(?:'(?P<quoted>(?:[^'\\]|\\.)*)'|(?P<bare>(?:[^\s\\]|\\.)*))",
    re.DOTALL,
)
_URI: Final = "://"
_KEYWORD: Final = re.compile(
    rf"(?:^|\s)(?:{'|'.join(sorted(_HARMLESS | _SECRETS))})\s*=", re.IGNORECASE
)
_CREDENTIALS: Final = re.compile(r"[^\s:/@]*:[^\s/@]*@")


def parse(text: str) -> dict[str, str]:
    """Return the keywords and values of a URI or of a `key=value` string.

    Raises `ValueError` with a sentence that repeats nothing of the text.
    """
    if text.startswith(_SCHEMES):
        return _parse_uri(text.split("://", 1)[1])
    found: dict[str, str] = {}
    position = 0
    end = len(text.rstrip())
    while position < end:
        match = _PAIR.match(text, position)
        if match is None:
            raise ValueError("neither a URI nor `key=value` pairs")
        if match["quoted"] is None and match["bare"].startswith("'"):
            raise ValueError("a quote is never closed")
        value = match["bare"] if match["quoted"] is None else match["quoted"]
        found[match["key"]] = re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)
        position = match.end()
    return found


def has_password(text: str) -> bool:
    """Say whether the string holds a password, or cannot be understood well enough to tell."""
    try:
        found = parse(text)
    except ValueError:
        return True
    return _nested(found) or any(found.get(keyword) for keyword in _SECRETS - {"options"})


def is_nested(text: str) -> bool:
    """Say whether a value in it, such as `dbname`, is a connection string itself.

    libpq takes it for a name, and it may hold a password. Raises `ValueError` as `parse` does.
    """
    return _nested(parse(text))


def may_be_shown(text: str) -> bool:
    """Say whether every keyword in it is known to be harmless."""
    try:
        found = parse(text)
    except ValueError:
        return False
    strange = _nested(found) or any(map(_CREDENTIALS.search, found.values()))
    return found.keys() <= _HARMLESS and not strange


def add(text: str, parameters: Mapping[str, str]) -> str:
    """Return the string with these keywords set; they win over those it already has."""
    if not parameters:
        return text
    if text.startswith(_SCHEMES):
        added = "&".join(f"{key}={quote(value, safe='')}" for key, value in parameters.items())
        mark = _halves(text.split("://", 1)[1])[1]
        return f"{text}{'&' if mark else '?'}{added}"
    pairs = [f"{key}='{_escaped(value)}'" for key, value in parameters.items()]
    return " ".join([text, *pairs] if text.strip() else pairs)


def _nested(found: Mapping[str, str]) -> bool:
    values = (value for keyword, value in found.items() if keyword in _HARMLESS)
    return any(_URI in value or _KEYWORD.search(value) for value in values)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")


def _halves(rest: str) -> tuple[str, str, str]:
    """Split what follows the scheme at the `?` before the parameters: a password may hold one.

    For libpq credentials end at the first `@`, if no `/` stands before it.
    """
    at = rest.find("@")
    start = at if "/" not in rest[: max(at, 0)] else 0
    mark = rest.find("?", max(start, 0))
    return (rest, "", "") if mark < 0 else (rest[:mark], "?", rest[mark + 1 :])


def _parse_uri(rest: str) -> dict[str, str]:
    """Read what follows the scheme. The last `@` ends the credentials, to be on the safe side."""
    front, _, query = _halves(rest)
    credentials, _, place = front.rpartition("@")
    user, _, password = credentials.partition(":")
    hosts, _, dbname = place.partition("/")
    names: list[str] = []
    ports: list[str] = []
    for one in hosts.split(","):
        match = re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*)(?::([0-9]*))?", one)
        if match is None:
            raise ValueError("the host of the URI is not well formed")
        names.append(unquote(match[1].strip("[]")))
        ports.append(match[2] or "")
    found = {
        "user": unquote(user),
        "password": unquote(password),
        "host": ",".join(names),
        "port": ",".join(ports),
        "dbname": unquote(dbname),
    }
    found |= dict(parse_qsl(query, keep_blank_values=True))
    return {key: value for key, value in found.items() if value.strip(",")}
