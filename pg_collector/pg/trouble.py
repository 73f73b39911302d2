"""What PostgreSQL's and libpq's complaints mean to the collector, in one table.

Sources: https://www.postgresql.org/docs/current/errcodes-appendix.html; libpq's own texts, which
are English in every locale (the process never sets LC_MESSAGES for it). A server's texts follow
its lc_messages, so they decide only where the SQLSTATE is unknown.
"""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

import psycopg

from pg_collector.config.model import AuthMethod
from pg_collector.errors import (
    USER_RAISED,
    LoginRefused,
    Reason,
    SamplerError,
    SamplerTimeout,
    SamplerUnavailable,
    TargetDown,
    TargetError,
    TargetRefused,
)

Scrub = Callable[[str], str]

# After these the columns or functions of this server are not what was read at the connection.
STALE = frozenset({"42703", "42P01", "42883", "0A000"})

POOLER_REMEDY = (
    "Connect to PostgreSQL directly (its own host and port, usually 5432): a pooler would hand "
    "this session's settings to the application or drop them, and hides who is connected"
)

_BUG = "This is a defect of the collector; please report it with this message"
_LIMIT = (
    "Free a place: ALTER ROLE ... CONNECTION LIMIT 2 or more per agent, a higher max_connections, "
    "or end a lost session; the agent itself never holds more than two"
)
_SLOW = (
    "If it lasts: is the server overloaded? Else raise postgres.query_timeout, or take this "
    "sampler more seldom (sampling)"
)
_STARTS = "Nothing to do while it starts or recovers; a standby answers with hot_standby = on only"
_WAY = "Is the host of {place} up? Check the way to it: routes, firewalls, security groups"
_ENDED = (
    "The server's log tells why it ended the connection; or something before it did, such as a "
    "load balancer without a server behind it"
)
_STRANGER = "What answers at {place} is no PostgreSQL: check host and port of conn_string"
_PRELOAD = "Add pg_stat_statements to the list in shared_preload_libraries; restart PostgreSQL"
_ENCODING = (
    "A text in another encoding stands in the way: name a database with the encoding UTF8 in "
    "conn_string; if it is one, forget the statements of those without an encoding: "
    "SELECT pg_stat_statements_reset(0, oid, 0) FROM pg_database"
    " WHERE pg_encoding_to_char(encoding) = 'SQL_ASCII'"
)
_NO_TLS = (
    "Switch TLS on in the server (ssl = on); or, where the network between is trusted, say "
    "sslmode=disable in conn_string"
)
_TLS = (
    "Check postgres.tls (mode, ca_file, cert_file, key_file) and the server's certificate: "
    "verify-full needs the name that conn_string uses, signed by an authority in ca_file"
)
_SERVER_EXPIRED = (
    "Renew the server's certificate (ssl_cert_file, then SELECT pg_reload_conf();); is this host's "
    "clock right?"
)
_SERVER_UNKNOWN = (
    "Name the file with the certificate of the server's authority: postgres.tls.ca_file"
)
_SERVER_REVOKED = "The server needs another certificate: postgres.tls.crl_file lists this one"
_SERVER_LIST = (
    "Renew the list in postgres.tls.crl_file; it needs one of every authority in the chain"
)
_SERVER_NAME = (
    "Write the name that the certificate has as host in conn_string (hostaddr may say where that "
    "is), or give the server a certificate for this name"
)
_OWN_MISSING = (
    "Set postgres.tls.cert_file and key_file: a certificate for {role}, signed by an authority in "
    "the server's ssl_ca_file"
)
_OWN_NAME = (
    "The common name of postgres.tls.cert_file has to be {role}, or a line in pg_ident.conf has to "
    "map it"
)
_OWN_RENEW = "Renew postgres.tls.cert_file and key_file; the next attempt reads them anew"
_OWN_UNKNOWN = "postgres.tls.cert_file has to be signed by an authority in the server's ssl_ca_file"


class Peer(NamedTuple):
    """With whom a session was wanted: words for messages and remedies."""

    target: str
    place: str  # "db1:5432", or the socket's directory
    role: str
    dbname: str
    method: AuthMethod = AuthMethod.AUTO


def _keep(text: str) -> str:
    return text


# --- a statement failed


