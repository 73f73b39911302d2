"""What libpq is told of TLS, and what is refused before it is asked.

https://www.postgresql.org/docs/current/libpq-ssl.html
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pg_collector.config.model import AuthMethod, Postgres, Tls
from pg_collector.errors import ConfigurationError
from pg_collector.pg.auth.login import TOKENS
from pg_collector.trust import system_bundle

_ENCRYPTED: Final = ("require", "verify-ca", "verify-full")
_OUTDATED: Final = ("tlsv1", "tlsv1.0", "tlsv1.1")


def parameters(tls: Tls, own: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters for hosts that are no Unix sockets.

    `own` are those of the connection string, `values` what libpq made of them. Raises
    `ConfigurationError` where authorities are wanted and there are none.
    """
    params = {name: value for name, value in values.items() if name.startswith("ssl")}
    params["sslmode"] = _mode(tls, own, values)
    root = own.get("sslrootcert") or (tls.ca_file if tls.ca_file != "system" else None)
    root = root or values.get("sslrootcert")
    if root is None and default_file("root.crt") is not None:
        pass  # libpq's own default, as for psql
    elif root in {None, "system"}:
        params.pop("sslrootcert", None)
        if params["sslmode"].startswith("verify"):  # with `require` it would verify as well
            params["sslrootcert"] = _bundle()
    else:
        params["sslrootcert"] = str(root)
    files = (("sslcert", tls.cert_file), ("sslkey", tls.key_file), ("sslcrl", tls.crl_file))
    for name, path in files:
        if path is not None and name not in own:
            params[name] = str(path)
    return params


def refuse_weak(target: str, postgres: Postgres, tls: Mapping[str, str]) -> None:
    """Refuse what would show a token to whoever listens, or protects as good as not.

    Raises `ConfigurationError`.
    """
    method = postgres.auth_method
    if postgres.tls.crl_file is not None and not _verifies(tls):
        raise ConfigurationError(
            f"{target}: postgres.tls.crl_file would be passed over: sslmode={tls['sslmode']} does "
            "not verify the server",
            remedy="Leave sslmode out (verify-full is the default), or crl_file",
        )
    if method in TOKENS and tls["sslmode"] not in _ENCRYPTED:
        raise ConfigurationError(
            f"{target}: auth_method {method} sends a token that lets in whoever has it, and "
            f"sslmode={tls['sslmode']} would send it in the clear",
            remedy="Leave sslmode out: verify-full is the default",
        )
    least = tls.get("ssl_min_protocol_version", "")
    if least.lower() in _OUTDATED:
        raise ConfigurationError(
            f"{target}: ssl_min_protocol_version={least}: less than TLS 1.2 is not spoken",
            remedy="Leave ssl_min_protocol_version out",
        )


def certificate(postgres: Postgres, tls: Mapping[str, str]) -> Path | None:
    """Return the client certificate that has to be there; others libpq may pass over.

    Users point PGSSLCERT to nowhere so that a default that they may not read is not looked for.
    """
    named = tls.get("sslcert")
    if postgres.auth_method is AuthMethod.CERT:
        return Path(named) if named else default_file("postgresql.crt")
    return Path(named) if named and named == str(postgres.tls.cert_file) else None


def default_file(name: str) -> Path | None:
    """Return a file of libpq's own folder if it is there.

    https://www.postgresql.org/docs/current/libpq-ssl.html
    """
    folder = home()
    path = folder / ".postgresql" / name if folder is not None else None
    # `Path.exists` would raise where the folder may not be entered.
    return path if path is not None and os.path.exists(path) else None  # noqa: PTH110


def home() -> Path | None:
    """Return the home directory of this user, if one is known."""
    try:
        return Path.home()
    except RuntimeError:  # a user whom nobody knows
        return None


def _verifies(tls: Mapping[str, str]) -> bool:
    """Say whether libpq looks at the server's certificate: `require` does with an authority."""
    if tls["sslmode"].startswith("verify"):
        return True
    root = "sslrootcert" in tls or default_file("root.crt") is not None
    return tls["sslmode"] == "require" and root


def _mode(tls: Tls, own: Mapping[str, str], values: Mapping[str, str]) -> str:
    if "sslmode" in own:
        return own["sslmode"]
    if tls.mode is not None:
        return tls.mode.value
    # `prefer` is libpq's default; only the environment shows whether somebody chose it.
    if "PGSSLMODE" in os.environ or values["sslmode"] != "prefer":
        return values["sslmode"]
    return "verify-full"


def _bundle() -> str:
    bundle = system_bundle()
    if bundle is None:
        raise ConfigurationError(
            "postgres.tls.ca_file: no bundle of certificate authorities on this system",
            remedy="Install ca-certificates, or name a file",
        )
    return str(bundle)
