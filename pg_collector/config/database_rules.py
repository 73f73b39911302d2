"""What no single key of a database can tell: its name, its connection, how it is logged in to."""

import importlib.util
import re
from collections.abc import Callable
from typing import Final, NamedTuple

from pg_collector.config import conninfo
from pg_collector.config.files import readable_by_everyone
from pg_collector.config.model import AuthMethod, Config
from pg_collector.config.problems import DEFAULT, Origin
from pg_collector.config.reading import Reading

CheckConnString = Callable[[str], str | None]
Fault = Callable[..., None]  # path, message, remedy, other paths

LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_REFERENCE: Final = re.compile(r"\$\{[^{}]*?(?::-(?P<default>[^{}]*))?\}")
_FILLER: Final = "00000000"  # digits fit wherever a reference may stand, a port included


class _Package(NamedTuple):
    """What an extra brings: the module that is imported, the package, the extra's name."""

    module: str
    name: str
    extra: str


_PACKAGES: Final = {
    AuthMethod.AWS_IAM: _Package("botocore", "botocore", "aws"),
    AuthMethod.GCP_IAM: _Package("google.auth", "google-auth", "gcp"),
    AuthMethod.AZURE_AD: _Package("azure.identity", "azure-identity", "azure"),
}


class DatabaseRules:
    """Judges the databases of a configuration whose values are each well formed."""

    def __init__(
        self,
        config: Config,
        reading: Reading,
        check_conn_string: CheckConnString | None,
        fault: Fault,
    ) -> None:
        """`fault` notes a violation; `warnings` gathers what is no violation."""
        self._config = config
        self._reading = reading
        self._check_conn_string = check_conn_string
        self._fault = fault
        self.warnings: list[str] = []

    def apply(self) -> None:
        """Judge all of them."""
        self._names()
        for number in range(len(self._config.databases)):
            self._connection(number)
            self._log_in(number)

    def _names(self) -> None:
        seen: dict[str, str] = {}
        for number, database in enumerate(self._config.databases):
            path = f"databases[{number}].name"
            if not self._reading.sound(path):
                continue
            if not _NAME.fullmatch(database.name):
                self._fault(
                    path,
                    "not usable as a name",
                    "write letters, digits, `.`, `_` and `-`, at most 63, the first no sign",
                )
            elif database.name.lower() in seen:  # directories may not tell cases apart
                first = self._reading.place(seen[database.name.lower()])
                self._fault(path, f"used before, at {first}", "give each database its own name")
            seen.setdefault(database.name.lower(), path)

    def _connection(self, number: int) -> None:
        path = f"databases[{number}].postgres.conn_string"
        postgres = self._config.databases[number].postgres
        if not self._reading.sound(path):
            return
        text = postgres.conn_string.reveal()
        try:
            conninfo.parse(text)
        except ValueError as error:
            self._fault(path, str(error), "write it as psql takes it: host=db1 dbname=postgres")
            return
        if conninfo.is_nested(text):
            self._fault(
                path, "holds a connection string in one of its values", "write that one alone"
            )
            return
        complaint = self._check_conn_string(text) if self._check_conn_string else None
        if complaint is not None:
            told = re.sub(r'"[^"]*"?', "(…)", complaint)  # libpq's repeat parts of the string
            self._fault(path, f"{told}", "try it with psql")
        if conninfo.has_password(text):
            if postgres.password is not None or postgres.password_file is not None:
                remedy = "keep one of them"
                self._fault(path, "a password here and another one beside it", remedy)
            else:
                self._password(path)
        self._sslmode(number, text)

    def _log_in(self, number: int) -> None:
        """Judge how a database is logged in to."""
        path = f"databases[{number}].postgres"
        postgres = self._config.databases[number].postgres
        origin = self._reading.place(f"{path}.password")
        if postgres.password is not None and origin not in {DEFAULT, Origin("--set")}:
            self._password(f"{path}.password")
        file = postgres.password_file
        mode = readable_by_everyone(file) if file is not None else None
        if file is not None and mode is not None and self._reading.sound(f"{path}.password_file"):
            self.warnings.append(
                f"{self._reading.place(f'{path}.password_file')}: {path}.password_file: every user "
                f"of this host may read {file} (mode {mode}): "
                f"{self._reading.closed(file, f'{path}.password_file')}"
            )
        package = _PACKAGES.get(postgres.auth_method)
        if package is not None and not _is_there(package.module):
            self._fault(
                f"{path}.auth_method",
                f"{postgres.auth_method} needs the package {package.name}, which is not installed",
                f"install it beside the agent: pip install 'pg-collector[{package.extra}]'",
            )

    def _sslmode(self, number: int, text: str) -> None:
        """Warn where somebody chose that the server need not prove who it is."""
        path = f"databases[{number}].postgres.conn_string"
        found = conninfo.parse(text)
        mode = self._config.databases[number].postgres.tls.mode
        if "sslmode" not in found and mode is not None:
            path, found = f"databases[{number}].postgres.tls.mode", {**found, "sslmode": mode.value}
        hosts = found.get("hostaddr") or found.get("host", "")
        near = all(host in LOOPBACK or host[:1] in {"", "/", "@"} for host in hosts.split(","))
        if found.get("sslmode", "verify-full") == "verify-full" or near:
            return
        self.warnings.append(
            f"{self._reading.place(path)}: sslmode={found['sslmode']}: whoever is on the way to "
            "the server can take its place; verify-full, the default, notices"
        )

    def _password(self, path: str) -> None:
        given = self._reading.given.get(path)
        origin = self._reading.place(path)
        outside = given is None or origin.source == "--set" or origin.source.startswith("env ")
        if given is not None and given.template and not self._literal(path, given.text or ""):
            outside = True
        remedy = "move it to password_file, or to libpq's password file"
        if outside or self._config.local.enabled:
            self.warnings.append(f"{origin}: the value of {path} holds a password; {remedy}")
        else:
            self._fault(path, "holds a password", remedy, "local.enabled")

    @staticmethod
    def _literal(path: str, template: str) -> bool:
        """Say whether the text as written, before `${…}` is replaced, holds a password."""
        if path.endswith(".password"):
            return bool(_REFERENCE.sub(lambda found: found["default"] or "", template).strip())
        return _literal_password(template)


def _literal_password(template: str) -> bool:
    """Say whether the text as written, before `${…}` is replaced, holds a password of its own."""
    filled = _REFERENCE.sub(lambda found: found["default"] or _FILLER, template)
    try:
        found = conninfo.parse(filled)
    except ValueError:
        return "password" in filled.lower() or "@" in filled
    return any(found.get(name, "").replace(_FILLER, "") for name in ("password", "sslpassword"))


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # of the package above it
        return False