def statement_failed(
    error: psycopg.Error, *, alive: bool, role: str = "", scrub: Scrub = _keep
) -> SamplerError | TargetError:
    """Return our error for a failed statement; `alive` says whether the session still stands."""
    code = error.sqlstate
    text = scrub(_primary(error))
    if not alive or _lost(code):
        remedy = _lost_remedy(code, text)
        return TargetDown(f"the session was lost: {text}", remedy=remedy, sqlstate=code)
    if code == "57014":
        return SamplerTimeout(
            f"the statement took too long: {text}",
            reason=Reason.TIMEOUT,
            sqlstate=code,
            remedy=_SLOW,
        )
    if code == "55P03":
        return SamplerTimeout(
            f"a lock was held: {text}",
            reason=Reason.LOCK,
            sqlstate=code,
            remedy="Nothing to do unless it lasts: DDL or VACUUM FULL holds the relation",
        )
    if (found := _unavailable(code, text, role)) is not None:
        reason, remedy = found
        return SamplerUnavailable(text, reason=reason, remedy=remedy, sqlstate=code)
    if code is None or code == "25006" or code.startswith(("42", "22", "08P")):
        return SamplerError(text, remedy=_BUG, sqlstate=code)
    return SamplerError(text, sqlstate=code)


def _unavailable(code: str | None, text: str, role: str) -> tuple[Reason, str] | None:
    if code == "42501":
        return Reason.PRIVILEGE, f"GRANT pg_monitor TO {_quoted(role)};" if role else ""
    # The setting's name is in the text whatever its language.
    if code in {"42704", "55000"} and _NOT_LOADED.search(text):
        return Reason.SETTING, _PRELOAD
    return _UNAVAILABLE.get(code or "")


_NOT_LOADED = re.compile(r"shared_preload_libraries|pg_stat_statements\.")
_UNAVAILABLE = {
    "42P01": (Reason.VERSION, ""),
    "42703": (Reason.VERSION, ""),
    "42883": (Reason.VERSION, ""),
    "0A000": (Reason.UNSUPPORTED, ""),
    "55000": (Reason.UNSUPPORTED, ""),
    "22021": (Reason.UNSUPPORTED, _ENCODING),
    "22P05": (Reason.UNSUPPORTED, _ENCODING),
}


def _lost(code: str | None) -> bool:
    return code is not None and (code in _LOST or (code.startswith("08") and code != "08P01"))


_LOST = {"57P01", "57P02", "57P03", "57P04", "57P05", "25P03", "25P04"}


def _lost_remedy(code: str | None, text: str) -> str:
    """Name the setting that ended a session. One found dead has only the server's words left."""
    for each, words, setting in _ENDED_BY:
        if code == each or (code is None and words in text):
            return f"The server's {setting} ended it: ALTER ROLE ... SET it to 0 for the role"
    return ""


_ENDED_BY = (
    ("57P05", "idle-session timeout", "idle_session_timeout"),
    ("25P04", "transaction timeout", "transaction_timeout"),
)


# --- a connection failed


def connection_failed(text: str, peer: Peer, *, scrub: Scrub = _keep) -> TargetError:
    """Return our error for libpq's account `text` of a failed attempt.

    Where the text carries a SQLSTATE (libpq's verbose form) that decides, else its words do;
    what nothing recognises is `TargetDown`.
    """
    code, text = _split(text)
    message = f"{peer.place}: {scrub(text)}"
    if code is not None:
        return _refusal(code, text, message, peer)
    for words, kind, remedy in _PHRASES:
        if words in text:
            return kind(message, remedy=_meant(remedy, peer))
    return TargetDown(message)


def _refusal(code: str, text: str, message: str, peer: Peer) -> TargetError:
    if "startup parameter" in text:  # a pooler's text, which is never translated
        return pooled(f"{message}, says a connection pooler", sqlstate=code)
    remedy = _REMEDIES.get(code, "")
    if code == "28000":  # one code for many reasons: take the words' remedy where they are English
        remedy = next((one for words, _, one in _PHRASES if words in text), _ROLE)
    remedy = _meant(remedy, peer)
    kind: type[TargetError] = TargetDown
    if code.startswith("28"):
        kind = LoginRefused
    elif code == "55P03":
        kind = TargetDown  # a lock on catalogs passes
    elif code.startswith(("3D", "22", "42", "0A", "55")) or code == "57P04":
        kind = TargetRefused
    return kind(message, remedy=remedy, sqlstate=code)


def pooled(message: str, *, sqlstate: str | None = None) -> TargetRefused:
    """Return the refusal of a target behind a connection pooler."""
    return TargetRefused(message, remedy=POOLER_REMEDY, sqlstate=sqlstate)


