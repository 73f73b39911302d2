"""What no single key can tell: values that contradict each other, or ask for what is not there."""

import ipaddress
import re
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

from pg_collector.config import certificates, listening, named_files, proxy
from pg_collector.config.database_rules import LOOPBACK, CheckConnString, DatabaseRules
from pg_collector.config.files import Unreadable, is_place, readable_by_everyone
from pg_collector.config.model import Config, Database, MaskingLevel
from pg_collector.config.problems import DEFAULT, Origin
from pg_collector.config.reading import Reading
from pg_collector.errors import ConfigurationError
from pg_collector.privacy.names import Patterns

# Keys whose other values this version cannot serve yet. Delete a line when its part is built.
# `*` stands for every database; None: nothing but the default; else the values that are refused.
NOT_YET: Final[tuple[tuple[str, frozenset[Any] | None], ...]] = (
    ("sampling.jitter", None),
    ("sampling.query_text_max", None),
)


_MOST_TAGS: Final = 32
_LONGEST_TAG: Final = 64


class Rules:
    """Judges a configuration whose values are each well formed."""

    def __init__(
        self,
        config: Config,
        reading: Reading,
        check_conn_string: CheckConnString | None,
        *,
        of_another: bool = False,
    ) -> None:
        """`of_another`: of an agent that another user runs, who may use other files than this."""
        self._config = config
        self._reading = reading
        self._check_conn_string = check_conn_string
        self._of_another = of_another
        self.warnings: list[str] = []

    def apply(self) -> None:
        """Note every violation with the reading, and gather warnings."""
        databases = DatabaseRules(self._config, self._reading, self._check_conn_string, self._fault)
        databases.apply()
        self.warnings += databases.warnings
        self._pairs()
        self._platform()
        self._http()
        self._masking()
        self._tags()
        self._not_yet()
        self._secrets_on_flags()
        self._files()

    def _fault(self, path: str, message: str, remedy: str, *others: str) -> None:
        if self._reading.sound(path, *others):
            places = [self._reading.place(one) for one in (path, *others)]
            given = [place for place in places if place != DEFAULT]
            self._reading.fault(given[0] if given else DEFAULT, path, message, remedy)

    def _tags(self) -> None:
        path, keys = "security.keep_query_tags", self._config.security.keep_query_tags
        if len(keys) > _MOST_TAGS:
            self._fault(path, f"{len(keys)} keys", f"keep {_MOST_TAGS} at most")
        for number, key in enumerate(keys):
            if not key or len(key) > _LONGEST_TAG or not key.isprintable():
                self._fault(
                    f"{path}[{number}]",
                    "no key of a tag",
                    f"write it as the application does, decoded, at most {_LONGEST_TAG} characters",
                )

    def _masking(self) -> None:
        security = self._config.security
        path, level = "security.masking_patterns", "security.query_masking_level"
        try:
            Patterns(security.masking_patterns, tried=False)
        except ConfigurationError as error:
            self._fault(path, str(error), error.remedy)
            return
        custom = security.query_masking_level is MaskingLevel.CUSTOM
        if security.masking_patterns and not custom:
            self._fault(path, "they are of the level custom only", f"set {level}: custom", level)
        if custom and not security.masking_patterns:
            self._fault(level, "without patterns", f"say what to hide: {path}: [ssn, salary]", path)
        if security.query_masking_level is MaskingLevel.NONE:
            self.warnings.append(
                f"{self._reading.place(level)}: texts leave the host as they are, but for "
                "credentials; basic masks them"
            )

    def _pairs(self) -> None:
        paths = ["http.tls", "platform.client_cert"]
        paths += [f"databases[{n}].postgres.tls" for n in range(len(self._config.databases))]
        for path in paths:
            section = _at(self._config, path)
            given = [name for name in ("cert_file", "key_file") if getattr(section, name)]
            if len(given) == 1:
                other = "key_file" if given[0] == "cert_file" else "cert_file"
                self._fault(
                    f"{path}.{given[0]}", f"without {other}", f"set {other}, too", f"{path}.{other}"
                )

    def _platform(self) -> None:
        config = self._config
        if config.api_key is not None:
            key = config.api_key.reveal()
            if not key.isascii() or any(char.isspace() for char in key):
                self._fault("api_key", "holds blanks or letters that no key has", "copy it again")
            if config.local.enabled:
                self._fault(
                    "local.enabled", "not together with an api_key", "choose one", "api_key"
                )
            if config.platform.url is None:
                self._fault("platform.url", "missing", "an api_key needs it", "api_key")
        if config.platform.url is not None:
            self._url("platform.url", config.platform.url)
        if config.platform.proxy is not None:
            try:
                proxy.parse(config.platform.proxy.reveal())
            except ValueError as error:
                self._fault("platform.proxy", str(error), "write http://host:3128")
        timeout = config.platform.timeout
        if timeout.connect > timeout.total:
            self._fault(
                "platform.timeout.connect",
                "longer than the whole request may take",
                "make it shorter than platform.timeout.total",
                "platform.timeout.total",
            )

    def _url(self, path: str, url: str) -> None:
        try:
            parts = urlsplit(url)
            host, port, user = parts.hostname, parts.port, parts.username
        except ValueError:
            host, port, user, parts = None, None, None, urlsplit("")
        if parts.scheme not in ("http", "https") or not host or port == 0:
            self._fault(path, "not an address", "write https://host/path")
        elif user is not None or parts.password is not None:
            self._fault(path, "holds a user or password", "the api_key says who asks")
        elif parts.scheme == "http" and host not in LOOPBACK:
            self._fault(path, "not encrypted", "write https://")

    def _http(self) -> None:
        address = self._config.http.address
        if address != "off":
            try:
                listening.parse(address)
            except ValueError:
                self._fault(
                    "http.address", "not an address", "write host:port, :port for every one, or off"
                )
        lists = (
            ("http.trusted_proxies", self._config.http.trusted_proxies),
            ("security.ip_allowlist.allowlist", self._config.security.ip_allowlist.allowlist),
        )
        for path, networks in lists:
            for number, network in enumerate(networks):
                if not _is_network(network):
                    self._fault(
                        f"{path}[{number}]", "not a network", "write 10.0.0.0/8 or 192.0.2.7"
                    )

        path, allowlist = "security.ip_allowlist", self._config.security.ip_allowlist
        if allowlist.enabled and not allowlist.allowlist:
            self._fault(
                f"{path}.enabled", "without a list nobody is let in",
                f"name who may ask: {path}.allowlist: [127.0.0.1, ::1, 10.0.0.0/8]",
                f"{path}.allowlist",
            )  # fmt: skip
        elif allowlist.allowlist and not allowlist.enabled:
            self.warnings.append(
                f"{self._reading.place(f'{path}.allowlist')}: everybody is let in: {path}.enabled "
                "is off"
            )

    def _not_yet(self) -> None:
        for pattern, refused in NOT_YET:
            for path, value, default in _found(self._config, pattern):
                if value == default if refused is None else value not in refused:
                    continue
                choice = f" ({value})" if refused is not None else ""
                self._fault(
                    path, f"not available in this version{choice}", "leave it at its default"
                )

    def _files(self) -> None:
        for path, error in named_files.complaints(self._config):
            if self._of_another:
                why = str(error) if is_place(error.path) else "this user may not use it"
                self.warnings.append(f"{self._reading.place(path)}: {path}: {why}")
            elif self._reading.sound(path):
                self._reading.refuse_file(error, self._reading.place(path), path)
        if self._of_another:
            return
        http = self._config.http
        secret = {"http.token_file": http.token_file, "http.tls.key_file": http.tls.key_file}
        for path, file in secret.items():
            mode = readable_by_everyone(file) if file and self._reading.sound(path) else None
            if file is not None and mode is not None:
                self.warnings.append(
                    f"{self._reading.place(path)}: {path}: every user of this host may read "
                    f"{file} (mode {mode}): {self._reading.closed(file, path)}"
                )
        pair = ("http.tls.cert_file", "http.tls.key_file")
        if http.tls.cert_file and http.tls.key_file and self._reading.sound(*pair):
            try:
                certificates.server_context(http.tls.cert_file, http.tls.key_file)
            except Unreadable as error:
                self._reading.refuse_file(error, self._reading.place(pair[0]), pair[0])

    def _secrets_on_flags(self) -> None:
        for path in self._reading.given:
            if self._reading.place(path) == Origin("--set"):
                self.warnings.append(
                    f"--set {path} shows it: every user of this host can see it; use {path}_file"
                )


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _found(config: Config, pattern: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield path, value and default of each key that the pattern names."""
    head, _, rest = pattern.partition(".*.")
    if not rest:
        yield pattern, _at(config, pattern), _at(_BLANK, pattern)
        return
    for number in range(len(_at(config, head))):
        path = f"{head}[{number}].{rest}"
        yield path, _at(config, path), _at(_BLANK, f"{head}[0].{rest}")


def _at(config: Config, path: str) -> Any:
    value: Any = config
    for part in re.findall(r"[^.\[\]]+", path):
        value = value[int(part)] if part.isdigit() else getattr(value, part)
    return value


_BLANK: Final = Config(databases=(Database(name="blank"),))