def _meant(remedy: str, peer: Peer) -> str:
    """Return a remedy with the names filled in; what is said of passwords may mean a token."""
    if remedy in {_PASSWORD, _ROLE}:
        remedy = _TOKEN.get(peer.method, remedy)
    return remedy.format(**_names(peer))


def _names(peer: Peer) -> dict[str, str]:
    return {
        "role": _quoted(peer.role),
        "literal": "'" + peer.role.replace("'", "''") + "'",
        "dbname": _quoted(peer.dbname),
        "place": peer.place,
    }


_HBA = (
    "Add to pg_hba.conf: hostssl {dbname} {role} <address of this host>/32 scram-sha-256, "
    "then SELECT pg_reload_conf();"
)
_PASSWORD = "Check the password of role {role}: postgres.password_file, or libpq's password file"  # noqa: S105
_TOKEN = {
    AuthMethod.AWS_IAM: (
        "GRANT rds_iam TO {role}; let the agent's AWS identity do rds-db:connect as {role}; name "
        "the server's own endpoint and port, no alias, as host; is this host's clock right?"
    ),
    AuthMethod.GCP_IAM: (
        "Set cloudsql.iam_authentication on the instance, add the identity as a user of it, give "
        "it roles/cloudsql.instanceUser; as user name it without .gserviceaccount.com"
    ),
    AuthMethod.AZURE_AD: (
        "As the Entra administrator, in the database postgres: SELECT * FROM "
        "pgaadauth_create_principal({literal}, false, false); the role has the identity's name"
    ),
}
_PEER = (
    "On a Unix socket role {role} must have the name of the account that the agent runs under, "
    "or a line in pg_ident.conf"
)
_ROLE = "CREATE ROLE {role} LOGIN; GRANT pg_monitor TO {role}; (pgc setup sql prints it all)"
_NOLOGIN = "ALTER ROLE {role} LOGIN;"
_DATABASE = "Name a database that exists and accepts connections; {dbname} does not"

_REMEDIES = {
    "28P01": _PASSWORD,
    "3D000": _DATABASE,
    "55000": _DATABASE,
    "42501": "GRANT CONNECT ON DATABASE {dbname} TO {role};",
    "53300": _LIMIT,
    "57P03": _STARTS,
    "42704": "Check `options` of conn_string and PGOPTIONS: the server knows no such setting",
    "22023": "Check `options` of conn_string and PGOPTIONS: the server refuses the value",
    "25006": "An event trigger on login writes: let it do nothing in a read-only transaction",
    "55P03": "Nothing to do unless it lasts: DDL or VACUUM FULL holds a catalog of {dbname}",
}

# Words of libpq itself, and those of an English server where the SQLSTATE could not be had.
_PHRASES: tuple[tuple[str, type[TargetError], str], ...] = (
    ("startup parameter", TargetRefused, POOLER_REMEDY),
    ("no password supplied", LoginRefused, _PASSWORD),
    ("password authentication failed", LoginRefused, _PASSWORD),
    ("no pg_hba.conf entry", TargetRefused, _HBA),
    ("pg_hba.conf rejects", TargetRefused, _HBA),
    ("Peer authentication failed", LoginRefused, _PEER),
    ("valid client certificate", LoginRefused, _OWN_MISSING),
    ("ertificate authentication failed", LoginRefused, _OWN_NAME),
    ("does not match host name", TargetRefused, _SERVER_NAME),
    ("failed (the server's certificate has expired", TargetRefused, _SERVER_EXPIRED),
    ("failed (the server's certificate is not valid yet", TargetRefused, _SERVER_EXPIRED),
    ("failed (the server's certificate is signed by", TargetRefused, _SERVER_UNKNOWN),
    ("failed (the server's certificate was revoked", TargetRefused, _SERVER_REVOKED),
    ("failed (the server's certificate cannot be looked up", TargetRefused, _SERVER_LIST),
    ("certificate verify failed", TargetRefused, _TLS),
    ("alert certificate expired", LoginRefused, _OWN_RENEW),
    ("alert certificate revoked", LoginRefused, _OWN_RENEW),
    ("alert unknown ca", LoginRefused, _OWN_UNKNOWN),
    ("root certificate file", TargetRefused, _TLS),
    ("sslrootcert", TargetRefused, _TLS),
    ("private key file", TargetRefused, _TLS),
    ("certificate file", TargetRefused, _TLS),
    ("key values mismatch", TargetRefused, _TLS),
    ("alert", TargetRefused, _TLS),
    ("server does not support SSL", TargetRefused, _NO_TLS),
    ("too many connections", TargetDown, _LIMIT),
    ("remaining connection slots", TargetDown, _LIMIT),
    ("expected authentication request", TargetRefused, _STRANGER),
    ("invalid response to SSL negotiation", TargetRefused, _STRANGER),
    ("uthentication", LoginRefused, _PASSWORD),
    ("channel binding", TargetRefused, _PASSWORD),
    ("is not permitted to log in", TargetRefused, _NOLOGIN),
    ("FATAL: role", TargetRefused, _ROLE),
    ("does not exist", TargetRefused, _DATABASE),
    ("Connection refused", TargetDown, "Is PostgreSQL running, and does it listen on {place}?"),
    ("No such file or directory", TargetDown, "Is PostgreSQL running? Its socket is missing"),
    ("No route to host", TargetDown, _WAY),
    ("etwork is unreachable", TargetDown, _WAY),
    ("Connection timed out", TargetDown, _WAY),
    ("closed the connection unexpectedly", TargetDown, _ENDED),
    ("Connection reset by peer", TargetDown, _ENDED),
    ("EOF detected", TargetDown, _ENDED),
)


# --- reading texts


_VERBOSE = re.compile(r":  ([0-9A-Z]{5}): ")
# What may quote values, the server's place in its source, and libpq's own guess at a remedy: ours
# stands beside.
_MORE = re.compile(
    r"\n(?:DETAIL|HINT|QUERY|CONTEXT|[A-Z]+ NAME|LOCATION|\s+Is the server running|"
    r"\s+This probably means).*",
    re.DOTALL,
)
_LOCATION = re.compile(r"\nLOCATION:  (\w+), ([\w.]+):")
# Where procedural languages hand on what a function said. The SQLSTATE is its choice as well.
_RAISING = frozenset({"exec_stmt_raise", "exec_stmt_assert"})
_QUOTING = frozenset({"22", "23", "38", "39", "XX"})  # classes whose messages quote values
_RAISING_FILES = frozenset({"plperl.c", "plpy_elog.c", "plpy_plpymodule.c", "pltcl.c"})


def _is_raised(function: str | None, file: str | None) -> bool:
    """Whether an error of this place in the server's source has a user's words for a message."""
    return function in _RAISING or file in _RAISING_FILES


def _split(text: str) -> tuple[str | None, str]:
    """Return the last SQLSTATE in libpq's verbose text, and the text without it."""
    found = _VERBOSE.findall(text)
    code = found[-1] if found else None
    places = _LOCATION.findall(text)
    # Nobody's code but a login trigger's has a context here.
    quotes = "\nCONTEXT:  " in text and (code == "42601" or (code or "")[:2] in _QUOTING)
    if quotes or (places and _is_raised(*places[-1])):
        return code, USER_RAISED
    text = _MORE.sub("", _VERBOSE.sub(": ", text)).strip()
    # libpq says first where it failed; `place` says that already.
    _, failed, rest = text.rpartition(" failed: ")
    if failed and text.startswith("connection to server"):
        text = rest
    return code, " ".join(text.split())


def _primary(error: psycopg.Error) -> str:
    if _is_raised(error.diag.source_function, error.diag.source_file):
        return USER_RAISED
    text = error.diag.message_primary or _MORE.sub("", str(error)) or type(error).__name__
    return " ".join(text.split())


def _quoted(name: str) -> str:
    if re.fullmatch(r"[a-z_][a-z0-9_]*", name):
        return name
    return '"' + name.replace('"', '""') + '"'


# --- secrets


_URI_PASSWORD = re.compile(r"(\w+://[^\s:/@]*):[^\s@]*@")
_KEYWORD = re.compile(
    r"((?:ssl|oauth_client_)?(?:password|secret|passwd|pwd)\s*=\s*)('(?:[^'\\]|\\.)*'?|[^\s&]+)",
    re.IGNORECASE,
)


def scrubber(secrets: Iterable[str] = ()) -> Scrub:
    """Return a function that replaces these secrets, and whatever looks like one, by `***`.

    Looks like one: the password of a URI, and the value of a `password=` of any spelling.
    """
    known = sorted({secret for secret in secrets if secret}, key=len, reverse=True)
    literal = re.compile("|".join(map(re.escape, known))) if known else None

    def scrub(text: str) -> str:
        if literal is not None:
            text = literal.sub("***", text)
        return _KEYWORD.sub(r"\1***", _URI_PASSWORD.sub(r"\1:***@", text))

    return scrub
